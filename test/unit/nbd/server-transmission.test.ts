import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/index.js';
import type { BlockRequest } from '../../../src/engine/index.js';
import { ExportTable, type NbdConnection, type NbdLimits, NbdServer } from '../../../src/nbd/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';
import { type FakeSocket, settle, socketPair } from './fake-socket.js';
import { streamOf } from './fake-stream.js';
import { go, Inbox, option, request, u32 } from './raw-peer.js';

const READ = 0;
const WRITE = 1;
const DISC = 2;
const FLUSH = 3;
const TRIM = 4;
const ZEROES = 6;
const BLOCK_STATUS = 7;
const FUA = 1;
const EPERM = 1;
const EIO = 5;
const EINVAL = 22;
const ENOSPC = 28;
const EOVERFLOW = 75;
const ESHUTDOWN = 108;
const MiB = 1024 * 1024;

/** Notes what each submit() brought; can keep requests until told. */
class NotingDevice extends MemoryDevice {
  readonly batches: BlockRequest[][] = [];
  readonly held: BlockRequest[] = [];
  override submit(requests: readonly BlockRequest[]): void {
    this.batches.push([...requests]);
    super.submit(requests);
  }
  hold(): void {
    this.intercept = (held) => this.held.push(held) > 0;
  }
  release(count = this.held.length): void {
    for (const held of this.held.splice(0, count)) {
      this.apply(held);
      held.complete(null);
    }
  }
}

interface Session {
  device: NotingDevice;
  near: FakeSocket;
  far: FakeSocket;
  inbox: Inbox;
  server: NbdServer;
  connection: NbdConnection;
  say(...bytes: Buffer[]): Promise<void>;
}

async function session(
  options: { size?: number; structured?: boolean; limits?: Partial<NbdLimits> } = {},
): Promise<Session> {
  const device = new NotingDevice(options.size ?? 4 * MiB);
  const exports = new ExportTable();
  exports.add({ name: 'vol', device });
  const server = new NbdServer({ exports, logger: silentLogger, limits: options.limits });
  const [near, far] = socketPair();
  const connection = server.serve(streamOf(far));
  const inbox = new Inbox(near);
  const say = async (...bytes: Buffer[]): Promise<void> => {
    near.write(Buffer.concat(bytes));
    await settle();
  };
  await say(u32(3), options.structured ? option(8) : Buffer.alloc(0), go('vol'));
  inbox.bytes = Buffer.alloc(0);
  far.sends = 0;
  return { device, near, far, inbox, server, connection, say };
}

describe('nbd server transmission', () => {
  it('serves each command and tells the device what it needs to know', async () => {
    const { device, inbox, say } = await session();
    const payload = Buffer.from('hello, holdfast!');
    await say(
      request({ command: WRITE, handle: 1n, offset: 4093n, length: 16, payload }),
      request({ command: WRITE, flags: FUA, handle: 0xfedcba9876543210n, offset: 9000n, length: 16, payload }),
      request({ command: FLUSH, handle: 3n, length: 0 }),
      request({ command: TRIM, flags: FUA, handle: 4n, offset: 0n, length: 0x100000 }),
      request({ command: ZEROES, flags: 2, handle: 5n, offset: 4095n, length: 2 }),
      request({ command: ZEROES, flags: 16 | FUA, handle: 6n, offset: 4096n, length: 4 * MiB - 4096 }),
    );
    const handles = Array.from({ length: 6 }, () => inbox.reply()).map(({ handle, error }) => [handle, error]);
    expect(handles).toEqual([1n, 0xfedcba9876543210n, 3n, 4n, 5n, 6n].map((handle) => [handle, 0]));
    expect(device.log).toEqual([
      { op: 'write', offset: 4093, length: 16, fua: false },
      { op: 'write', offset: 9000, length: 16, fua: true },
      { op: 'flush', offset: 0, length: 0, fua: false },
      { op: 'trim', offset: 0, length: 0x100000, fua: true },
      { op: 'zero', offset: 4095, length: 2, fua: false },
      { op: 'zero', offset: 4096, length: 4 * MiB - 4096, fua: true },
    ]);
  });

  it.each([false, true])('answers reads with the bytes asked for (structured: %s)', async (structured) => {
    const { device, inbox, say } = await session({ structured });
    for (let i = 0; i < device.bytes.length; i++) device.bytes[i] = (i * 7 + (i >>> 12)) & 0xff;
    const flags = structured ? 4 : 0;
    await say(
      request({ command: READ, flags, handle: 1n, offset: 1n, length: 1 }),
      request({ command: READ, handle: 2n, offset: 4000n, length: 200_000 }),
      request({ command: READ, handle: 3n, offset: BigInt(4 * MiB - 5), length: 5 }),
      request({ command: READ, handle: 4n, offset: BigInt(4 * MiB - 4), length: 5 }),
    );
    const lengths = [0, 1, 200_000, 5];
    const replies = lengths.map(() => inbox.reply((handle) => lengths[Number(handle)] ?? 0));
    replies.sort((a, b) => Number(a.handle - b.handle));
    expect(replies.map((reply) => reply.structured)).toEqual(Array(4).fill(structured));
    expect(replies.map((reply) => reply.error)).toEqual([0, 0, 0, EINVAL]);
    expect(replies[0]!.data).toEqual(device.bytes.subarray(1, 2));
    expect(replies[1]!.data.equals(device.bytes.subarray(4000, 204_000))).toBe(true);
    expect(replies[2]!.data).toEqual(device.bytes.subarray(4 * MiB - 5));
    expect(inbox.bytes.length).toBe(0);
  });

  it.each<[string, Parameters<typeof request>[0], number]>([
    [
      'a write past the end',
      { command: WRITE, handle: 1n, offset: 4194300n, length: 5, payload: Buffer.alloc(5) },
      ENOSPC,
    ],
    ['zeroes past the end', { command: ZEROES, handle: 1n, offset: 4194304n, length: 1 }, ENOSPC],
    ['a read past the end', { command: READ, handle: 1n, offset: 4194304n, length: 1 }, EINVAL],
    ['a trim past the end', { command: TRIM, handle: 1n, offset: 0n, length: 0xffffffff }, EINVAL],
    [
      'an offset of 2^63',
      { command: WRITE, handle: 1n, offset: 1n << 63n, length: 1, payload: Buffer.alloc(1) },
      ENOSPC,
    ],
    ['an offset that overflows', { command: READ, handle: 1n, offset: (1n << 64n) - 1n, length: 4096 }, EINVAL],
    ['an offset of 2^53', { command: TRIM, handle: 1n, offset: 1n << 53n, length: 4096 }, EINVAL],
    ['a read of nothing', { command: READ, handle: 1n, length: 0 }, EINVAL],
    ['a write of nothing', { command: WRITE, handle: 1n, length: 0 }, EINVAL],
    ['zeroes of nothing', { command: ZEROES, handle: 1n, length: 0 }, EINVAL],
    ['a read above 32 MiB', { command: READ, handle: 1n, length: 32 * MiB + 1 }, EINVAL],
    ['a flush with a range', { command: FLUSH, handle: 1n, length: 512 }, EINVAL],
    ['an unknown command', { command: 77, handle: 1n, length: 512 }, EINVAL],
    ['BLOCK_STATUS, which was not negotiated', { command: BLOCK_STATUS, handle: 1n, length: 512 }, EINVAL],
    ['an unknown flag', { command: FLUSH, flags: 0x8000, handle: 1n, length: 0 }, EINVAL],
    ['NO_HOLE on a trim', { command: TRIM, flags: 2, handle: 1n, length: 512 }, EINVAL],
    ['DF without structured replies', { command: READ, flags: 4, handle: 1n, length: 512 }, EINVAL],
    ['a bad flag on a write', { command: WRITE, flags: 8, handle: 1n, length: 4, payload: Buffer.alloc(4) }, EINVAL],
  ])('refuses %s and goes on', async (_what, bad, errno) => {
    const { device, inbox, say } = await session();
    await say(request(bad), request({ command: FLUSH, handle: 2n, length: 0 }));
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: errno });
    expect(inbox.reply()).toMatchObject({ handle: 2n, error: 0 });
    expect(device.log.map(({ op }) => op)).toEqual(['flush']);
  });

  it('refuses reads of more than it sends unfragmented as proto.md says', async () => {
    const { inbox, say } = await session({ structured: true });
    await say(request({ command: READ, flags: 4, handle: 1n, length: 0xffffffff }));
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: EOVERFLOW, structured: true });
  });

  it('passes over the payload of a write above 32 MiB without keeping it', async () => {
    const { device, near, inbox, say } = await session({ size: 64 * MiB });
    near.write(request({ command: WRITE, handle: 1n, length: 32 * MiB + 1 }));
    for (let sent = 0; sent < 32 * MiB + 1; sent += 64 * 1024) {
      near.write(Buffer.alloc(Math.min(64 * 1024, 32 * MiB + 1 - sent), 0x25));
    }
    await settle(1200);
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: EINVAL });
    await say(request({ command: FLUSH, handle: 2n, length: 0 }));
    expect(inbox.reply()).toMatchObject({ handle: 2n, error: 0 });
    expect(device.log.length).toBe(1);
  });

  it('refuses changes of a read-only export, and reads it', async () => {
    const { device, inbox, say } = await session();
    Object.assign(device, { readOnly: true });
    await say(
      request({ command: WRITE, handle: 1n, length: 3, payload: Buffer.from('abc') }),
      request({ command: TRIM, handle: 2n, length: 512 }),
      request({ command: ZEROES, handle: 3n, length: 512 }),
      request({ command: READ, handle: 4n, length: 3 }),
    );
    expect([inbox.reply(), inbox.reply(), inbox.reply()].map((reply) => reply.error)).toEqual([EPERM, EPERM, EPERM]);
    expect(inbox.reply(3)).toMatchObject({ handle: 4n, error: 0, data: Buffer.alloc(3) });
  });

  it('passes each error of the device on', async () => {
    const { device, inbox, say } = await session();
    device.intercept = (asked) => {
      asked.complete(asked.op === 'write' ? 'ENOSPC' : 'EIO');
      return true;
    };
    await say(
      request({ command: WRITE, handle: 1n, length: 1, payload: Buffer.alloc(1) }),
      request({ command: READ, handle: 2n, length: 512 }),
    );
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: ENOSPC });
    expect(inbox.reply(512)).toMatchObject({ handle: 2n, error: EIO });
    expect(inbox.bytes.length).toBe(0);
  });

  it('uses the size the device has now', async () => {
    const { device, inbox, say } = await session({ size: MiB });
    const write = (handle: bigint) =>
      request({ command: WRITE, handle, offset: BigInt(MiB), length: 1, payload: Buffer.of(9) });
    await say(write(1n));
    device.grow(2 * MiB);
    await say(write(2n));
    expect([inbox.reply().error, inbox.reply().error]).toEqual([ENOSPC, 0]);
    expect(device.bytes[MiB]).toBe(9);
  });

  it('hands what one read brought to the device at once, and sends the replies of one turn at once', async () => {
    const { device, far, inbox, say } = await session();
    device.hold();
    await say(
      ...Array.from({ length: 12 }, (_, i) =>
        request({
          command: i % 3,
          handle: BigInt(i),
          length: 512,
          payload: i % 3 === 1 ? Buffer.alloc(512) : undefined,
        }),
      ).filter((_, i) => i % 3 !== 2),
    );
    expect(device.batches.map((batch) => batch.length)).toEqual([8]);
    device.release();
    await settle();
    expect(far.sends).toBe(1);
    const handles = [0, 1, 3, 4, 6, 7, 9, 10].map((i) => inbox.reply(i % 3 === 0 ? 512 : 0).handle);
    expect(handles).toEqual([0n, 1n, 3n, 4n, 6n, 7n, 9n, 10n]);
  });

  it('gives every request the bytes it asked for, however the stream is cut and answered', async () => {
    const piece = fc.record({
      command: fc.constantFrom(READ, WRITE, WRITE),
      at: fc.nat(900),
      length: fc.integer({ min: 1, max: 120 }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { minLength: 1, maxLength: 25 }),
        fc.array(fc.nat(90), { minLength: 1 }),
        fc.boolean(),
        fc.nat(),
        async (pieces, cuts, structured, order) => {
          const { device, far, inbox, say, near } = await session({ size: 4096, structured });
          // One request at a time reaches the model in order; completions come in another.
          const model = Buffer.alloc(4096);
          const expected = new Map<bigint, Buffer>();
          const finish: (() => void)[] = [];
          device.intercept = (asked) => {
            device.apply(asked);
            finish.splice(finish.length === 0 ? 0 : order % (finish.length + 1), 0, () => asked.complete(null));
            return true;
          };
          const stream = Buffer.concat(
            pieces.map(({ command, at, length }, i) => {
              const payload = command === WRITE ? Buffer.alloc(length, i + 1) : undefined;
              if (payload !== undefined) payload.copy(model, at);
              expected.set(
                BigInt(i),
                command === READ ? Buffer.from(model.subarray(at, at + length)) : Buffer.alloc(0),
              );
              return request({ command, handle: BigInt(i), offset: BigInt(at), length, payload });
            }),
          );
          let at = 0;
          for (let i = 0; at < stream.length; i++) {
            const bytes = 1 + (cuts[i % cuts.length] ?? 0);
            far.chunkBytes = bytes;
            await say(stream.subarray(at, at + bytes));
            at += bytes;
          }
          for (const complete of finish) complete();
          await settle();
          expect(finish.length).toBe(pieces.length);
          while (expected.size > 0) {
            const reply = inbox.reply((handle) => expected.get(handle)?.length ?? 0);
            expect(reply.error).toBe(0);
            expect(reply.data).toEqual(expected.get(reply.handle));
            expected.delete(reply.handle);
          }
          expect(inbox.bytes.length).toBe(0);
          near.destroy();
        },
      ),
      { numRuns: 25 },
    );
  });

  it.each([false, true])('serves thousands of requests on one connection (structured: %s)', async (structured) => {
    const { device, near, inbox } = await session({ structured });
    for (let i = 0; i < device.bytes.length; i++) device.bytes[i] = (i * 31 + (i >>> 11)) & 0xff;
    const ask = (i: number) => {
      const bad = i % 4 === 1;
      if (i % 4 === 3) return request({ command: FLUSH, handle: BigInt(i), length: 0 });
      return request({
        command: READ,
        handle: BigInt(i),
        offset: BigInt(bad ? 1 << 30 : i * 100),
        length: 300 + (i % 977),
      });
    };
    for (let round = 0; round < 8; round++) {
      near.write(Buffer.concat(Array.from({ length: 500 }, (_, i) => ask(500 * round + i))));
      await settle(12);
      for (let n = 0; n < 500; n++) {
        const { handle, error, data } = inbox.reply((asked) =>
          Number(asked) % 4 === 3 ? 0 : 300 + (Number(asked) % 977),
        );
        const i = Number(handle);
        expect(error).toBe(i % 4 === 1 ? EINVAL : 0);
        if (i % 2 === 0) expect(data.equals(device.bytes.subarray(i * 100, i * 100 + 300 + (i % 977)))).toBe(true);
      }
    }
    expect(inbox.bytes.length).toBe(0);
  });

  it('assembles large writes from many chunks', async () => {
    const { device, far, near, inbox } = await session();
    far.chunkBytes = 10_007;
    const payload = Buffer.alloc(3 * MiB, 'holdfast');
    near.write(request({ command: WRITE, handle: 1n, offset: 1n, length: payload.length, payload }));
    near.write(request({ command: WRITE, handle: 2n, offset: 0n, length: 1, payload: Buffer.of(1) }));
    await settle(400);
    expect([inbox.reply().error, inbox.reply().error]).toEqual([0, 0]);
    expect(device.bytes.subarray(1, 1 + payload.length).equals(payload)).toBe(true);
  });

  it('stops reading when too much is in flight, and goes on when there is room', async () => {
    const { device, far, connection, inbox, say } = await session({ limits: { inFlightRequestsMax: 5 } });
    device.hold();
    const asked = Array.from({ length: 23 }, (_, i) =>
      request({ command: WRITE, handle: BigInt(i), offset: BigInt(i), length: 1, payload: Buffer.of(i + 1) }),
    );
    await say(...asked.slice(0, 11), asked[11]!.subarray(0, 13));
    expect(connection.inFlight).toBe(5);
    expect(far.paused).toBe(true);
    await say(asked[11]!.subarray(13), ...asked.slice(12));
    expect(connection.inFlight).toBe(5);
    for (let i = 0; i < 23; i++) {
      expect(connection.inFlight).toBe(Math.min(5, 23 - i));
      device.release(1);
      await settle(5);
    }
    expect(far.paused).toBe(false);
    expect(Array.from({ length: 23 }, () => inbox.reply().handle)).toEqual(asked.map((_, i) => BigInt(i)));
    expect([...device.bytes.subarray(0, 23)]).toEqual(asked.map((_, i) => i + 1));
  });

  it('bounds what a peer that never reads can make it hold', async () => {
    const limits = { payloadBytesMax: 256 * 1024, inFlightBytesMax: 512 * 1024 };
    const { near, far, device, inbox, say } = await session({ limits });
    near.pause();
    // One chunk asks for 128 MiB.
    const asked = Array.from({ length: 512 }, (_, i) =>
      request({ command: READ, handle: BigInt(i), length: 256 * 1024 }),
    );
    await say(...asked);
    // One in the kernel, two in the queue.
    expect(device.log.length).toBeLessThanOrEqual(3);
    expect(far.writableLength).toBeLessThanOrEqual(512 * 1024 + 64);
    expect(far.paused).toBe(true);
    inbox.counting = true;
    inbox.received = 0;
    near.chunkBytes = MiB;
    near.resume();
    await settle(3000);
    expect(device.log.length).toBe(512);
    expect(inbox.received).toBe(512 * (16 + 256 * 1024));
  });

  it('bounds the small replies a peer does not read', async () => {
    const { near, far, device, say } = await session({ limits: { inFlightRequestsMax: 16 } });
    near.pause();
    near.kernelBytes = 64;
    far.kernelBytes = 64;
    for (let i = 0; i < 200; i++) await say(request({ command: FLUSH, handle: BigInt(i), length: 0 }));
    expect(device.log.length).toBeLessThan(30);
    expect(far.paused).toBe(true);
    near.resume();
    await settle(600);
    expect(device.log.length).toBe(200);
  });

  it('marks requests cancelled when the client leaves, and is drained when the device lets go', async () => {
    const { device, near, connection, say } = await session();
    device.hold();
    await say(
      request({ command: WRITE, handle: 1n, length: 512, payload: Buffer.alloc(512) }),
      request({ command: READ, handle: 2n, length: 512 }),
      // A write that never comes whole.
      request({ command: WRITE, handle: 3n, length: 512 }),
    );
    let drained = false;
    void connection.drained.then(() => {
      drained = true;
    });
    expect(device.held.map((held) => held.cancelled)).toEqual([false, false]);
    near.destroy();
    await settle();
    expect(device.held.map((held) => held.cancelled)).toEqual([true, true]);
    expect(drained).toBe(false);
    device.release(1);
    await settle();
    expect(drained).toBe(false);
    device.release();
    await settle();
    expect(drained).toBe(true);
  });

  it('answers what is in flight before it follows a DISC, and ignores what comes behind', async () => {
    const { device, near, inbox, connection, say } = await session();
    device.hold();
    await say(
      request({ command: WRITE, handle: 1n, length: 1, payload: Buffer.of(7) }),
      request({ command: DISC, handle: 2n, length: 0 }),
      request({ command: WRITE, handle: 3n, length: 1, payload: Buffer.of(8) }),
    );
    near.end();
    await settle();
    expect(inbox.ended).toBe(false);
    device.release();
    await settle();
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: 0 });
    expect(inbox.bytes.length).toBe(0);
    expect(inbox.ended).toBe(true);
    await connection.drained;
    expect(device.log.length).toBe(1);
  });

  it('drops a client that breaks the framing', async () => {
    const { device, inbox, connection, say } = await session();
    device.hold();
    await say(
      request({ command: READ, handle: 1n, length: 512 }),
      Buffer.alloc(28, 0x41),
      request({ command: FLUSH, handle: 2n, length: 0 }),
    );
    expect(inbox.ended).toBe(true);
    expect(device.log.length).toBe(1);
    expect(device.held[0]!.cancelled).toBe(true);
    device.release();
    await connection.drained;
  });

  it('answers ESHUTDOWN and leaves when the device closes', async () => {
    const { device, inbox, connection, say } = await session();
    device.hold();
    await say(request({ command: FLUSH, handle: 1n, length: 0 }));
    device.close();
    await say(request({ command: FLUSH, handle: 2n, length: 0 }));
    for (const held of device.held) held.complete('ESHUTDOWN');
    await settle();
    expect(inbox.reply()).toMatchObject({ handle: 1n, error: ESHUTDOWN });
    expect(inbox.bytes.length).toBe(0);
    expect(inbox.ended).toBe(true);
    await connection.drained;
  });
});

describe('memory of replies', () => {
  it('is bounded however few slow reads hold it', async () => {
    const limits = { payloadBytesMax: 256 * 1024, inFlightBytesMax: 2 * MiB };
    const { device, connection, inbox, say } = await session({ limits });
    const slow: BlockRequest[] = [];
    let asked = 0;
    // One of 20 reads never ends; the others fill the slab that it keeps.
    device.intercept = (one) => asked++ % 20 === 0 && slow.push(one) > 0;
    inbox.counting = true;
    inbox.received = 0;
    const reads = 400;
    for (let i = 0; i < reads; i++) await say(request({ command: READ, handle: BigInt(i), length: 16 * 1024 }));
    // 20 slabs of 260 KiB would be 5 MiB; 320 KiB are in flight.
    expect(slow.length).toBeLessThanOrEqual(10);
    expect(connection.inFlight).toBe(slow.length);
    device.intercept = undefined;
    for (const one of slow) {
      device.apply(one);
      one.complete(null);
    }
    await settle(200);
    expect(inbox.received).toBe(reads * (16 + 16 * 1024));
  });

  it('is little and used again when one sync answers many connections in a turn', async () => {
    const sessions = await Promise.all(Array.from({ length: 64 }, () => session()));
    for (const { device } of sessions) device.hold();
    const memory = new Set<ArrayBufferLike>();
    for (const { far } of sessions) {
      const write = far.write.bind(far);
      far.write = (bytes, written) => {
        memory.add(bytes.buffer);
        return write(bytes, written);
      };
    }
    for (let round = 0; round < 3; round++) {
      for (const { near } of sessions) near.write(request({ command: FLUSH, handle: 1n, length: 0 }));
      await settle();
      for (const { device } of sessions) device.release();
      await settle();
      for (const { inbox } of sessions) expect(inbox.reply()).toMatchObject({ handle: 1n, error: 0 });
    }
    let bytes = 0;
    for (const { byteLength } of memory) bytes += byteLength;
    expect(bytes).toBeLessThanOrEqual(MiB);
  });
});
