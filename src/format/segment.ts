// The first 4096 bytes of a segment file, and its name in the replica's directory. Layout: FORMAT.md, "Segment header".

import {
  crc32c,
  HoldfastError,
  type LineageId,
  type ReignId,
  unknownVersion,
  uuidFromBytes,
  uuidToBytes,
  type VolumeId,
} from '../base/index.js';
import {
  DIGEST_SIZE,
  FORMAT_VERSION,
  FORMATS_READ,
  isFormatRead,
  SEGMENT_HEADER_SIZE,
  SEGMENT_MAGIC,
} from './constants.js';

/** One engine's time over a volume. */
export interface Reign {
  readonly epoch: number;
  readonly reignId: ReignId;
}

/** A segment's name within a volume: never given to second contents. */
export interface SegmentName {
  readonly epoch: number;
  readonly ordinal: number;
}

export interface SegmentHeader {
  readonly epoch: number;
  readonly reignId: ReignId;
  /** Rises by one with each segment of the log. */
  readonly ordinal: number;
  /** The slot of the log's segment table by which map entries name this segment. */
  readonly slot: number;
  /** The volume whose engine wrote it; in a clone, its source. */
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly firstSeq: number;
  /** Digest of the frame before the first one; zeroes at the log's start. */
  readonly previousDigest: Buffer;
  readonly createdAtMs: number;
}

/** What a file name and a frame have room for. */
const EPOCH_MAX = 2 ** 48 - 1;
const ORDINAL_MAX = 2 ** 32 - 1;

export function encodeSegmentHeader(header: SegmentHeader): Buffer {
  const bytes = Buffer.alloc(SEGMENT_HEADER_SIZE);
  bytes.writeUInt32LE(SEGMENT_MAGIC, 0);
  bytes.writeUInt16LE(FORMAT_VERSION, 4);
  bytes.writeUInt32LE(header.slot, 12);
  uuidToBytes(header.volumeId, bytes, 16);
  uuidToBytes(header.lineageId, bytes, 32);
  uuidToBytes(header.reignId, bytes, 48);
  bytes.writeBigUInt64LE(BigInt(header.epoch), 64);
  bytes.writeBigUInt64LE(BigInt(header.ordinal), 72);
  bytes.writeBigUInt64LE(BigInt(header.firstSeq), 80);
  header.previousDigest.copy(bytes, 96, 0, DIGEST_SIZE);
  bytes.writeBigUInt64LE(BigInt(header.createdAtMs), 112);
  bytes.writeUInt32LE(crc32c(bytes), 8);
  return bytes;
}

/**
 * Throws DATA_LOSS (reason Corrupt) when the bytes are no valid header, FAILED_PRECONDITION (UnknownVersion) when they are one of another
 * release's format; `where` names the file in the message.
 */
export function decodeSegmentHeader(bytes: Buffer, where: string): SegmentHeader {
  const bad = (what: string) =>
    new HoldfastError('DATA_LOSS', `segment header of ${where}: ${what}`, { reason: 'Corrupt' });
  if (bytes.length < SEGMENT_HEADER_SIZE) throw bad(`only ${bytes.length} of ${SEGMENT_HEADER_SIZE} bytes`);
  if (bytes.readUInt32LE(0) !== SEGMENT_MAGIC) throw bad('no magic');
  const copy = Buffer.from(bytes.subarray(0, SEGMENT_HEADER_SIZE));
  copy.writeUInt32LE(0, 8);
  if (crc32c(copy) !== bytes.readUInt32LE(8)) throw bad('wrong checksum');
  const version = bytes.readUInt16LE(4);
  if (!isFormatRead(version)) throw unknownVersion(`the disk format of ${where}`, version, FORMATS_READ);
  const number = (at: number, what: string, least: number, most: number): number => {
    const value = bytes.readBigUInt64LE(at);
    if (value < least || value > most) throw bad(`${what} ${value}`);
    return Number(value);
  };
  return {
    slot: bytes.readUInt32LE(12),
    volumeId: uuidFromBytes(bytes, 16) as VolumeId,
    lineageId: uuidFromBytes(bytes, 32) as LineageId,
    reignId: uuidFromBytes(bytes, 48) as ReignId,
    epoch: number(64, 'epoch', 0, EPOCH_MAX),
    ordinal: number(72, 'ordinal', 0, ORDINAL_MAX),
    firstSeq: number(80, 'first seq', 1, Number.MAX_SAFE_INTEGER),
    previousDigest: Buffer.from(bytes.subarray(96, 96 + DIGEST_SIZE)),
    createdAtMs: number(112, 'time', 0, Number.MAX_SAFE_INTEGER),
  };
}

/** `000000000002-0000001f.seg`: epoch then ordinal, in hexadecimal, so that a directory listing is in log order. */
export function segmentFileName(name: SegmentName): string {
  return `${name.epoch.toString(16).padStart(12, '0')}-${name.ordinal.toString(16).padStart(8, '0')}.seg`;
}

/** The reverse; undefined for a file that is no segment. */
export function parseSegmentFileName(file: string): SegmentName | undefined {
  const match = /^([0-9a-f]{12})-([0-9a-f]{8})\.seg$/.exec(file);
  if (!match) return undefined;
  return { epoch: Number.parseInt(match[1]!, 16), ordinal: Number.parseInt(match[2]!, 16) };
}

export function sameSegment(a: SegmentName, b: SegmentName): boolean {
  return a.epoch === b.epoch && a.ordinal === b.ordinal;
}
