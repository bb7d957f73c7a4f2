// Space that is given back: dead segments go, and nothing goes that something may still need.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { SnapshotId, VolumeId } from '../../../src/base/index.js';
import { segmentFileName } from '../../../src/format/index.js';
import { EngineRig, eventually, read, request, write } from '../../lib/engine-rig.js';
import type { MemoryReplica } from '../../lib/memory-replica.js';

const snap = (n: number) => `50000000-0000-4000-8000-00000000000${n}` as SnapshotId;
const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** A clone takes a checkpoint: the quick way to one. */
const clone = (rig: EngineRig, n: number) => ({
  snapshotId: snap(n),
  newVolumeId: '60000000-0000-4000-8000-000000000001' as VolumeId,
  targets: [rig.members()[0]!].map((member) => ({ sourceReplicaId: member.replicaId, member })),
  parameters: {},
});

describe('dead segments', () => {
  it('go while reads never pause', async () => {
    const rig = new EngineRig(1);
    const engine = await rig.open();
    for (let i = 0; i < 24; i++) await write(engine, 0, randomBytes(1024 * 1024));
    let on = true;
    const reader = async () => {
      while (on) await read(engine, 512 * 1024, 4096);
    };
    const readers = [1, 2, 3, 4].map(reader);
    await request(engine, 'trim', 0, 4096);
    const ended = eventually(() => engine.status().storedBytes < 20 * 1024 * 1024, 'dead', 12_000);
    await ended.finally(() => {
      on = false;
    });
    await Promise.all(readers);
  }, 30_000);

  it('stay while a superblock does not name a checkpoint without them', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    for (let i = 0; i < 24; i++) await write(engine, 0, randomBytes(1024 * 1024));
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    const full = rig.replicas[1]!;
    let superblock = full.superblock;
    Object.defineProperty(full, 'superblock', {
      get: () => superblock,
      set: (next: typeof superblock) => {
        if (next.checkpoint !== superblock.checkpoint) throw new Error('no room for the superblock');
        superblock = next;
      },
    });
    const before = rig.replicas.map((replica) => replica.list().length);
    for (let i = 0; i < 3; i++) await engine.clone(clone(rig, 1)).catch(() => undefined);
    expect(superblock.checkpoint).toBeNull();
    for (const [i, replica] of rig.replicas.entries()) expect(replica.list().length).toBeGreaterThanOrEqual(before[i]!);
    engine.depose('test');
  }, 30_000);
});

describe('a clone', () => {
  it('never follows the deletion of its snapshot in the log', async () => {
    const rig = new EngineRig(1);
    const engine = await rig.open();
    await write(engine, 0, randomBytes(4096));
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    rig.replicas[0]!.paused = true;
    const deletion = engine.deleteSnapshot(snap(1));
    const cloning = engine.clone(clone(rig, 1)).then(
      () => 'done',
      (error) => String(error),
    );
    await sleep(50);
    rig.replicas[0]!.resume();
    await deletion;
    expect(await cloning).not.toBe('done');
  });

  it('does not ask for a dead segment, which a power loss may have brought back on one replica only', async () => {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    for (let i = 0; i < 24; i++) await write(engine, 0, randomBytes(1024 * 1024));
    const [first, second] = rig.replicas as [MemoryReplica, MemoryReplica];
    const [name, segment] = [...first.segments].sort()[0]!;
    await engine.freeze({ snapshotId: snap(1), groupId: null, holdToken: null });
    await engine.clone(clone(rig, 1));
    await eventually(() => !first.segments.has(name) && !second.segments.has(name), 'deleted');
    await engine.close();
    first.segments.set(name, segment);
    const next = await rig.open();
    await next.clone(clone(rig, 1));
    const wanted = first.clones.at(-1)!.segments.map(segmentFileName);
    expect(wanted.length).toBeGreaterThan(0);
    for (const one of wanted) expect([...second.segments.keys()]).toContain(one);
    await next.close();
  }, 30_000);
});
