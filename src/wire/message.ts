// The envelope of the replica protocol: 72 bytes of header, then a body. Integers are little-endian.
//
//    0  magic "HFW1"          24  reign: epoch (uint64), id (16 bytes); zeroes before a fence
//    4  protocol version u16  48  a (uint64 below 2^53)  \
//    6  type u8               56  b (uint64 below 2^53)   | arguments, by type
//    7  flags u8              20  c (uint32)              |
//    8  request id u32        64  d (uint32)             /
//   12  body length u32       68  CRC-32C of the header before it
//   16  CRC-32C of the body when flag bit 0 is set, else 0 (frames and records carry their own checksums)
//
// Protocol versions: versions.ts.

import { crc32cShort, HoldfastError, uuidToBytes } from '../base/index.js';
import { isSafe, type Reign, readSafe, writeSafe } from '../format/index.js';
import { APPEND_BYTES_MAX, JSON_BYTES_MAX, READ_BYTES_MAX, READ_RANGES_MAX } from './limits.js';

export const MESSAGE_HEADER_SIZE = 72;
const WIRE_MAGIC = 0x31574648; // "HFW1"
const FLAG_BODY_CHECKSUM = 1;
const CHECKSUM_AT = 68;
const REIGN_AT = 24;
const REIGN_SIZE = 24;

/** Requests have odd meanings only in the table below; REPLY, READ_DATA and FAILURE answer by request id. */
export const messageType = {
  hello: 1,
  fence: 2,
  append: 3,
  sync: 4,
  confirm: 5,
  read: 6,
  segments: 7,
  frames: 8,
  cut: 9,
  deleteSegments: 10,
  describe: 11,
  clone: 12,
  usage: 13,
  repair: 14,
  ping: 15,
  reply: 32,
  readData: 33,
  failure: 34,
  ack: 35,
  lost: 36,
  pong: 37,
} as const;

export type MessageType = (typeof messageType)[keyof typeof messageType];
export type Channel = 'data' | 'bulk' | 'control';

/** Range of one READ in its body: segment epoch u64, ordinal u32, offset u32, length u32, zero u32. */
export const READ_RANGE_SIZE = 24;

/** Largest body by type, and where a client may send it. Order matters on data; nothing that takes long goes over control. */
const requestRules: Readonly<
  Partial<Record<number, { readonly body: number; readonly channels: readonly Channel[] }>>
> = {
  [messageType.fence]: { body: 0, channels: ['data'] },
  [messageType.append]: { body: APPEND_BYTES_MAX, channels: ['data'] },
  [messageType.sync]: { body: 0, channels: ['data'] },
  [messageType.cut]: { body: 0, channels: ['data'] },
  [messageType.deleteSegments]: { body: JSON_BYTES_MAX, channels: ['data'] },
  [messageType.describe]: { body: JSON_BYTES_MAX, channels: ['data'] },
  [messageType.clone]: { body: JSON_BYTES_MAX, channels: ['data'] },
  [messageType.repair]: { body: APPEND_BYTES_MAX, channels: ['bulk'] },
  [messageType.segments]: { body: 0, channels: ['bulk'] },
  [messageType.frames]: { body: 0, channels: ['bulk'] },
  [messageType.usage]: { body: 0, channels: ['bulk'] },
  [messageType.read]: { body: READ_RANGES_MAX * READ_RANGE_SIZE, channels: ['control', 'bulk'] },
  [messageType.confirm]: { body: 0, channels: ['control'] },
  [messageType.ping]: { body: 0, channels: ['data', 'bulk', 'control'] },
};

/** The same by type for one channel: the largest body, or -1 where such a message may not be sent. */
export function bodiesOn(channel: Channel): Int32Array {
  const bodies = new Int32Array(256).fill(-1);
  for (const [type, rule] of Object.entries(requestRules)) {
    if (rule?.channels.includes(channel)) bodies[Number(type)] = rule.body;
  }
  return bodies;
}

/** Largest body of what a server sends. */
export const answerBodies: Readonly<Partial<Record<number, number>>> = {
  [messageType.reply]: JSON_BYTES_MAX,
  [messageType.readData]: READ_BYTES_MAX,
  [messageType.failure]: JSON_BYTES_MAX,
  [messageType.lost]: JSON_BYTES_MAX,
  [messageType.ack]: 0,
  [messageType.pong]: 0,
};

export const noReign: Buffer = Buffer.alloc(REIGN_SIZE);

/** A received header. The reader reuses one: keep nothing of it beyond the call it is handed to. */
export class MessageHead {
  type = 0;
  requestId = 0;
  length = 0;
  checksummed = false;
  bodyChecksum = 0;
  a = 0;
  b = 0;
  c = 0;
  d = 0;
  #bytes = noReign;
  #reignAt = 0;

  /** Throws FAILED_PRECONDITION/Protocol when the 72 bytes at `at` are no header of this version of the protocol. */
  decode(bytes: Buffer, at: number, expected: number): void {
    if (bytes.readUInt32LE(at) !== WIRE_MAGIC) throw protocolError('no message of the replica protocol');
    if (crc32cShort(bytes, at, at + CHECKSUM_AT) !== bytes.readUInt32LE(at + CHECKSUM_AT)) {
      throw protocolError('message header with a wrong checksum');
    }
    const version = bytes.readUInt16LE(at + 4);
    if (version !== expected) throw protocolError(`message of protocol version ${version}, agreed on is ${expected}`);
    this.type = bytes[at + 6]!;
    this.checksummed = (bytes[at + 7]! & FLAG_BODY_CHECKSUM) !== 0;
    this.requestId = bytes.readUInt32LE(at + 8);
    this.length = bytes.readUInt32LE(at + 12);
    this.bodyChecksum = bytes.readUInt32LE(at + 16);
    this.c = bytes.readUInt32LE(at + 20);
    if (!isSafe(bytes, at + 24) || !isSafe(bytes, at + 48) || !isSafe(bytes, at + 56))
      throw protocolError('message with a number of 2^53 or more');
    this.a = readSafe(bytes, at + 48);
    this.b = readSafe(bytes, at + 56);
    this.d = bytes.readUInt32LE(at + 64);
    this.#bytes = bytes;
    this.#reignAt = at + REIGN_AT;
  }

  /** Whether it carries this reign, without making anything. */
  hasReign(reign: Buffer): boolean {
    const bytes = this.#bytes;
    const at = this.#reignAt;
    for (let i = 0; i < REIGN_SIZE; i += 4) {
      if (bytes.readUInt32LE(at + i) !== reign.readUInt32LE(i)) return false;
    }
    return true;
  }

  /** A copy of the epoch and reign id as sent. */
  copyReign(): Buffer {
    return Buffer.from(this.#bytes.subarray(this.#reignAt, this.#reignAt + REIGN_SIZE));
  }
}

export interface MessageFields {
  readonly type: MessageType;
  readonly requestId: number;
  readonly a?: number;
  readonly b?: number;
  readonly c?: number;
  readonly d?: number;
}

/** The reign part of headers, encoded once per fence. */
export function encodeReign(reign: Reign): Buffer {
  const bytes = Buffer.alloc(REIGN_SIZE);
  writeSafe(bytes, reign.epoch, 0);
  uuidToBytes(reign.reignId, bytes, 8);
  return bytes;
}

/** Writes a header at `at` for a body of `length` bytes with checksum `bodyChecksum` (null: none). */
export function encodeHeader(
  bytes: Buffer,
  at: number,
  fields: MessageFields,
  reign: Buffer,
  length: number,
  bodyChecksum: number | null,
  version: number,
): void {
  bytes.writeUInt32LE(WIRE_MAGIC, at);
  bytes.writeUInt16LE(version, at + 4);
  bytes[at + 6] = fields.type;
  bytes[at + 7] = bodyChecksum === null ? 0 : FLAG_BODY_CHECKSUM;
  bytes.writeUInt32LE(fields.requestId, at + 8);
  bytes.writeUInt32LE(length, at + 12);
  bytes.writeUInt32LE(bodyChecksum ?? 0, at + 16);
  bytes.writeUInt32LE(fields.c ?? 0, at + 20);
  for (let i = 0; i < REIGN_SIZE; i++) bytes[at + REIGN_AT + i] = reign[i]!;
  writeSafe(bytes, fields.a ?? 0, at + 48);
  writeSafe(bytes, fields.b ?? 0, at + 56);
  bytes.writeUInt32LE(fields.d ?? 0, at + 64);
  bytes.writeUInt32LE(crc32cShort(bytes, at, at + CHECKSUM_AT), at + CHECKSUM_AT);
}

export function protocolError(message: string): HoldfastError {
  return new HoldfastError('FAILED_PRECONDITION', message, { reason: 'Protocol' });
}
