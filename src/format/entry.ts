// The entries of a frame: records (sealed data) and control entries. Layout: FORMAT.md, "Entries". Every entry starts at a
// multiple of 64 bytes with magic, checksum, length and kind; the checksum covers everything from byte 8 to its length.

import { crc32c } from '../base/index.js';
import { ENTRY_MAGIC, ENTRY_PREFIX_SIZE, RECORD_HEADER_SIZE } from './constants.js';
import { isSafe, readSafe, writeSafe } from './frame.js';

export const entryKind = {
  record: 1,
  open: 16,
  range: 17,
  freeze: 18,
  snapshotDelete: 19,
  resize: 20,
  move: 21,
  page: 22,
  delta: 23,
  table: 24,
  segments: 25,
  snapshots: 26,
  root: 27,
  members: 28,
  index: 29,
  clone: 30,
  drop: 31,
} as const;

export type EntryKind = (typeof entryKind)[keyof typeof entryKind];

const kinds = new Set<number>(Object.values(entryKind));

/** compression (low four bits) and cipher (high four bits) of a record. */
export const compressionId = { none: 0, lz4: 1, zstd: 2 } as const;
export const cipherId = { none: 0, 'aes-256-gcm': 1, 'chacha20-poly1305': 2 } as const;
export type Compression = keyof typeof compressionId;
export type Cipher = keyof typeof cipherId;

export interface EntryHead {
  readonly kind: EntryKind;
  /** Bytes from the entry's start to the end of its content, padding to 64 not counted. */
  readonly length: number;
}

export type EntryFault = 'short' | 'magic' | 'kind' | 'length' | 'checksum';

/** Checks the entry at `at` (which must not reach past `end`). Returns the fault's name instead of throwing. */
export function decodeEntry(bytes: Buffer, at: number, end: number): EntryHead | EntryFault {
  if (end - at < ENTRY_PREFIX_SIZE || bytes.length < end) return 'short';
  if (bytes.readUInt32LE(at) !== ENTRY_MAGIC) return 'magic';
  const length = bytes.readUInt32LE(at + 8);
  if (length < ENTRY_PREFIX_SIZE || length > end - at) return 'length';
  if (crc32c(bytes.subarray(at + 8, at + length)) !== bytes.readUInt32LE(at + 4)) return 'checksum';
  const kind = bytes[at + 12]!;
  if (!kinds.has(kind)) return 'kind';
  return { kind: kind as EntryKind, length };
}

export interface RecordHeader {
  readonly length: number;
  /** Adjacent blocks in it, 1..8. */
  readonly run: number;
  readonly compression: number;
  readonly cipher: number;
  readonly block: number;
  readonly epoch: number;
  /** Counts the records of a reign from 0; the nonce. */
  readonly recordNumber: number;
  /** Bytes after the header, before the tag. */
  readonly payloadLength: number;
}

export function writeRecordHeader(bytes: Buffer, at: number, header: RecordHeader): void {
  bytes.writeUInt32LE(ENTRY_MAGIC, at);
  bytes.writeUInt32LE(header.length, at + 8);
  bytes[at + 12] = entryKind.record;
  bytes[at + 13] = header.run;
  bytes[at + 14] = header.compression | (header.cipher << 4);
  bytes[at + 15] = 0;
  writeSafe(bytes, header.block, at + 16);
  writeSafe(bytes, header.epoch, at + 24);
  writeSafe(bytes, header.recordNumber, at + 32);
  bytes.writeUInt32LE(header.payloadLength, at + 40);
  bytes.writeUInt32LE(0, at + 44);
}

/** Reads the header of an entry that decodeEntry found to be a record; undefined when its own lengths contradict each other. */
export function readRecordHeader(bytes: Buffer, at: number): RecordHeader | undefined {
  const length = bytes.readUInt32LE(at + 8);
  const run = bytes[at + 13]!;
  const payloadLength = bytes.readUInt32LE(at + 40);
  const cipher = bytes[at + 14]! >> 4;
  const expected = RECORD_HEADER_SIZE + payloadLength + (cipher === cipherId.none ? 0 : 16);
  if (run < 1 || run > 8 || length !== expected || payloadLength > run * 4096) return undefined;
  if (!isSafe(bytes, at + 16) || !isSafe(bytes, at + 24) || !isSafe(bytes, at + 32)) return undefined;
  return {
    length,
    run,
    compression: bytes[at + 14]! & 15,
    cipher,
    block: readSafe(bytes, at + 16),
    epoch: readSafe(bytes, at + 24),
    recordNumber: readSafe(bytes, at + 32),
    payloadLength,
  };
}

/** Writes the checksum of an entry whose other bytes are complete. */
export function finishEntry(bytes: Buffer, at: number, length: number): void {
  bytes.writeUInt32LE(crc32c(bytes.subarray(at + 8, at + length)), at + 4);
}

/** A control entry of `kind` around `content` (everything after the 16-byte prefix), padded to 64 bytes. `sub` is byte 13. */
export function encodeControlEntry(kind: EntryKind, content: Uint8Array, sub = 0): Buffer {
  const length = ENTRY_PREFIX_SIZE + content.length;
  const bytes = Buffer.alloc(Math.ceil(length / 64) * 64);
  bytes.writeUInt32LE(ENTRY_MAGIC, 0);
  bytes.writeUInt32LE(length, 8);
  bytes[12] = kind;
  bytes[13] = sub;
  bytes.set(content, ENTRY_PREFIX_SIZE);
  finishEntry(bytes, 0, length);
  return bytes;
}
