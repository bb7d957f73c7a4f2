// The controller dies between any two steps of each operation, comes back, and the caller repeats (or never does). Whatever
// the step, the outcome is that of one undisturbed run (or of none).

import { describe, expect, it } from 'vitest';
import type { NodeId, VolumeId } from '../../../src/base/index.js';
import type { VolumeRecord } from '../../../src/meta/index.js';
import { TestCluster } from './cluster.js';

interface Story {
  prepare?(cluster: TestCluster): Promise<void>;
  run(cluster: TestCluster): Promise<unknown>;
  /** After the repetition succeeded. */
  finished(cluster: TestCluster): Promise<void>;
  /** After a crash that nobody repeated, once the loop had its time. Without it, that is not looked at. */
  undone?(cluster: TestCluster): Promise<void>;
}

/** Whether the controller died. Steps whose failure is only logged die silently; it is dead all the same. */
async function dies(cluster: TestCluster, work: () => Promise<unknown>): Promise<boolean> {
  try {
    await work();
  } catch (error) {
    if (!cluster.point.dead) throw error;
  }
  return cluster.point.dead;
}

/** Runs `story` with a crash at step 0, 1, 2, ... until it gets through. Returns how many crash points there were. */
async function everywhere(story: Story): Promise<number> {
  for (let step = 0; ; step++) {
    for (const repeat of story.undone === undefined ? [true] : [true, false]) {
      const cluster = await TestCluster.make();
      await story.prepare?.(cluster);
      cluster.point.arm(step);
      const crashed = await dies(cluster, () => story.run(cluster));
      await cluster.restart();
      if (repeat || !crashed) {
        await story.run(cluster);
        await cluster.settle();
        await story.finished(cluster);
      } else {
        await cluster.settle();
        await story.undone!(cluster);
      }
      if (!crashed) return step;
    }
  }
}

async function volumeNamed(cluster: TestCluster, name: string): Promise<VolumeRecord | undefined> {
  const { items } = await cluster.control.volumes.list({ maxEntries: 0, startingToken: '' });
  return items.find((record) => record.name === name);
}

/** Daemons hold exactly the replicas that records name. */
async function noStrays(cluster: TestCluster): Promise<void> {
  const { entries } = await cluster.store.list<VolumeRecord>('volume/');
  const named = entries.flatMap(({ value }) => value.replicas.map((replica) => replica.id as string)).sort();
  expect(cluster.daemons.replicas.map((replica) => replica.replicaId).sort()).toEqual(named);
}

async function ready(cluster: TestCluster, name: string): Promise<VolumeRecord> {
  const record = (await volumeNamed(cluster, name))!;
  expect(record.state).toBe('ready');
  expect(record.replicas.map((replica) => replica.state)).toEqual(['ok', 'ok', 'ok']);
  expect([...record.inSync].sort()).toEqual(record.replicas.map((replica) => replica.id).sort());
  expect(record.setVersion).toBe(1);
  for (const replica of record.replicas) {
    const held = cluster.daemons.nodes.get(replica.nodeId)!.replicas.get(replica.id);
    expect(held?.incarnationId).toBe(replica.incarnationId);
  }
  return record;
}

const sourceId = async (cluster: TestCluster) => (await volumeNamed(cluster, 'source'))!.id;
const source = async (cluster: TestCluster) => void (await cluster.create('source'));

describe('a controller that dies between any two steps', () => {
  it('creates a volume once', async () => {
    const points = await everywhere({
      run: (cluster) => cluster.create('vol'),
      async finished(cluster) {
        await ready(cluster, 'vol');
        expect(await cluster.keys()).toEqual({ volume: 1, 'volume-name': 1 });
        await noStrays(cluster);
      },
      async undone(cluster) {
        const record = await volumeNamed(cluster, 'vol');
        expect(await cluster.keys()).toEqual(record === undefined ? {} : { volume: 1, 'volume-name': 1 });
        await noStrays(cluster);
      },
    });
    expect(points).toBeGreaterThan(10);
  });

  it('deletes a volume with everything that was its own', async () => {
    const points = await everywhere({
      prepare: source,
      async run(cluster) {
        const record = await volumeNamed(cluster, 'source');
        if (record !== undefined) await cluster.control.volumes.delete(record.id);
      },
      async finished(cluster) {
        expect(await cluster.keys()).toEqual({});
        expect(cluster.daemons.replicas).toEqual([]);
      },
      async undone(cluster) {
        const record = await volumeNamed(cluster, 'source');
        expect(await cluster.keys()).toEqual(record === undefined ? {} : { volume: 1, 'volume-name': 1 });
        await noStrays(cluster);
      },
    });
    expect(points).toBeGreaterThan(10);
  });

  it('takes a snapshot once', async () => {
    const points = await everywhere({
      prepare: source,
      run: async (cluster) => cluster.control.snapshots.create('snap', await sourceId(cluster)),
      async finished(cluster) {
        const again = await cluster.control.snapshots.create('snap', await sourceId(cluster));
        expect(again.state).toBe('ready');
        expect([...cluster.daemons.volumes.get(again.volumeId)!.snapshots.keys()]).toEqual([again.id]);
        expect(await cluster.keys()).toEqual({ volume: 1, 'volume-name': 1, snapshot: 1, 'snapshot-name': 1 });
      },
      async undone(cluster) {
        const { items } = await cluster.control.snapshots.list(
          { snapshotId: '', sourceVolumeId: '' },
          { maxEntries: 0, startingToken: '' },
        );
        const frozen = [...cluster.daemons.volumes.get(await sourceId(cluster))!.snapshots.keys()];
        expect(frozen).toEqual(items.map((snapshot) => snapshot.id));
        const keys = { volume: 1, 'volume-name': 1 };
        expect(await cluster.keys()).toEqual(items.length === 0 ? keys : { ...keys, snapshot: 1, 'snapshot-name': 1 });
      },
    });
    expect(points).toBeGreaterThan(6);
  });

  it('deletes the last snapshot of a deleted volume, and with it the volume', async () => {
    await everywhere({
      async prepare(cluster) {
        const { id } = await cluster.create('source');
        await cluster.control.snapshots.create('snap', id);
        await cluster.control.volumes.delete(id);
      },
      async run(cluster) {
        const { items } = await cluster.control.snapshots.list(
          { snapshotId: '', sourceVolumeId: '' },
          { maxEntries: 0, startingToken: '' },
        );
        if (items[0] !== undefined) await cluster.control.snapshots.delete(items[0].id);
      },
      async finished(cluster) {
        expect(await cluster.keys()).toEqual({});
        expect(cluster.daemons.replicas).toEqual([]);
      },
    });
  });

  it('clones a volume once and leaves nothing behind in the source', async () => {
    const points = await everywhere({
      prepare: source,
      run: async (cluster) => cluster.create('clone', { source: { kind: 'volume', id: await sourceId(cluster) } }),
      async finished(cluster) {
        const clone = await ready(cluster, 'clone');
        const origin = (await volumeNamed(cluster, 'source'))!;
        expect(clone.lineageId).toBe(origin.lineageId);
        expect(clone.epoch).toBeGreaterThan(0);
        expect(clone.epoch).toBeLessThanOrEqual(origin.epoch);
        expect([...cluster.daemons.volumes.get(origin.id)!.snapshots.keys()]).toEqual([]);
        expect(await cluster.keys()).toEqual({ volume: 2, 'volume-name': 2 });
        await noStrays(cluster);
      },
      async undone(cluster) {
        const clone = await volumeNamed(cluster, 'clone');
        const count = clone === undefined ? 1 : 2;
        expect(await cluster.keys()).toEqual({ volume: count, 'volume-name': count });
        expect([...cluster.daemons.volumes.get(await sourceId(cluster))!.snapshots.keys()]).toEqual([]);
        await noStrays(cluster);
      },
    });
    expect(points).toBeGreaterThan(12);
  });

  it('takes a group snapshot whole or not at all', async () => {
    const prepare = async (cluster: TestCluster) => {
      await cluster.create('a');
      const b = await cluster.create('b');
      await cluster.daemons.attach(b.id, 'n3' as NodeId);
    };
    const ids = async (cluster: TestCluster) =>
      [(await volumeNamed(cluster, 'a'))!.id, (await volumeNamed(cluster, 'b'))!.id] as VolumeId[];
    const frozen = async (cluster: TestCluster) =>
      (await ids(cluster)).flatMap((id) => [...cluster.daemons.volumes.get(id)!.snapshots.keys()]);
    const points = await everywhere({
      prepare,
      run: async (cluster) => cluster.control.groups.create('group', await ids(cluster)),
      async finished(cluster) {
        const view = await cluster.control.groups.create('group', await ids(cluster));
        expect(view.group.state).toBe('ready');
        expect(view.snapshots).toHaveLength(2);
        expect((await frozen(cluster)).sort()).toEqual(view.snapshots.map((snapshot) => snapshot.id as string).sort());
        expect(await cluster.keys()).toMatchObject({ group: 1, 'group-name': 1, snapshot: 2 });
      },
      async undone(cluster) {
        const keys = await cluster.keys();
        const kept = keys.group === 1;
        expect(keys.snapshot ?? 0).toBe(kept ? 2 : 0);
        expect(keys['group-name'] ?? 0).toBe(kept ? 1 : 0);
        expect(await frozen(cluster)).toHaveLength(kept ? 2 : 0);
      },
    });
    expect(points).toBeGreaterThan(20);
  });
});
