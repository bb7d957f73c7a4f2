// A replica's superblock: what the replica says about itself and its volume. Two slots, written alternately; the valid one
// with the higher generation counts, so a torn write loses at most the newest update. Layout: FORMAT.md, "Superblock".

import {
  crc32c,
  HoldfastError,
  type IncarnationId,
  type LineageId,
  type NodeId,
  type PoolId,
  type ReplicaId,
  type VolumeId,
} from '../base/index.js';
import { FORMAT_VERSION, isFormatRead, SUPERBLOCK_MAGIC } from './constants.js';
import type { Member } from './control-entry.js';
import { FieldReader } from './field-reader.js';
import { readSafe, writeSafe } from './frame.js';
import type { Reign, SegmentName } from './segment.js';

/** A point of the log: the frame `seq` with its digest (hex). */
export interface LogPoint {
  readonly epoch: number;
  readonly seq: number;
  readonly digest: string;
}

/** Where a checkpoint's root entry lies, and from which frame the log must be replayed over it. */
export interface CheckpointPlace {
  /** The map holds the effect of every frame up to and including this one. */
  readonly coveredThrough: number;
  readonly segment: SegmentName;
  /** Byte offset of the frame that carries the root entry. */
  readonly frameOffset: number;
  /** First frame to replay: its segment and offset. */
  readonly replayFrom: { readonly segment: SegmentName; readonly offset: number };
}

/** The wrapped data key of an encrypted volume; opaque to the store. */
export interface WrappedKey {
  readonly cipher: string;
  /** Names the key that wrapped it, so that a wrong one is told apart from a damaged blob. */
  readonly wrappedBy: string;
  /** base64 */
  readonly blob: string;
}

export interface Superblock {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly replicaId: ReplicaId;
  readonly incarnationId: IncarnationId;
  readonly poolId: PoolId;
  readonly nodeId: NodeId;
  readonly sizeBytes: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly wrappedKey: WrappedKey | null;
  /** The highest reign this replica promised; it refuses every lower one. */
  readonly promised: Reign;
  /** Every reign that wrote into this log, oldest first; records name their epoch, this gives its id. */
  readonly reigns: readonly Reign[];
  readonly setVersion: number;
  readonly members: readonly Member[];
  /** Highest point known durable on all in-sync replicas. Null before the first flush. */
  readonly flushed: LogPoint | null;
  readonly checkpoint: CheckpointPlace | null;
  readonly previousCheckpoint: CheckpointPlace | null;
  /** True from the start of a catch-up to its end: a replica so marked is never a source. */
  readonly joining: boolean;
  /** A volume to be deleted: the directory goes as soon as nothing holds it. */
  readonly retired: boolean;
  /** Boot id and mount instance under which bytes were last accepted: proof that the page cache survived. */
  readonly cache: { readonly bootId: string; readonly mountId: string } | null;
}

const reader = new FieldReader((what) => new Error(what));

const HEADER = 32;
/** Bytes of one slot file, header included. */
export const SUPERBLOCK_SIZE_MAX = 4 * 1024 * 1024;

export function encodeSuperblock(superblock: Superblock, generation: number): Buffer {
  const payload = Buffer.from(JSON.stringify(superblock), 'utf8');
  const bytes = Buffer.alloc(HEADER + payload.length);
  if (bytes.length > SUPERBLOCK_SIZE_MAX) {
    throw new HoldfastError(
      'RESOURCE_EXHAUSTED',
      `superblock of volume ${superblock.volumeId} needs ${bytes.length} bytes, at most ${SUPERBLOCK_SIZE_MAX}`,
    );
  }
  bytes.writeUInt32LE(SUPERBLOCK_MAGIC, 0);
  bytes.writeUInt16LE(FORMAT_VERSION, 4);
  writeSafe(bytes, generation, 16);
  bytes.writeUInt32LE(payload.length, 24);
  payload.copy(bytes, HEADER);
  bytes.writeUInt32LE(crc32c(bytes.subarray(12)), 8);
  return bytes;
}

export type SuperblockFault = 'blank' | 'short' | 'magic' | 'version' | 'checksum' | 'content';

/** The format's version that a slot is of, if it is one. */
export function superblockVersion(bytes: Buffer): number {
  return bytes.readUInt16LE(4);
}

/** Returns the fault's name instead of throwing: one bad slot of two is normal after a crash. */
export function decodeSuperblock(bytes: Buffer): { superblock: Superblock; generation: number } | SuperblockFault {
  if (bytes.length === 0) return 'blank';
  if (bytes.length < HEADER) return 'short';
  if (bytes.readUInt32LE(0) !== SUPERBLOCK_MAGIC) return bytes.every((byte) => byte === 0) ? 'blank' : 'magic';
  const length = bytes.readUInt32LE(24);
  if (length > SUPERBLOCK_SIZE_MAX - HEADER || bytes.length < HEADER + length) return 'short';
  if (crc32c(bytes.subarray(12, HEADER + length)) !== bytes.readUInt32LE(8)) return 'checksum';
  if (!isFormatRead(superblockVersion(bytes))) return 'version';
  try {
    const superblock = reader.superblock(JSON.parse(bytes.toString('utf8', HEADER, HEADER + length)));
    return { superblock, generation: readSafe(bytes, 16) };
  } catch {
    return 'content';
  }
}
