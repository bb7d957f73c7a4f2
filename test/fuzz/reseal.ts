// Makes changed bytes of a log pass its checks again: entries, frames, chain, segment headers. A parser that is only ever given
// wrong checksums is not tested.

import { crc32c } from '../../src/base/index.js';
import {
  ENTRY_MAGIC,
  FRAME_HEADER_SIZE,
  FRAME_MAGIC,
  finishEntry,
  frameDigest,
  SEGMENT_HEADER_SIZE,
  SEGMENT_MAGIC,
} from '../../src/format/index.js';

export interface Reseal {
  readonly entries: boolean;
  readonly frames: boolean;
  /** Each frame names the digest of the one before it, as that now is. */
  readonly chain: boolean;
}

/** `bytes`: a segment from its header on. Stops where nothing looks like a frame any more. */
export function resealSegment(bytes: Buffer, how: Reseal): Buffer {
  if (bytes.length < SEGMENT_HEADER_SIZE || bytes.readUInt32LE(0) !== SEGMENT_MAGIC) return bytes;
  resealSegmentHeader(bytes);
  resealFrames(bytes, SEGMENT_HEADER_SIZE, how, null);
  return bytes;
}

export function resealSegmentHeader(bytes: Buffer): void {
  bytes.writeUInt32LE(0, 8);
  bytes.writeUInt32LE(crc32c(bytes.subarray(0, SEGMENT_HEADER_SIZE)), 8);
}

/** Returns the digest of the last frame. */
export function resealFrames(bytes: Buffer, from: number, how: Reseal, before: Buffer | null): Buffer | null {
  let digest = before;
  for (let at = from; at + FRAME_HEADER_SIZE <= bytes.length; ) {
    if (bytes.readUInt32LE(at) !== FRAME_MAGIC) return digest;
    const length = FRAME_HEADER_SIZE + bytes.readUInt32LE(at + 16);
    const end = Math.min(at + length, bytes.length);
    if (how.entries) resealEntries(bytes, at + FRAME_HEADER_SIZE, end);
    if (how.chain && digest !== null) digest.copy(bytes, at + 80);
    if (how.frames) {
      bytes.writeUInt32LE(crc32c(bytes.subarray(at + FRAME_HEADER_SIZE, end)), at + 12);
      bytes.writeUInt32LE(0, at + 8);
      bytes.writeUInt32LE(crc32c(bytes.subarray(at, at + FRAME_HEADER_SIZE)), at + 8);
    }
    digest = Buffer.from(frameDigest(bytes, at));
    at += Math.max(64, length);
  }
  return digest;
}

function resealEntries(bytes: Buffer, from: number, end: number): void {
  for (let at = from; at + 16 <= end; ) {
    const length = bytes.readUInt32LE(at + 8);
    if (bytes.readUInt32LE(at) === ENTRY_MAGIC && length >= 16 && at + length <= end) finishEntry(bytes, at, length);
    at += Math.max(64, Math.ceil(Math.min(length, end) / 64) * 64);
  }
}
