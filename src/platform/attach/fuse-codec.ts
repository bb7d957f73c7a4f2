// The FUSE wire protocol, as far as one regular file needs it. Layouts are those of the kernel's include/uapi/linux/fuse.h
// at protocol 7.31; all fields are little-endian here because every platform we run on is. Pure: bytes in, values out.

import { MiB } from '../../base/index.js';

export const opcodes = {
  forget: 2,
  getattr: 3,
  setattr: 4,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  flush: 25,
  init: 26,
  interrupt: 36,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
} as const;

/** Linux errno values that a reply can carry. */
export const errnos = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EROFS: 30,
  ENOSYS: 38,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
} as const;
export type Errno = keyof typeof errnos;

/** Largest payload of one read or write; the mount option max_read says the same. */
export const payloadBytesMax = MiB;
export const requestHeaderBytes = 40;
/** A write's fixed part; the largest of all requests that are read here. */
const writeHeaderBytes = 40;
/** The kernel refuses to hand out requests to a smaller buffer than header + write header + max_write. */
export const requestBytesMax = payloadBytesMax + 8192;
export const replyHeaderBytes = 16;

/** Requests that the kernel keeps at us at a time in the background (asynchronous direct I/O counts as that). */
const backgroundMax = 48;

const init = {
  asyncRead: 1 << 0,
  bigWrites: 1 << 5,
  asyncDio: 1 << 15,
  maxPages: 1 << 22,
  ext: 1 << 30,
  /** In flags2, which holds bits 32 and up. */
  hasResend: 1 << 7,
} as const;
const wantedFlags = init.asyncRead | init.bigWrites | init.asyncDio | init.maxPages | init.ext;

const openDirectIo = 1;
const openParallelDirectWrites = 64;
const setattrSize = 1 << 3;
const notifyResend = 7;

/** FALLOCATE modes (fallocate(2)). */
const keepSize = 1;
const punchHole = 2;
const zeroRange = 16;

export type FuseRequest =
  | {
      readonly op: 'init';
      readonly major: number;
      readonly minor: number;
      readonly flags: number;
      readonly flags2: number;
    }
  | { readonly op: 'getattr' | 'statfs' | 'open' | 'release' | 'destroy' }
  | { readonly op: 'forget' | 'interrupt' }
  | { readonly op: 'setattr'; readonly sizeBytes: number | undefined }
  | { readonly op: 'read'; readonly offset: number; readonly length: number }
  | { readonly op: 'write'; readonly offset: number; readonly data: Buffer }
  | { readonly op: 'flush' }
  | { readonly op: 'fsync' }
  | { readonly op: 'punch' | 'zero'; readonly offset: number; readonly length: number }
  | { readonly op: 'unsupported'; readonly errno: Errno };

export interface Incoming {
  /** The eight bytes that name the request, to be returned as they came (a resent request has the top bit set). */
  readonly unique: bigint;
  readonly request: FuseRequest;
}

/** Thrown by decode for bytes that no kernel sends: the bridge stops rather than guess. */
export class FuseProtocolError extends Error {
  override readonly name = 'FuseProtocolError';
}

/** Decodes one request as it came from /dev/fuse. The data of a write is a view into `message`. */
export function decodeRequest(message: Buffer): Incoming {
  if (message.length < requestHeaderBytes) throw new FuseProtocolError(`request of ${message.length} bytes`);
  const length = message.readUInt32LE(0);
  if (length !== message.length) throw new FuseProtocolError(`request says ${length}, has ${message.length} bytes`);
  const body = message.subarray(requestHeaderBytes);
  return { unique: message.readBigUInt64LE(8), request: decodeBody(message.readUInt32LE(4), body) };
}

function decodeBody(opcode: number, body: Buffer): FuseRequest {
  switch (opcode) {
    case opcodes.init:
      return decodeInit(body);
    case opcodes.getattr:
      return { op: 'getattr' };
    case opcodes.setattr: {
      need(body, 24, 'SETATTR');
      const changesSize = (body.readUInt32LE(0) & setattrSize) !== 0;
      return { op: 'setattr', sizeBytes: changesSize ? position(body, 16) : undefined };
    }
    case opcodes.open:
      return { op: 'open' };
    case opcodes.read:
      need(body, 20, 'READ');
      return { op: 'read', offset: position(body, 8), length: body.readUInt32LE(16) };
    case opcodes.write:
      return decodeWrite(body);
    case opcodes.fsync:
      return { op: 'fsync' };
    case opcodes.flush:
      return { op: 'flush' };
    case opcodes.release:
      return { op: 'release' };
    case opcodes.statfs:
      return { op: 'statfs' };
    case opcodes.destroy:
      return { op: 'destroy' };
    case opcodes.fallocate:
      return decodeFallocate(body);
    case opcodes.forget:
    case opcodes.batchForget:
      return { op: 'forget' };
    case opcodes.interrupt:
      return { op: 'interrupt' };
    default:
      return { op: 'unsupported', errno: 'ENOSYS' };
  }
}

function need(body: Buffer, bytes: number, what: string): void {
  if (body.length < bytes) throw new FuseProtocolError(`${what} with a body of ${body.length} bytes`);
}

/** A 64-bit position; beyond 2^53 it becomes the largest safe integer, which is past every device's end. */
function position(body: Buffer, offset: number): number {
  const value = body.readBigUInt64LE(offset);
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(value);
}

function decodeInit(body: Buffer): FuseRequest {
  need(body, 16, 'INIT');
  const flags = body.readUInt32LE(12);
  const flags2 = (flags & init.ext) !== 0 && body.length >= 20 ? body.readUInt32LE(16) : 0;
  return { op: 'init', major: body.readUInt32LE(0), minor: body.readUInt32LE(4), flags, flags2 };
}

function decodeWrite(body: Buffer): FuseRequest {
  need(body, writeHeaderBytes, 'WRITE');
  const length = body.readUInt32LE(16);
  const data = body.subarray(writeHeaderBytes);
  if (data.length !== length) throw new FuseProtocolError(`WRITE of ${length} bytes carries ${data.length}`);
  return { op: 'write', offset: position(body, 8), data };
}

function decodeFallocate(body: Buffer): FuseRequest {
  need(body, 28, 'FALLOCATE');
  const mode = body.readUInt32LE(24) & ~keepSize;
  const range = { offset: position(body, 8), length: position(body, 16) };
  if (mode === punchHole) return { op: 'punch', ...range };
  if (mode === zeroRange) return { op: 'zero', ...range };
  // Plain allocation would promise space that the store does not set aside.
  return { op: 'unsupported', errno: 'EOPNOTSUPP' };
}

/** A reply's header. `bodyBytes` follow it in the same write. */
export function encodeReplyHeader(unique: bigint, bodyBytes: number, errno: Errno | null): Buffer {
  const header = Buffer.allocUnsafe(replyHeaderBytes);
  header.writeUInt32LE(replyHeaderBytes + bodyBytes, 0);
  header.writeInt32LE(errno === null ? 0 : -errnos[errno], 4);
  header.writeBigUInt64LE(unique, 8);
  return header;
}

/** Asks the kernel to hand out again all requests that were read but not answered (Linux 6.9 and later). */
export function encodeResend(): Buffer {
  const message = Buffer.alloc(replyHeaderBytes);
  message.writeUInt32LE(replyHeaderBytes, 0);
  message.writeInt32LE(notifyResend, 4);
  return message;
}

/** Whether the kernel that sent this INIT can resend requests to a successor. */
export function offersResend(request: { readonly flags2: number }): boolean {
  return (request.flags2 & init.hasResend) !== 0;
}

/** The answer to INIT: 7.31, only flags that the kernel offered. */
export function encodeInit(request: { readonly flags: number; readonly flags2: number }): Buffer {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(7, 0);
  body.writeUInt32LE(31, 4);
  body.writeUInt32LE(payloadBytesMax, 8); // max_readahead
  body.writeUInt32LE((request.flags & wantedFlags) >>> 0, 12);
  body.writeUInt16LE(backgroundMax, 16);
  body.writeUInt16LE(backgroundMax, 18); // congestion_threshold
  body.writeUInt32LE(payloadBytesMax, 20); // max_write
  body.writeUInt32LE(1, 24); // time_gran
  body.writeUInt16LE(payloadBytesMax / 4096, 28); // max_pages
  body.writeUInt32LE((request.flags2 & init.hasResend) >>> 0, 32);
  return body;
}

/** struct fuse_attr_out of the one file: a regular file of root's. Never cached, so that a new size is seen at once. */
export function encodeAttr(sizeBytes: number, readOnly: boolean): Buffer {
  const body = Buffer.alloc(104);
  const attr = 16;
  body.writeBigUInt64LE(1n, attr); // inode: the mount's root
  body.writeBigUInt64LE(BigInt(sizeBytes), attr + 8);
  body.writeBigUInt64LE(BigInt(sizeBytes / 512), attr + 16);
  body.writeUInt32LE(0o100000 | (readOnly ? 0o400 : 0o600), attr + 60); // mode
  body.writeUInt32LE(1, attr + 64); // nlink
  body.writeUInt32LE(4096, attr + 80); // blksize
  return body;
}

export function encodeOpen(): Buffer {
  const body = Buffer.alloc(16);
  body.writeUInt32LE(openDirectIo | openParallelDirectWrites, 8);
  return body;
}

export function encodeWritten(length: number): Buffer {
  const body = Buffer.alloc(8);
  body.writeUInt32LE(length, 0);
  return body;
}

export function encodeStatfs(sizeBytes: number): Buffer {
  const body = Buffer.alloc(80);
  body.writeBigUInt64LE(BigInt(sizeBytes / 4096), 0);
  body.writeBigUInt64LE(1n, 24); // files
  body.writeUInt32LE(4096, 40); // bsize
  body.writeUInt32LE(255, 44); // namelen
  body.writeUInt32LE(4096, 48); // frsize
  return body;
}
