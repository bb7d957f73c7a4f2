// A frame: what the engine sends at once, the unit of ordering and acknowledgement. 128 bytes of header, then entries.
// Layout: FORMAT.md, "Frame". Encoding writes into the engine's buffer; decoding checks everything a replica can check.

import { hash } from 'node:crypto';
import { corrupt, crc32c, uuidFromBytes, uuidToBytes, type VolumeId } from '../base/index.js';
import {
  DIGEST_SIZE,
  FORMAT_VERSION,
  FRAME_HEADER_SIZE,
  FRAME_MAGIC,
  FRAME_SIZE_MAX,
  isFormatRead,
} from './constants.js';

export interface FrameHeader {
  /** Bit 0: the mac is set (a keyed engine wrote it). Bit 1: the last frame of a sealed segment (ends in an index). */
  readonly flags: number;
  /** Bytes of entries after the header, a multiple of 64. */
  readonly bodyLength: number;
  readonly bodyChecksum: number;
  readonly entryCount: number;
  readonly epoch: number;
  readonly seq: number;
  /** Highest seq known appended on every in-sync replica / known durable on every in-sync replica. */
  readonly committedThrough: number;
  readonly flushedThrough: number;
  /** Where the frame says it lies: a write that went elsewhere does not verify. */
  readonly ordinal: number;
  readonly offset: number;
  readonly volumeId: VolumeId;
}

export const FRAME_FLAG_MAC = 1;
export const FRAME_FLAG_SEALS = 2;
/** Byte positions a sealer fills itself. */
export const FRAME_MAC_AT = 96;
export const FRAME_MAC_SIZE = 16;

/**
 * Writes the header at `at`; the body must already stand behind it and the mac, if any, at FRAME_MAC_AT. A body checksum that is
 * already known may be given. Returns the body checksum.
 */
export function encodeFrameHeader(
  bytes: Buffer,
  at: number,
  header: Omit<FrameHeader, 'bodyChecksum'>,
  previousDigest: Buffer,
  known?: number,
): number {
  bytes.writeUInt32LE(FRAME_MAGIC, at);
  bytes.writeUInt16LE(FORMAT_VERSION, at + 4);
  bytes.writeUInt16LE(header.flags, at + 6);
  bytes.writeUInt32LE(0, at + 8);
  const bodyChecksum =
    known ?? crc32c(bytes.subarray(at + FRAME_HEADER_SIZE, at + FRAME_HEADER_SIZE + header.bodyLength));
  bytes.writeUInt32LE(bodyChecksum, at + 12);
  bytes.writeUInt32LE(header.bodyLength, at + 16);
  bytes.writeUInt32LE(header.entryCount, at + 20);
  writeSafe(bytes, header.epoch, at + 24);
  writeSafe(bytes, header.seq, at + 32);
  writeSafe(bytes, header.committedThrough, at + 40);
  writeSafe(bytes, header.flushedThrough, at + 48);
  bytes.writeUInt32LE(header.ordinal, at + 56);
  bytes.writeUInt32LE(header.offset / 64, at + 60);
  uuidToBytes(header.volumeId, bytes, at + 64);
  previousDigest.copy(bytes, at + 80, 0, DIGEST_SIZE);
  if ((header.flags & FRAME_FLAG_MAC) === 0) bytes.fill(0, at + FRAME_MAC_AT, at + FRAME_MAC_AT + FRAME_MAC_SIZE);
  bytes.fill(0, at + 112, at + FRAME_HEADER_SIZE);
  bytes.writeUInt32LE(crc32c(bytes.subarray(at, at + FRAME_HEADER_SIZE)), at + 8);
  return bodyChecksum;
}

/**
 * Why bytes are no valid frame. `short`: fewer bytes than the frame says; `blank`: zeroes, i.e. nothing was written here; `length`: a
 * length or another number that no frame can have.
 */
export type FrameFault = 'blank' | 'short' | 'magic' | 'version' | 'header-checksum' | 'length' | 'body-checksum';

/**
 * Decodes the header at `at` and, when `withBody`, checks the body's checksum too (bytes must then hold all of it).
 * Returns the fault's name instead of throwing: what a fault means depends on where it is met.
 */
export function decodeFrame(bytes: Buffer, at: number, withBody: boolean): FrameHeader | FrameFault {
  if (bytes.length - at < FRAME_HEADER_SIZE) return 'short';
  const magic = bytes.readUInt32LE(at);
  if (magic !== FRAME_MAGIC) return isBlank(bytes, at, FRAME_HEADER_SIZE) ? 'blank' : 'magic';
  const stored = bytes.readUInt32LE(at + 8);
  if (headerChecksum(bytes, at) !== stored) return 'header-checksum';
  if (!isFormatRead(bytes.readUInt16LE(at + 4))) return 'version';
  const bodyLength = bytes.readUInt32LE(at + 16);
  if (bodyLength % 64 !== 0 || bodyLength > FRAME_SIZE_MAX - FRAME_HEADER_SIZE) return 'length';
  for (let field = at + 24; field < at + 56; field += 8) if (!isSafe(bytes, field)) return 'length';
  const bodyChecksum = bytes.readUInt32LE(at + 12);
  if (withBody) {
    if (bytes.length - at < FRAME_HEADER_SIZE + bodyLength) return 'short';
    const body = bytes.subarray(at + FRAME_HEADER_SIZE, at + FRAME_HEADER_SIZE + bodyLength);
    if (crc32c(body) !== bodyChecksum) return 'body-checksum';
  }
  return {
    flags: bytes.readUInt16LE(at + 6),
    bodyLength,
    bodyChecksum,
    entryCount: bytes.readUInt32LE(at + 20),
    epoch: readSafe(bytes, at + 24),
    seq: readSafe(bytes, at + 32),
    committedThrough: readSafe(bytes, at + 40),
    flushedThrough: readSafe(bytes, at + 48),
    ordinal: bytes.readUInt32LE(at + 56),
    offset: bytes.readUInt32LE(at + 60) * 64,
    volumeId: uuidFromBytes(bytes, at + 64) as VolumeId,
  };
}

/** The digest that the next frame names: the first 16 bytes of SHA-256 over the header (which holds the body's checksum and the mac). */
export function frameDigest(bytes: Buffer, at: number): Buffer {
  return hash('sha256', bytes.subarray(at, at + FRAME_HEADER_SIZE), 'buffer').subarray(0, DIGEST_SIZE);
}

/** True when the frame at `at` names `digest` as the one before it. */
export function followsDigest(bytes: Buffer, at: number, digest: Buffer): boolean {
  return digest.compare(bytes, at + 80, at + 80 + DIGEST_SIZE, 0, DIGEST_SIZE) === 0;
}

const zeroes4 = Buffer.alloc(4);

function headerChecksum(bytes: Buffer, at: number): number {
  let crc = crc32c(bytes.subarray(at, at + 8));
  crc = crc32c(zeroes4, crc);
  return crc32c(bytes.subarray(at + 12, at + FRAME_HEADER_SIZE), crc);
}

function isBlank(bytes: Buffer, at: number, length: number): boolean {
  for (let i = at; i < at + length; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** A uint64 that is below 2^53, as two 32-bit halves (faster than BigInt, and safe integers are all we store). */
export function writeSafe(bytes: Buffer, value: number, at: number): void {
  bytes.writeUInt32LE(value >>> 0, at);
  bytes.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

/** Throws DATA_LOSS (Corrupt) when there is 2^53 or more: nobody writes that. */
export function readSafe(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4);
  if (high > SAFE_HIGH) throw corrupt(`a number of 2^53 or more, ${bytes.readBigUInt64LE(at)}`);
  return bytes.readUInt32LE(at) + high * 0x1_0000_0000;
}

const SAFE_HIGH = 0x1fffff;

/** Whether readSafe() takes it. */
export function isSafe(bytes: Buffer, at: number): boolean {
  return bytes.readUInt32LE(at + 4) <= SAFE_HIGH;
}
