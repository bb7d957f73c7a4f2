import { describe, expect, it } from 'vitest';
import type { ClientRequest } from '../../../src/nbd/index.js';
import { opcodes, requestBytesMax } from '../../../src/platform/attach/fuse-codec.js';
import { FuseSession } from '../../../src/platform/attach/fuse-session.js';

type Done = (error: 'EIO' | 'ENOSPC' | 'ESHUTDOWN' | 'ENOTSUP' | null) => void;

interface Reply {
  unique: bigint;
  errno: number;
  body: Buffer;
}

/** A kernel of sorts: hands out requests to waiting reads, keeps replies. */
class FakeKernel {
  readonly replies: Reply[] = [];
  readonly notifications: number[] = [];
  readonly #waiting: { into: Buffer; done: (error: NodeJS.ErrnoException | null, bytes: number) => void }[] = [];
  #next = 1n;
  writeError: string | undefined;

  readonly channel = {
    read: (into: Buffer, done: (error: NodeJS.ErrnoException | null, bytes: number) => void) => {
      expect(into.length).toBe(requestBytesMax);
      this.#waiting.push({ into, done });
    },
    write: (parts: readonly Buffer[]) => {
      if (this.writeError) throw Object.assign(new Error(this.writeError), { code: this.writeError });
      const all = Buffer.concat(parts);
      expect(all.readUInt32LE(0)).toBe(all.length);
      const unique = all.readBigUInt64LE(8);
      if (unique === 0n) this.notifications.push(all.readInt32LE(4));
      else this.replies.push({ unique, errno: 0 - all.readInt32LE(4), body: all.subarray(16) });
    },
  };

  get waiting(): number {
    return this.#waiting.length;
  }

  send(opcode: number, body: Buffer): bigint {
    const unique = this.#next++;
    const reader = this.#waiting.shift();
    if (!reader) throw new Error('nobody reads');
    const header = Buffer.alloc(40);
    header.writeUInt32LE(40 + body.length, 0);
    header.writeUInt32LE(opcode, 4);
    header.writeBigUInt64LE(unique, 8);
    Buffer.concat([header, body]).copy(reader.into);
    reader.done(null, 40 + body.length);
    return unique;
  }

  failRead(code: string): void {
    this.#waiting.shift()!.done(Object.assign(new Error(code), { code }), 0);
  }

  read(offset: number, length: number): bigint {
    const body = Buffer.alloc(40);
    body.writeBigUInt64LE(BigInt(offset), 8);
    body.writeUInt32LE(length, 16);
    return this.send(opcodes.read, body);
  }

  write(offset: number, data: Buffer): bigint {
    const body = Buffer.alloc(40);
    body.writeBigUInt64LE(BigInt(offset), 8);
    body.writeUInt32LE(data.length, 16);
    return this.send(opcodes.write, Buffer.concat([body, data]));
  }

  fallocate(offset: number, length: number, mode: number): bigint {
    const body = Buffer.alloc(32);
    body.writeBigUInt64LE(BigInt(offset), 8);
    body.writeBigUInt64LE(BigInt(length), 16);
    body.writeUInt32LE(mode, 24);
    return this.send(opcodes.fallocate, body);
  }
}

function open(options: { sizeBytes?: number; readOnly?: boolean; takeOver?: boolean } = {}) {
  const kernel = new FakeKernel();
  const submitted: { operation: ClientRequest; done: Done }[] = [];
  const ended: (Error | null)[] = [];
  const session = new FuseSession({
    channel: kernel.channel,
    submit: (operation, done) => {
      submitted.push({ operation, done });
    },
    sizeBytes: options.sizeBytes ?? 1 << 20,
    readOnly: options.readOnly ?? false,
    takeOver: options.takeOver ?? false,
    negotiated: () => {},
    ended: (error) => ended.push(error),
  });
  session.start();
  return { kernel, submitted, ended, session };
}

describe('FuseSession', () => {
  it('keeps the data of writes in flight apart and answers each with its own id, in any order', () => {
    const { kernel, submitted } = open();
    const first = kernel.write(0, Buffer.alloc(4096, 1));
    const second = kernel.write(8192, Buffer.alloc(4096, 2));
    expect(submitted.map(({ operation }) => operation.data![0])).toEqual([1, 2]);
    submitted[1]!.done(null);
    submitted[0]!.done('ENOSPC');
    expect(kernel.replies.map(({ unique, errno }) => [unique, errno])).toEqual([
      [second, 0],
      [first, 28],
    ]);
    expect(kernel.replies[0]!.body.readUInt32LE(0)).toBe(4096);
  });

  it('returns what the transport put into a read, cut at the end of the device', () => {
    const { kernel, submitted } = open({ sizeBytes: 8192 });
    kernel.read(4096, 65536);
    expect(submitted[0]!.operation).toMatchObject({ op: 'read', offset: 4096, length: 4096 });
    submitted[0]!.operation.data!.fill(7);
    submitted[0]!.done(null);
    expect(kernel.replies[0]!.body).toEqual(Buffer.alloc(4096, 7));
    kernel.read(8192, 4096);
    expect(kernel.replies[1]).toMatchObject({ errno: 0, body: Buffer.alloc(0) });
    expect(submitted.length).toBe(1);
  });

  it('refuses a write past the end and any write to a read-only device without asking the transport', () => {
    const { kernel, submitted } = open({ sizeBytes: 8192 });
    kernel.write(8192 - 512, Buffer.alloc(1024));
    expect(kernel.replies[0]!.errno).toBe(28);
    const readOnly = open({ readOnly: true });
    readOnly.kernel.write(0, Buffer.alloc(512));
    readOnly.kernel.fallocate(0, 4096, 3);
    expect(readOnly.kernel.replies.map(({ errno }) => errno)).toEqual([30, 30]);
    expect(submitted.length + readOnly.submitted.length).toBe(0);
  });

  it('discards whole blocks by trim, anything else by writing zeroes', () => {
    const { kernel, submitted } = open();
    kernel.fallocate(4096, 8192, 3);
    kernel.fallocate(512, 8192, 3);
    kernel.fallocate(4096, 8192, 17);
    kernel.fallocate((1 << 20) - 4096, 1 << 20, 3);
    expect(submitted.map(({ operation: { op, offset, length } }) => [op, offset, length])).toEqual([
      ['trim', 4096, 8192],
      ['zero', 512, 8192],
      ['zero', 4096, 8192],
      ['trim', (1 << 20) - 4096, 4096],
    ]);
  });

  it('cuts a long range into pieces, one at a time, and reports the error of a later one', () => {
    const { kernel, submitted } = open({ sizeBytes: 5 * 2 ** 30 });
    kernel.fallocate(0, 5 * 2 ** 30, 3);
    expect(submitted.length).toBe(1);
    submitted[0]!.done(null);
    submitted[1]!.done(null);
    expect(submitted[2]!.operation).toMatchObject({ offset: 2 * 2 ** 30, length: 2 ** 30 });
    submitted[2]!.done('EIO');
    expect(submitted.length).toBe(3);
    expect(kernel.replies.map(({ errno }) => errno)).toEqual([5]);
  });

  it('makes fsync a flush, and close(2) none', () => {
    const { kernel, submitted } = open();
    kernel.send(opcodes.flush, Buffer.alloc(24));
    expect(submitted.length).toBe(0);
    kernel.send(opcodes.fsync, Buffer.alloc(16));
    expect(submitted[0]!.operation.op).toBe('flush');
    expect(kernel.replies.length).toBe(1);
    submitted[0]!.done(null);
    expect(kernel.replies.length).toBe(2);
  });

  it('stops reading when 64 requests are in flight and goes on with the first answer', () => {
    const { kernel, submitted, session } = open();
    for (let i = 0; i < 64; i++) kernel.read(0, 512);
    expect(kernel.waiting).toBe(0);
    expect(session.inFlight).toBe(64);
    submitted[10]!.done(null);
    expect(kernel.waiting).toBe(1);
    expect(session.inFlight).toBe(63);
  });

  it('shows a larger size at once, never a smaller one', () => {
    const { kernel, session } = open({ sizeBytes: 8192 });
    session.setSize(16384);
    session.setSize(4096);
    kernel.send(opcodes.getattr, Buffer.alloc(16));
    expect(kernel.replies[0]!.body.readBigUInt64LE(24)).toBe(16384n);
  });

  it('answers EIO to data requests once it fails, and still tells the size', () => {
    const { kernel, session, submitted } = open();
    session.fail();
    kernel.read(0, 4096);
    kernel.write(0, Buffer.alloc(4096));
    kernel.send(opcodes.fsync, Buffer.alloc(16));
    kernel.fallocate(0, 4096, 3);
    kernel.send(opcodes.getattr, Buffer.alloc(16));
    expect(kernel.replies.map(({ errno }) => errno)).toEqual([5, 5, 5, 5, 0]);
    expect(submitted.length).toBe(0);
  });

  it('asks for what a predecessor left before it reads, and only then', () => {
    expect(open({ takeOver: true }).kernel.notifications).toEqual([7]);
    expect(open().kernel.notifications).toEqual([]);
  });

  it('ends once on unmount, and goes on after a request that was taken back', () => {
    const { kernel, ended } = open();
    kernel.failRead('ENOENT');
    kernel.failRead('EINTR');
    expect(kernel.waiting).toBe(6);
    kernel.failRead('ENODEV');
    kernel.failRead('ENODEV');
    expect(ended).toEqual([null]);
  });

  it('forgets a reply that nobody waits for, and frees its slot', () => {
    const { kernel, submitted, session, ended } = open();
    kernel.read(0, 512);
    kernel.writeError = 'ENOENT';
    submitted[0]!.done(null);
    expect(ended).toEqual([]);
    expect(session.inFlight).toBe(0);
  });
});
