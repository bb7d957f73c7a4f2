// Fills a volume whose pool is smaller than it until a write fails, with several writes under way, and knows afterwards which
// pieces a flush had covered: these must be there, byte for byte.

import { BLOCK_SIZE, KiB } from '../../src/base/index.js';
import { BlockRequestError, type NbdClient } from '../../src/nbd/index.js';
import { seeded } from '../micro/sample-data.js';

export const PIECE = 64 * KiB;
const PARALLEL = 8;
/** Pieces between two flushes. */
const FLUSH_EVERY = 64;

/** The part of NbdClient that is used here. */
export type PieceDevice = Pick<NbdClient, 'write' | 'read' | 'flush'>;

export interface FilledPool {
  /** What stopped it: the device's word for it, or 'nothing' when the volume was written in full. */
  readonly error: string;
  readonly acknowledged: number;
  /** Numbers of the pieces that a flush which succeeded had covered. */
  readonly flushed: ReadonlySet<number>;
}

/** The content of a piece: random, so that nothing of it compresses, and different in each block. */
export function pieceBytes(piece: number): Buffer {
  const next = seeded(piece + 1);
  const bytes = Buffer.allocUnsafe(PIECE);
  for (let at = 0; at < PIECE; at += 4) bytes.writeUInt32LE(next(), at);
  for (let at = 0; at < PIECE; at += BLOCK_SIZE) bytes.writeUInt32LE(piece, at);
  return bytes;
}

export async function fillUntilFull(device: PieceDevice, sizeBytes: number): Promise<FilledPool> {
  const flushed = new Set<number>();
  const waiting: number[] = [];
  const pieces = Math.floor(sizeBytes / PIECE);
  let next = 0;
  let error = '';
  const attempt = async (work: () => Promise<void>): Promise<boolean> => {
    try {
      await work();
      return true;
    } catch (failure) {
      if (!(failure instanceof BlockRequestError)) throw failure;
      error ||= failure.blockError;
      return false;
    }
  };
  let acknowledged = 0;
  const writer = async (): Promise<void> => {
    while (next < pieces && error === '') {
      const piece = next++;
      if (!(await attempt(() => device.write(piece * PIECE, pieceBytes(piece))))) return;
      acknowledged++;
      waiting.push(piece);
      if (waiting.length < FLUSH_EVERY) continue;
      // Only what was acknowledged before the flush was sent is covered by it.
      const covered = waiting.splice(0);
      if (await attempt(() => device.flush())) for (const one of covered) flushed.add(one);
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, writer));
  return { error: error || 'nothing', acknowledged, flushed };
}

/** '' when every piece holds what was written, else a sentence about the first that does not. */
export async function checkPieces(device: PieceDevice, pieces: ReadonlySet<number>): Promise<string> {
  for (const piece of pieces) {
    const found = await device.read(piece * PIECE, PIECE);
    if (!found.equals(pieceBytes(piece)))
      return `piece ${piece}, which was flushed, holds other bytes than were written`;
  }
  return '';
}
