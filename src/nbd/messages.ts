// Encoding and decoding of NBD messages. Pure; decoders of untrusted input return undefined when it is malformed.

import {
  CHUNK_HEADER_BYTES,
  GREETING_BYTES,
  NBD_MAGIC,
  OPTION_HEADER_BYTES,
  OPTION_MAGIC,
  OPTION_REPLY_HEADER_BYTES,
  OPTION_REPLY_MAGIC_HIGH,
  OPTION_REPLY_MAGIC_LOW,
  REPLY_FLAG_DONE,
  REPLY_TYPE_ERROR,
  REPLY_TYPE_OFFSET_DATA,
  REQUEST_MAGIC,
  SIMPLE_REPLY_MAGIC,
  STRING_BYTES_MAX,
  STRUCTURED_REPLY_MAGIC,
} from './constants.js';

const TWO_32 = 0x1_0000_0000;

/**
 * 64 bits as a number. Above 2^53 the result is rounded, but stays above 2^53: comparing it with a size (a safe integer)
 * is always right, which is all that is ever done with such a value.
 */
export function readU64(bytes: Buffer, at: number): number {
  return bytes.readUInt32BE(at) * TWO_32 + bytes.readUInt32BE(at + 4);
}

/** Writes a safe integer as 64 bits. */
export function writeU64(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32BE(Math.floor(value / TWO_32), at);
  bytes.writeUInt32BE(value % TWO_32, at + 4);
}

export function encodeGreeting(flags: number): Buffer {
  const bytes = Buffer.alloc(GREETING_BYTES);
  bytes.write(NBD_MAGIC, 0, 'latin1');
  bytes.write(OPTION_MAGIC, 8, 'latin1');
  bytes.writeUInt16BE(flags, 16);
  return bytes;
}

/** The handshake flags of a newstyle greeting (18 bytes), or undefined when it is none. */
export function decodeGreeting(bytes: Buffer): number | undefined {
  if (bytes.toString('latin1', 0, 8) !== NBD_MAGIC || bytes.toString('latin1', 8, 16) !== OPTION_MAGIC)
    return undefined;
  return bytes.readUInt16BE(16);
}

export function encodeOption(option: number, data: Buffer): Buffer {
  const bytes = Buffer.alloc(OPTION_HEADER_BYTES + data.length);
  bytes.write(OPTION_MAGIC, 0, 'latin1');
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(data.length, 12);
  data.copy(bytes, OPTION_HEADER_BYTES);
  return bytes;
}

export function decodeOptionHeader(bytes: Buffer): { option: number; length: number } | undefined {
  if (bytes.toString('latin1', 0, 8) !== OPTION_MAGIC) return undefined;
  return { option: bytes.readUInt32BE(8), length: bytes.readUInt32BE(12) };
}

export function encodeOptionReply(option: number, type: number, data: Buffer): Buffer {
  const bytes = Buffer.alloc(OPTION_REPLY_HEADER_BYTES + data.length);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_HIGH, 0);
  bytes.writeUInt32BE(OPTION_REPLY_MAGIC_LOW, 4);
  bytes.writeUInt32BE(option, 8);
  bytes.writeUInt32BE(type, 12);
  bytes.writeUInt32BE(data.length, 16);
  data.copy(bytes, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

export function decodeOptionReplyHeader(bytes: Buffer): { option: number; type: number; length: number } | undefined {
  if (bytes.readUInt32BE(0) !== OPTION_REPLY_MAGIC_HIGH || bytes.readUInt32BE(4) !== OPTION_REPLY_MAGIC_LOW) {
    return undefined;
  }
  return { option: bytes.readUInt32BE(8), type: bytes.readUInt32BE(12), length: bytes.readUInt32BE(16) };
}

/** The data of INFO and GO: a name and the kinds of information wanted. */
export function encodeInfoRequest(name: string, kinds: readonly number[]): Buffer {
  const nameBytes = Buffer.from(name, 'utf8');
  const bytes = Buffer.alloc(4 + nameBytes.length + 2 + 2 * kinds.length);
  bytes.writeUInt32BE(nameBytes.length, 0);
  nameBytes.copy(bytes, 4);
  let at = 4 + nameBytes.length;
  at = bytes.writeUInt16BE(kinds.length, at);
  for (const kind of kinds) at = bytes.writeUInt16BE(kind, at);
  return bytes;
}

export function decodeInfoRequest(data: Buffer): { name: string; kinds: ReadonlySet<number> } | undefined {
  if (data.length < 6) return undefined;
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > STRING_BYTES_MAX || nameBytes > data.length - 6) return undefined;
  const count = data.readUInt16BE(4 + nameBytes);
  if (data.length !== 6 + nameBytes + 2 * count) return undefined;
  const kinds = new Set<number>();
  for (let at = 6 + nameBytes; at < data.length; at += 2) kinds.add(data.readUInt16BE(at));
  return { name: data.toString('utf8', 4, 4 + nameBytes), kinds };
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT: a name and queries. */
export function decodeMetaQuery(data: Buffer): { name: string; queries: readonly string[] } | undefined {
  if (data.length < 8) return undefined;
  const nameBytes = data.readUInt32BE(0);
  if (nameBytes > STRING_BYTES_MAX || nameBytes > data.length - 8) return undefined;
  let at = 4 + nameBytes;
  const count = data.readUInt32BE(at);
  at += 4;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    if (data.length - at < 4) return undefined;
    const length = data.readUInt32BE(at);
    at += 4;
    if (length > STRING_BYTES_MAX || length > data.length - at) return undefined;
    queries.push(data.toString('utf8', at, at + length));
    at += length;
  }
  return at === data.length ? { name: data.toString('utf8', 4, 4 + nameBytes), queries } : undefined;
}

/** A request's header (28 bytes) at `at`. The handle is two 32-bit words. */
export function writeRequest(
  bytes: Buffer,
  at: number,
  request: { flags: number; command: number; handleHigh: number; handleLow: number; offset: number; length: number },
): void {
  bytes.writeUInt32BE(REQUEST_MAGIC, at);
  bytes.writeUInt16BE(request.flags, at + 4);
  bytes.writeUInt16BE(request.command, at + 6);
  bytes.writeUInt32BE(request.handleHigh, at + 8);
  bytes.writeUInt32BE(request.handleLow, at + 12);
  writeU64(bytes, at + 16, request.offset);
  bytes.writeUInt32BE(request.length, at + 24);
}

/** A simple reply (16 bytes) at `at`; `error` is 0 or a wire errno. */
export function writeSimpleReply(bytes: Buffer, at: number, error: number, high: number, low: number): void {
  bytes.writeUInt32BE(SIMPLE_REPLY_MAGIC, at);
  bytes.writeUInt32BE(error, at + 4);
  bytes.writeUInt32BE(high, at + 8);
  bytes.writeUInt32BE(low, at + 12);
}

function writeChunkHeader(bytes: Buffer, at: number, type: number, high: number, low: number, length: number): void {
  bytes.writeUInt32BE(STRUCTURED_REPLY_MAGIC, at);
  bytes.writeUInt16BE(REPLY_FLAG_DONE, at + 4);
  bytes.writeUInt16BE(type, at + 6);
  bytes.writeUInt32BE(high, at + 8);
  bytes.writeUInt32BE(low, at + 12);
  bytes.writeUInt32BE(length, at + 16);
}

/** The head (28 bytes) of a final chunk that carries `length` bytes of data read at `offset`. */
export function writeDataChunk(
  bytes: Buffer,
  at: number,
  high: number,
  low: number,
  offset: number,
  length: number,
): void {
  writeChunkHeader(bytes, at, REPLY_TYPE_OFFSET_DATA, high, low, 8 + length);
  writeU64(bytes, at + CHUNK_HEADER_BYTES, offset);
}

/** A final error chunk without text (26 bytes). */
export function writeErrorChunk(bytes: Buffer, at: number, error: number, high: number, low: number): void {
  writeChunkHeader(bytes, at, REPLY_TYPE_ERROR, high, low, 6);
  bytes.writeUInt32BE(error, at + CHUNK_HEADER_BYTES);
  bytes.writeUInt16BE(0, at + CHUNK_HEADER_BYTES + 4);
}
