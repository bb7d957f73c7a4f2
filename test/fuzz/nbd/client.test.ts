// Hostile servers of the NBD client: random and mutated bytes at every stage. The client connects or rejects, answers or
// rejects; it never throws elsewhere, hangs once the socket is gone, or reports success for what was not answered.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { NbdClient } from '../../../src/nbd/index.js';
import { settle, socketPair } from '../../unit/nbd/fake-socket.js';
import { u16, u32, u64 } from '../../unit/nbd/raw-peer.js';

const reply = (type: number, data: Buffer = Buffer.alloc(0)) =>
  Buffer.concat([Buffer.from('0003e889045565a9', 'hex'), u32(7), u32(type), u32(data.length), data]);
const welcome = Buffer.concat([
  Buffer.from('NBDMAGICIHAVEOPT'),
  u16(3),
  reply(3, Buffer.concat([u16(0), u64(65_536n), u16(0x6d)])),
  reply(3, Buffer.concat([u16(3), u32(1), u32(4096), u32(1 << 20)])),
  reply(1),
]);

describe('nbd client under attack', () => {
  it('survives any bytes instead of a handshake', async () => {
    const change = fc.record({ at: fc.nat(welcome.length - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 9 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(change, { maxLength: 4 }), fc.integer({ min: 1, max: 50 }), async (changes, chunk) => {
        const [near, far] = socketPair();
        near.chunkBytes = chunk;
        const bytes = Buffer.from(welcome);
        for (const each of changes) bytes.set(each.bytes.subarray(0, bytes.length - each.at), each.at);
        const connecting = NbdClient.connect({ address: () => Promise.resolve(near) }).then(
          (client) => client.sizeBytes,
          (error: unknown) => error,
        );
        far.on('data', () => {});
        far.write(bytes);
        await settle(20);
        far.destroy();
        const outcome = await connecting;
        if (changes.length === 0) expect(outcome).toBe(65_536);
        if (typeof outcome === 'number') expect(Number.isSafeInteger(outcome)).toBe(true);
        else expect(outcome).toMatchObject({ name: 'HoldfastError' });
      }),
      { numRuns: 200 },
    );
  });

  it('settles every request once, whatever comes instead of replies', async () => {
    const noise = fc.oneof(
      fc.uint8Array({ maxLength: 60 }).map((bytes) => Buffer.from(bytes)),
      // Replies that could be right: small handles are what the client uses.
      fc
        .record({ error: fc.constantFrom(0, 5, 28, 108, 9999), serial: fc.nat(5), slot: fc.nat(5), data: fc.nat(64) })
        .map(({ error, serial, slot, data }) =>
          Buffer.concat([u32(0x67446698), u32(error), u32(serial), u32(slot), Buffer.alloc(data, 0x11)]),
        ),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(noise, { maxLength: 6 }), async (pieces) => {
        const [near, far] = socketPair();
        const connecting = NbdClient.connect({ address: () => Promise.resolve(near) });
        far.on('data', () => {});
        far.write(welcome);
        const client = await connecting;
        const target = Buffer.alloc(64);
        const settled = { done: 0, failed: 0 };
        const requests = [
          client.readInto(0, target),
          client.write(0, Buffer.alloc(10)),
          client.flush(),
          client.trim(0, 9),
        ];
        const counted = requests.map((promise) =>
          promise.then(
            () => settled.done++,
            () => settled.failed++,
          ),
        );
        await settle(3);
        for (const piece of pieces) far.write(piece);
        await settle(6);
        const answeredRight = pieces.filter(
          (piece) => piece.length >= 16 && piece.readUInt32BE(0) === 0x67446698,
        ).length;
        expect(settled.done).toBeLessThanOrEqual(answeredRight);
        far.destroy();
        await Promise.all(counted);
        expect(settled.done + settled.failed).toBe(4);
        await expect(client.flush()).rejects.toMatchObject({ name: 'HoldfastError' });
      }),
      { numRuns: 200 },
    );
  });
});
