// The cleaner in an open engine: what it moves stays readable, in the volume and in snapshots, now and after the next open; and space
// comes back.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { SnapshotId, VolumeId } from '../../../src/base/index.js';
import type { Engine } from '../../../src/engine/index.js';
import { EngineRig, eventually, flush, read, request, seeded, write } from '../../lib/engine-rig.js';
import { MemoryReplica } from '../../lib/memory-replica.js';

const MiB = 1024 * 1024;
const BLOCK = 4096;
const snap = (n: number) => `50000000-0000-4000-8000-00000000000${n}` as SnapshotId;

/** Reports what a pool of that size would have left. */
function limitPools(rig: EngineRig, capacity: number): void {
  for (const replica of rig.replicas) {
    const stored = () => replica.list().reduce((sum, one) => sum + one.info.length, 0);
    Object.defineProperty(replica, 'free', { get: () => Math.max(0, capacity - stored()) });
  }
}

const noise = randomBytes(2 * MiB);

/** Incompressible, and known by block and version. */
function content(block: number, version: number): Buffer {
  const at = (block * 7919 + version * 104_729) % (2 * MiB - BLOCK);
  const bytes = Buffer.from(noise.subarray(at, at + BLOCK));
  bytes.writeUInt32LE(block, 0);
  bytes.writeUInt32LE(version, 4);
  return bytes;
}

class Model {
  readonly versions: Int32Array;
  readonly draw: () => number;
  errors = 0;
  constructor(blocks: number, seed: number) {
    this.versions = new Int32Array(blocks).fill(-1);
    this.draw = seeded(seed);
  }
  async write(engine: Engine, blocks: readonly number[]): Promise<void> {
    const first = blocks[0]!;
    const adjacent = blocks.every((block, i) => block === first + i);
    for (const block of blocks) this.versions[block]!++;
    const data = blocks.map((block) => content(block, this.versions[block]!));
    if (adjacent) await write(engine, first * BLOCK, Buffer.concat(data));
    else await Promise.all(blocks.map((block, i) => write(engine, block * BLOCK, data[i]!)));
  }
  async fill(engine: Engine, run: number): Promise<void> {
    for (let block = 0; block < this.versions.length; block += run)
      await this.write(
        engine,
        Array.from({ length: run }, (_, i) => block + i),
      );
  }
  async overwrite(engine: Engine, writes: number, least = 0): Promise<void> {
    for (let i = 0; i < writes; i += 16) {
      const blocks = new Set<number>();
      while (blocks.size < 16) blocks.add(least + Math.floor(this.draw() * (this.versions.length - least)));
      await this.write(
        engine,
        [...blocks].sort((a, b) => b - a),
      );
    }
  }
  async check(engine: Engine): Promise<void> {
    const wrong: number[] = [];
    for (let block = 0; block < this.versions.length; block += 64) {
      const count = Math.min(64, this.versions.length - block);
      const found = await read(engine, block * BLOCK, count * BLOCK);
      for (let i = 0; i < count; i++) {
        const version = this.versions[block + i]!;
        const wanted = version < 0 ? Buffer.alloc(BLOCK) : content(block + i, version);
        if (!found.subarray(i * BLOCK, (i + 1) * BLOCK).equals(wanted)) wrong.push(block + i);
      }
    }
    expect(wrong).toEqual([]);
  }
}

describe('cleaning', () => {
  it.each([
    { name: 'records of one block', run: 1, encrypted: false },
    { name: 'records of four, encrypted, overwritten one by one', run: 32, encrypted: true },
  ])(
    'keeps a nearly full pool writable: $name',
    async ({ run, encrypted }) => {
      const sizeBytes = 48 * MiB;
      const rig = new EngineRig(1, { sizeBytes, encrypted });
      limitPools(rig, sizeBytes * 1.35 + 64 * MiB);
      let engine = await rig.open();
      const model = new Model(sizeBytes / BLOCK, 7);
      await model.fill(engine, run);
      let moved = 0;
      // Crashes at different distances from the last checkpoint.
      for (let round = 0; round < 3; round++) {
        await model.overwrite(engine, 2_600 + 500 * round);
        moved += engine.status().counters.movedBytes;
        await flush(engine);
        engine.depose('crash');
        engine = await rig.open();
        await model.check(engine);
      }
      expect(moved).toBeGreaterThan(8 * MiB);
      await engine.close();
      engine = await rig.open();
      await model.check(engine);
      engine.depose('end');
    },
    120_000,
  );

  it('moves what only a snapshot needs, and leaves the snapshot as it was', async () => {
    const sizeBytes = 24 * MiB;
    const rig = new EngineRig(1, { sizeBytes });
    limitPools(rig, sizeBytes * 2.2 + 64 * MiB);
    const engine = await rig.open();
    const model = new Model(sizeBytes / BLOCK, 9);
    await model.fill(engine, 32);
    await model.overwrite(engine, 3_000);
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    const frozen = Int32Array.from(model.versions);
    const names = rig.replicas[0]!.list().map(({ info }) => info.ordinal);
    await model.overwrite(engine, 14_000);
    expect(engine.status().counters.movedBytes).toBeGreaterThan(4 * MiB);
    // What a mover overlooks keeps its segment from dying: of those the snapshot began with, few are left.
    const left = rig.replicas[0]!.list().filter(({ info }) => names.includes(info.ordinal));
    expect(left.length).toBeLessThan(names.length / 2);
    await model.check(engine);
    const newVolumeId = '60000000-0000-4000-8000-000000000001' as VolumeId;
    const targets = rig.members().map((member) => ({ sourceReplicaId: member.replicaId, member }));
    await engine.clone({ snapshotId: snap(1), newVolumeId, targets, parameters: {} });
    const order = rig.replicas[0]!.clones[0]!;
    engine.depose('end');

    const other = new EngineRig(1, { sizeBytes });
    other.replicas[0] = new MemoryReplica(order.superblock);
    rig.replicas[0]!.copyInto(other.replicas[0]!, order.segments);
    other.volume = { volumeId: newVolumeId };
    other.epoch = rig.epoch;
    const clone = await other.open();
    model.versions.set(frozen);
    await model.check(clone);
    clone.depose('end');
  }, 60_000);

  it('passes over a victim that nobody has intact, and goes on with the others', async () => {
    const sizeBytes = 24 * MiB;
    const rig = new EngineRig(1, { sizeBytes });
    limitPools(rig, sizeBytes * 1.5 + 64 * MiB);
    const engine = await rig.open();
    const model = new Model(sizeBytes / BLOCK, 10);
    await model.fill(engine, 32);
    const [first] = rig.replicas[0]!.list();
    // In the payload of one of its first records.
    first!.bytes[16 * 1024]! ^= 1;
    await model.overwrite(engine, 8_000, 64);
    expect(engine.status().counters.movedBytes).toBeGreaterThan(2 * MiB);
    const ordinals = rig.replicas[0]!.list().map(({ info }) => info.ordinal);
    expect(ordinals).toContain(first!.info.ordinal);
    expect(ordinals).not.toContain(first!.info.ordinal + 1);
    engine.depose('end');
  }, 60_000);

  it('moves what the nearest replica has damaged from another one, and mends it', async () => {
    const sizeBytes = 24 * MiB;
    const rig = new EngineRig(2, { sizeBytes });
    limitPools(rig, sizeBytes * 1.5 + 64 * MiB);
    const engine = await rig.open();
    const model = new Model(sizeBytes / BLOCK, 11);
    await model.fill(engine, 32);
    const [first, second] = rig.replicas[0]!.list();
    // In payloads that nothing overwrites.
    for (const at of [16 * 1024, 90 * 1024, 200 * 1024]) first!.bytes[at]! ^= 1;
    await model.overwrite(engine, 8_000, 64);
    const segments = rig.replicas.map((replica) => replica.list());
    const ordinals = segments[0]!.map(({ info }) => info.ordinal);
    expect(ordinals).not.toContain(first!.info.ordinal);
    expect(ordinals).not.toContain(second!.info.ordinal);
    expect(engine.status().counters.readRepairs).toBeGreaterThan(0);
    await model.check(engine);
    expect(segments[0]!.map(({ bytes }, i) => bytes.equals(segments[1]![i]!.bytes))).not.toContain(false);
    engine.depose('end');
  }, 60_000);

  it('gives back what a stream overwrites as fast as it is written', async () => {
    const rig = new EngineRig(1, { sizeBytes: 32 * MiB });
    const engine = await rig.open();
    const model = new Model((32 * MiB) / BLOCK, 9);
    let most = 0;
    for (let pass = 0; pass < 10; pass++) {
      await model.fill(engine, 32);
      most = Math.max(most, engine.status().storedBytes);
    }
    // What lives, what may wait for checkpoints to pass it, and what is written meanwhile.
    expect(most).toBeLessThan((32 + 48 + 48) * MiB);
    await model.check(engine);
    engine.depose('end');
  }, 40_000);

  it('gives a discarded volume back to the pool while idle', async () => {
    const rig = new EngineRig(1, { sizeBytes: 96 * MiB });
    const engine = await rig.open();
    const model = new Model((96 * MiB) / BLOCK, 8);
    await model.fill(engine, 32);
    const filled = engine.status().storedBytes;
    await request(engine, 'trim', 0, 96 * MiB);
    await eventually(() => engine.status().storedBytes < filled / 20, 'shrunk', 20_000);
    engine.depose('end');
  }, 40_000);
});
