// The bytes of a client, written down by hand from the protocol document (not with src/nbd's encoders), so that server and
// client can't be wrong together.

import type { FakeSocket } from './fake-socket.js';

export const IHAVEOPT = Buffer.from('49484156454f5054', 'hex');

export function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

export function option(number: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([IHAVEOPT, u32(number), u32(data.length), data]);
}

export function go(name: string, kinds: number[] = []): Buffer {
  const bytes = Buffer.from(name);
  return option(7, Buffer.concat([u32(bytes.length), bytes, u16(kinds.length), ...kinds.map(u16)]));
}

export interface RawRequest {
  command: number;
  flags?: number;
  handle: bigint;
  offset?: bigint;
  length: number;
  payload?: Buffer;
}

export function request(r: RawRequest): Buffer {
  const head = [u32(0x25609513), u16(r.flags ?? 0), u16(r.command), u64(r.handle), u64(r.offset ?? 0n), u32(r.length)];
  return Buffer.concat([...head, r.payload ?? Buffer.alloc(0)]);
}

/** Collects what a socket receives. */
export class Inbox {
  bytes: Buffer = Buffer.alloc(0);
  ended = false;
  closed = false;
  /** Set to count bytes only. */
  counting = false;
  received = 0;

  constructor(socket: FakeSocket) {
    socket.on('data', (chunk: Buffer) => {
      this.received += chunk.length;
      if (!this.counting) this.bytes = Buffer.concat([this.bytes, chunk]);
    });
    socket.on('end', () => {
      this.ended = true;
    });
    socket.on('close', () => {
      this.closed = true;
    });
  }

  take(bytes: number): Buffer {
    if (bytes > this.bytes.length) throw new Error(`only ${this.bytes.length} of ${bytes} bytes have come`);
    const taken = this.bytes.subarray(0, bytes);
    this.bytes = this.bytes.subarray(bytes);
    return taken;
  }

  optionReply(): { option: number; type: number; data: Buffer } {
    const head = this.take(20);
    if (head.toString('hex', 0, 8) !== '0003e889045565a9') throw new Error('bad option reply magic');
    return { option: head.readUInt32BE(8), type: head.readUInt32BE(12), data: this.take(head.readUInt32BE(16)) };
  }

  /** A reply of either kind. `readBytes`: how much data a simple reply (to that handle) carries when it is no error. */
  reply(readBytes: number | ((handle: bigint) => number) = 0): RawReply {
    const magic = this.take(4).readUInt32BE();
    if (magic === 0x67446698) {
      const head = this.take(12);
      const error = head.readUInt32BE(0);
      const handle = head.readBigUInt64BE(4);
      const bytes = typeof readBytes === 'number' ? readBytes : readBytes(handle);
      return { handle, error, data: this.take(error === 0 ? bytes : 0), structured: false };
    }
    if (magic !== 0x668e33ef) throw new Error(`bad reply magic ${magic.toString(16)}`);
    const head = this.take(16);
    const payload = this.take(head.readUInt32BE(12));
    const handle = head.readBigUInt64BE(4);
    if (head.readUInt16BE(0) !== 1) throw new Error('a chunk that is not the last');
    if (head.readUInt16BE(2) === 1) return { handle, error: 0, data: payload.subarray(8), structured: true };
    if (head.readUInt16BE(2) !== 0x8001) throw new Error('unknown chunk type');
    return { handle, error: payload.readUInt32BE(0), data: Buffer.alloc(0), structured: true };
  }
}

export interface RawReply {
  handle: bigint;
  error: number;
  data: Buffer;
  structured: boolean;
}
