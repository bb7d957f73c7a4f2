import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { SnapshotId } from '../../../src/base/index.js';
import type { Engine } from '../../../src/engine/index.js';
import { SPACE_WAIT_MS } from '../../../src/engine/limits.js';
import { EngineRig, eventually, flush, read, request, seeded, write } from '../../lib/engine-rig.js';

const snap = (n: number) => `50000000-0000-4000-8000-00000000000${n}` as SnapshotId;

describe('engine', () => {
  it('reads what was written, at any alignment, and zeroes elsewhere', async () => {
    for (const cipher of ['none', 'aes-256-gcm', 'chacha20-poly1305'] as const) {
      const rig = new EngineRig(3, { encrypted: cipher !== 'none' });
      rig.volume = { cipher };
      const engine = await rig.open();
      const data = randomBytes(100_000);
      await write(engine, 5_000, data);
      expect(
        (await read(engine, 0, 200_000)).equals(Buffer.concat([Buffer.alloc(5_000), data, Buffer.alloc(95_000)])),
      ).toBe(true);
      expect((await read(engine, 5_123, 7)).equals(data.subarray(123, 130))).toBe(true);
      await write(engine, 6_000, Buffer.from('hello'));
      expect(
        (await read(engine, 5_998, 10)).equals(
          Buffer.concat([data.subarray(998, 1000), Buffer.from('hello'), data.subarray(1005, 1008)]),
        ),
      ).toBe(true);
      await engine.close();
    }
  });

  it('keeps everything over a crash of the engine, on one and on three replicas', async () => {
    for (const count of [1, 3]) {
      const rig = new EngineRig(count, { encrypted: true });
      const random = seeded(count);
      const model = Buffer.alloc(4 * 1024 * 1024);
      for (let reign = 0; reign < 6; reign++) {
        const engine = await rig.open();
        expect((await read(engine, 0, model.length)).equals(model), `reign ${reign}`).toBe(true);
        for (let i = 0; i < 60; i++) await randomOperation(engine, model, random);
        // Not closed: the process is gone, what the replicas have stays.
        engine.depose('test');
      }
    }
  });

  it('agrees with a model under parallel requests', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    const random = seeded(77);
    const blocks = 512;
    const model = Buffer.alloc(blocks * 4096);
    for (let round = 0; round < 60; round++) {
      // Disjoint ranges in flight together; each shorter than its slot.
      const slots = 16;
      const size = model.length / slots;
      await Promise.all(
        Array.from({ length: slots }, async (_, slot) => {
          const offset = slot * size + Math.floor(random() * 5000);
          const length = 1 + Math.floor(random() * (size - 5001));
          const kind = random();
          if (kind < 0.6) {
            const data = randomBytes(length);
            await write(engine, offset, data);
            data.copy(model, offset);
          } else if (kind < 0.75) {
            expect(await request(engine, 'zero', offset, length)).toBeNull();
            model.fill(0, offset, offset + length);
          } else {
            expect((await read(engine, offset, length)).equals(model.subarray(offset, offset + length))).toBe(true);
          }
        }),
      );
    }
    expect((await read(engine, 0, model.length)).equals(model)).toBe(true);
    engine.depose('test');
    const again = await rig.open();
    expect((await read(again, 0, model.length)).equals(model)).toBe(true);
  });

  it('serialises overlapping partial writes: no update is lost', async () => {
    const rig = new EngineRig(1);
    const engine = await rig.open();
    for (let round = 0; round < 20; round++) {
      await Promise.all(
        Array.from({ length: 64 }, (_, i) => write(engine, 8192 + i * 64, Buffer.alloc(64, (round * 64 + i) & 0xff))),
      );
      const got = await read(engine, 8192, 4096);
      for (let i = 0; i < 64; i++)
        expect(got.subarray(i * 64, i * 64 + 64).equals(Buffer.alloc(64, (round * 64 + i) & 0xff))).toBe(true);
    }
  });

  it('acknowledges nothing that an in-sync replica lacks until the store has removed it', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    rig.storeDown = true;
    rig.replicas[2]!.reachable = false;
    rig.replicas[2]!.disconnect();
    let done = false;
    const pending = write(engine, 0, Buffer.alloc(4096, 2)).then(() => {
      done = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(done).toBe(false);
    // Nor is anything read: the replica that is cut off may already serve another engine.
    let seen = false;
    const reading = request(engine, 'read', 0, 10, Buffer.alloc(10)).then(() => {
      seen = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 1200));
    expect(seen).toBe(false);
    rig.storeDown = false;
    await pending;
    await reading;
    expect(rig.inSync).toEqual([rig.replicas[0]!.superblock.replicaId, rig.replicas[1]!.superblock.replicaId]);
  });

  it('brings a returning replica back, byte for byte, after any absence', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    const random = seeded(5);
    const model = Buffer.alloc(8 * 1024 * 1024);
    const away = rig.replicas[2]!;
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 20; i++) await randomOperation(engine, model, random);
      away.reachable = false;
      away.disconnect();
      // More than what is kept in memory, so that the log on disk is needed.
      for (let i = 0; i < 24; i++)
        await write(engine, (i % 8) * 1024 * 1024, randomBytes(1024 * 1024).subarray(0, 1024 * 1024 - round));
      (await read(engine, 0, model.length)).copy(model);
      expect(rig.inSync.length).toBe(2);
      away.reachable = true;
      await eventually(() => rig.inSync.length === 3, 'the replica is back in the set');
      await write(engine, 4096, randomBytes(4096));
      (await read(engine, 0, model.length)).copy(model);
    }
    await flush(engine);
    const [first, , third] = rig.replicas.map((replica) =>
      replica
        .list()
        .map((stored) => `${stored.info.ordinal}:${stored.bytes.toString('base64').length}:${stored.info.lastDigest}`),
    );
    expect(third).toEqual(first);
    // Only the one that was away is left: it has everything.
    engine.depose('test');
    rig.replicas[0]!.reachable = false;
    rig.replicas[1]!.reachable = false;
    const alone = await rig.open();
    expect((await read(alone, 0, model.length)).equals(model)).toBe(true);
  }, 60_000);

  it('does not open from a replica that left the set', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    for (const i of [0, 1]) {
      rig.replicas[i]!.reachable = false;
      rig.replicas[i]!.disconnect();
    }
    await write(engine, 0, Buffer.alloc(4096, 2));
    engine.depose('test');
    rig.replicas[2]!.reachable = false;
    rig.replicas[0]!.reachable = true;
    rig.replicas[1]!.reachable = true;
    await expect(rig.open()).rejects.toThrow(/no usable in-sync replica answers/);
    rig.replicas[2]!.reachable = true;
    const back = await rig.open();
    expect((await read(back, 0, 1))[0]).toBe(2);
  }, 20_000);

  it('never re-admits a replica whose disk came back empty', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    engine.depose('test');
    const wiped = rig.replicas[1]!;
    wiped.segments.clear();
    wiped.end = { epoch: 0, seq: 0, digest: '0'.repeat(32) };
    wiped.superblock = {
      ...wiped.superblock,
      incarnationId: '49999999-0000-4000-8000-000000000000' as typeof wiped.superblock.incarnationId,
    };
    const again = await rig.open();
    expect(rig.inSync).toEqual([rig.replicas[0]!.superblock.replicaId]);
    expect(rig.lost).toEqual([wiped.superblock.replicaId]);
    expect((await read(again, 0, 1))[0]).toBe(1);
  });

  it('takes the longest log and makes all equal: an unacknowledged tail is kept everywhere or nowhere', async () => {
    const rig = new EngineRig(3);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    // The frame reaches replicas 0 and 1, then the engine dies; nothing was acknowledged.
    rig.replicas[2]!.disconnect();
    rig.replicas[2]!.reachable = false;
    rig.storeDown = true;
    void request(engine, 'write', 0, 4096, Buffer.alloc(4096, 2));
    await new Promise((resolve) => setTimeout(resolve, 50));
    engine.depose('test');
    rig.storeDown = false;
    rig.replicas[2]!.reachable = true;
    const again = await rig.open();
    const value = (await read(again, 0, 1))[0];
    expect(value).toBe(2);
    expect(new Set(rig.replicas.map((replica) => replica.end.digest)).size).toBe(1);
  });

  it('snapshots stay as they were; deletion and clearing give segments back', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    const first = randomBytes(3 * 1024 * 1024);
    await write(engine, 0, first);
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    const again = await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    await write(engine, 1024 * 1024, Buffer.alloc(4096, 9));
    await engine.freeze({ snapshotId: snap(2), groupId: null, holdToken: null });
    expect(await engine.changed({ base: snap(1), target: snap(2), startingOffset: 0, maxResults: 10 })).toMatchObject({
      extents: [{ offset: 1024 * 1024, length: 4096 }],
      nextOffset: null,
    });
    await expect(
      engine.changed({ base: snap(2), target: snap(1), startingOffset: 0, maxResults: 10 }),
    ).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(again.seq).toBeGreaterThan(0);
    expect(engine.status().snapshotIds).toEqual([snap(1), snap(2)]);
    engine.depose('test');
    const second = await rig.open();
    expect(second.status().snapshotIds).toEqual([snap(1), snap(2)]);
    for (let i = 0; i < 24; i++) await write(second, 0, randomBytes(1024 * 1024));
    await second.deleteSnapshot(snap(1));
    await second.deleteSnapshot(snap(2));
    await second.deleteSnapshot(snap(2));
    expect(await request(second, 'trim', 0, 4 * 1024 * 1024)).toBeNull();
    await eventually(() => second.status().storedBytes < 10 * 1024 * 1024, 'dead segments are deleted', 15_000);
    expect(
      rig.replicas.every(
        (replica) => replica.list().reduce((sum, stored) => sum + stored.bytes.length, 0) < 10 * 1024 * 1024,
      ),
    ).toBe(true);
    expect((await read(second, 0, 8192)).equals(Buffer.alloc(8192))).toBe(true);
    second.depose('test');
    const third = await rig.open();
    expect((await read(third, 0, 8192)).equals(Buffer.alloc(8192))).toBe(true);
  }, 60_000);

  it('recovers from a checkpoint and from the one before it', async () => {
    const rig = new EngineRig(1, { encrypted: true });
    const random = seeded(9);
    const model = Buffer.alloc(6 * 1024 * 1024);
    for (let reign = 0; reign < 4; reign++) {
      const engine = await rig.open();
      for (let i = 0; i < 40; i++) await randomOperation(engine, model, random);
      const noise = randomBytes(400_000);
      await write(engine, reign * 1000, noise);
      noise.copy(model, reign * 1000);
      await engine.freeze({ snapshotId: snap(reign), groupId: null, holdToken: null });
      // A clean close writes a checkpoint.
      await engine.close();
      expect(rig.replicas[0]!.superblock.checkpoint).not.toBeNull();
    }
    const replica = rig.replicas[0]!;
    const engine = await rig.open();
    expect((await read(engine, 0, model.length)).equals(model)).toBe(true);
    expect(engine.status().snapshotIds.length).toBe(4);
    engine.depose('test');
    // The newest root is unreadable: the one before it and the log since then give the same volume.
    const checkpoint = replica.superblock.checkpoint!;
    const stored = replica.list().find((candidate) => candidate.info.ordinal === checkpoint.segment.ordinal)!;
    stored.bytes[checkpoint.frameOffset + 300] = stored.bytes[checkpoint.frameOffset + 300]! ^ 1;
    const fallback = await rig.open();
    expect((await read(fallback, 0, model.length)).equals(model)).toBe(true);
    expect(fallback.status().snapshotIds.length).toBe(4);
  }, 60_000);

  it('answers from another replica and repairs when the local copy is damaged; an error when all are', async () => {
    const rig = new EngineRig(2, { encrypted: true });
    const engine = await rig.open();
    const data = randomBytes(8192);
    await write(engine, 0, data);
    const local = rig.replicas[0]!.list()[0]!;
    const at = local.bytes.length - 300;
    local.bytes[at] = local.bytes[at]! ^ 4;
    expect((await read(engine, 0, 8192)).equals(data)).toBe(true);
    expect(engine.status().counters.readRepairs).toBe(1);
    expect(local.bytes.equals(rig.replicas[1]!.list()[0]!.bytes)).toBe(true);
    for (const replica of rig.replicas) {
      const bytes = replica.list()[0]!.bytes;
      bytes[at] = bytes[at]! ^ 4;
    }
    expect(await request(engine, 'read', 0, 8192, Buffer.alloc(8192))).toBe('EIO');
  });

  it('withholds replies during a hold and lets the deadline end it', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await engine.hold('t', 1000);
    let answered = false;
    const pending = write(engine, 0, Buffer.alloc(4096, 1)).then(() => {
      answered = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(answered).toBe(false);
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: 't' });
    expect(engine.release('t')).toBe(true);
    await pending;
    await engine.hold('u', 50);
    await write(engine, 0, Buffer.alloc(4096, 2));
    expect(engine.release('u')).toBe(false);
    await expect(engine.freeze({ snapshotId: snap(2), groupId: null, holdToken: 'u' })).rejects.toThrow(/run out/);
  });

  it('below minReplicas reads go on and writes wait', async () => {
    const rig = new EngineRig(2);
    rig.volume = { minReplicas: 2 };
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    rig.replicas[1]!.reachable = false;
    rig.replicas[1]!.disconnect();
    await eventually(() => rig.inSync.length === 1, 'the lost replica is out of the set');
    let done = false;
    const pending = write(engine, 0, Buffer.alloc(4096, 2)).then(() => {
      done = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(done).toBe(false);
    expect(engine.status().state).toBe('paused');
    expect((await read(engine, 0, 1))[0]).toBe(1);
    rig.replicas[1]!.reachable = true;
    await pending;
    expect((await read(engine, 0, 1))[0]).toBe(2);
  });

  it('pushes back when a pool is full: ENOSPC, nobody dropped, discard still works', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    rig.replicas[1]!.free = 1024 * 1024;
    expect(await request(engine, 'write', 0, 4096, Buffer.alloc(4096, 2))).toBe('ENOSPC');
    expect(rig.inSync.length).toBe(2);
    expect(await request(engine, 'trim', 0, 4096)).toBeNull();
    rig.replicas[1]!.free = 1e12;
    await write(engine, 0, Buffer.alloc(4096, 3));
  });

  it('gives space as long to come back to a write that waited for something else before', async () => {
    const rig = new EngineRig(2);
    rig.volume = { minReplicas: 2 };
    const engine = await rig.open();
    rig.replicas[1]!.reachable = false;
    rig.replicas[1]!.disconnect();
    await eventually(() => rig.inSync.length === 1, 'the lost replica is out of the set');
    const pending = request(engine, 'write', 0, 4096, Buffer.alloc(4096, 2));
    await new Promise((resolve) => setTimeout(resolve, SPACE_WAIT_MS + 100));
    rig.replicas[1]!.free = 1024 * 1024;
    rig.replicas[1]!.reachable = true;
    await eventually(() => rig.inSync.length === 2, 'it is back');
    await new Promise((resolve) => setTimeout(resolve, SPACE_WAIT_MS / 2));
    rig.replicas[1]!.free = 1e12;
    expect(await pending).toBeNull();
  });

  it('limits operations and bytes a second', async () => {
    const rig = new EngineRig(1);
    rig.volume = { qos: { maxReadIops: 0, maxWriteIops: 100, maxReadBps: 0, maxWriteBps: 0 } };
    const engine = await rig.open();
    const started = performance.now();
    await Promise.all(Array.from({ length: 40 }, (_, i) => write(engine, i * 4096, Buffer.alloc(4096, 1))));
    // 40 at 100 a second, a tenth of a second of burst allowed.
    expect(performance.now() - started).toBeGreaterThan(250);
    engine.setQos({ maxReadIops: 0, maxWriteIops: 0, maxReadBps: 0, maxWriteBps: 0 });
    const free = performance.now();
    await Promise.all(Array.from({ length: 200 }, (_, i) => write(engine, i * 4096, Buffer.alloc(4096, 1))));
    expect(performance.now() - free).toBeLessThan(1500);
  });

  it('without the key of an encrypted volume it takes orders, but neither reads nor writes', async () => {
    const rig = new EngineRig(2, { encrypted: true });
    const engine = await rig.open();
    await write(engine, 0, Buffer.alloc(4096, 1));
    await engine.close();
    const keyless = await rig.open({ dataKey: null });
    expect(await request(keyless, 'write', 0, 4096, Buffer.alloc(4096, 2))).toBe('EPERM');
    expect(await request(keyless, 'read', 0, 4096, Buffer.alloc(4096))).toBe('EPERM');
    expect(await request(keyless, 'zero', 0, 4096)).toBe('EPERM');
    await keyless.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    await keyless.close();
    const again = await rig.open();
    expect((await read(again, 0, 1))[0]).toBe(1);
    expect(again.status().snapshotIds).toEqual([snap(1)]);
  });

  it('a deposed engine fails everything at once', async () => {
    const rig = new EngineRig(2);
    const old = await rig.open();
    await write(old, 0, Buffer.alloc(4096, 1));
    const next = await rig.open();
    await write(next, 0, Buffer.alloc(4096, 2));
    expect(await request(old, 'write', 0, 4096, Buffer.alloc(4096, 3))).toBe('ESHUTDOWN');
    expect(await request(old, 'read', 0, 4096, Buffer.alloc(4096))).toBe('ESHUTDOWN');
    expect((await read(next, 0, 1))[0]).toBe(2);
  });
});

async function randomOperation(engine: Engine, model: Buffer, random: () => number): Promise<void> {
  const aligned = random() < 0.5;
  let offset = Math.floor(random() * model.length);
  let length = 1 + Math.floor(random() ** 3 * 300_000);
  if (aligned) {
    offset -= offset % 4096;
    length = Math.ceil(length / 4096) * 4096;
  }
  length = Math.min(length, model.length - offset);
  const kind = random();
  if (kind < 0.7) {
    const data = Buffer.alloc(length);
    for (let i = 0; i < length; i += 97) data[i] = Math.floor(random() * 256);
    await write(engine, offset, data, random() < 0.1);
    data.copy(model, offset);
  } else if (kind < 0.8) {
    expect(await request(engine, 'zero', offset, length)).toBeNull();
    model.fill(0, offset, offset + length);
  } else if (kind < 0.9) {
    expect(await request(engine, 'trim', offset, length)).toBeNull();
    const from = Math.ceil(offset / 4096) * 4096;
    const to = Math.floor((offset + length) / 4096) * 4096;
    if (to > from) model.fill(0, from, to);
  } else {
    await flush(engine);
  }
}
