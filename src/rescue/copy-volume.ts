// Copies a volume, or one of its snapshots, into a sink: data as far as it can be read and verified, the exact ranges of what can't.
// Memory: one piece of data, whatever the volume's size.

import { BLOCK_SIZE, HoldfastError, MiB } from '../base/index.js';
import type { VolumeReader } from '../engine/index.js';

const PIECE = 1 * MiB;

/** Where the bytes go, ascending; what is not given is zeroes. Memory may be used again once the promise has resolved. */
export interface Sink {
  write(bytes: Buffer, offset: number): Promise<void>;
  /** Everything was given. The volume ends here. */
  end(sizeBytes: number): Promise<void>;
}

/** Byte ranges that no replica has intact, ascending and merged. */
export type OnUnreadable = (offset: number, length: number) => void;

export interface Copied {
  readonly sizeBytes: number;
  readonly dataBytes: number;
  readonly unreadableBytes: number;
  readonly unreadableRanges: number;
}

/** `sizeBytes`: where the volume ends; the reader may know less of it. Rejects with CANCELLED when `signal` aborts. */
export async function copyVolume(
  reader: VolumeReader,
  sizeBytes: number,
  sink: Sink,
  onUnreadable: OnUnreadable,
  signal: AbortSignal,
): Promise<Copied> {
  const bad = new MergedRanges(onUnreadable, sizeBytes);
  const memory = Buffer.alloc(PIECE);
  let dataBytes = 0;
  for await (const page of reader.pages()) {
    if (signal.aborted) throw new HoldfastError('CANCELLED', 'interrupted before all of the volume was read');
    if (page.mapped instanceof Error) {
      bad.add(page.block * BLOCK_SIZE, page.count * BLOCK_SIZE);
      continue;
    }
    for (const [block, count] of page.mapped) {
      const end = (block + count) * BLOCK_SIZE;
      for (let at = block * BLOCK_SIZE; at < end; at += PIECE) {
        const piece = memory.subarray(0, Math.min(PIECE, end - at));
        dataBytes += await copyPiece(reader, sink, bad, piece, at);
      }
    }
  }
  bad.end();
  await sink.end(sizeBytes);
  return { sizeBytes, dataBytes, unreadableBytes: bad.bytes, unreadableRanges: bad.ranges };
}

/** A piece that can't be read as a whole is read block by block. */
async function copyPiece(
  reader: VolumeReader,
  sink: Sink,
  bad: MergedRanges,
  piece: Buffer,
  offset: number,
): Promise<number> {
  // The last block of a volume may be a part of one.
  const fitting = (bytes: Buffer, at: number) => bytes.subarray(0, Math.min(bytes.length, reader.sizeBytes - at));
  if (await reader.read(offset, piece)) {
    const bytes = fitting(piece, offset);
    await sink.write(bytes, offset);
    return bytes.length;
  }
  let copied = 0;
  for (let within = 0; within < piece.length; within += BLOCK_SIZE) {
    const block = piece.subarray(within, within + BLOCK_SIZE);
    const at = offset + within;
    if (!(await reader.read(at, block))) {
      bad.add(at, BLOCK_SIZE);
      continue;
    }
    const bytes = fitting(block, at);
    await sink.write(bytes, at);
    copied += bytes.length;
  }
  return copied;
}

class MergedRanges {
  ranges = 0;
  bytes = 0;
  readonly #tell: OnUnreadable;
  readonly #most: number;
  #from = 0;
  #to = 0;

  constructor(tell: OnUnreadable, most: number) {
    this.#tell = tell;
    this.#most = most;
  }

  add(offset: number, length: number): void {
    const to = Math.min(offset + length, this.#most);
    if (offset !== this.#to || this.#from === this.#to) {
      this.end();
      this.#from = offset;
    }
    this.#to = to;
  }

  end(): void {
    if (this.#to === this.#from) return;
    this.ranges++;
    this.bytes += this.#to - this.#from;
    this.#tell(this.#from, this.#to - this.#from);
    this.#from = this.#to;
  }
}
