// Copies are missing in ways that the simple stories of repairs.test.ts leave out: after one was let go, several at once, and while other
// volumes only wait.

import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, type VolumeId } from '../../../src/base/index.js';
import { keyOf, type NodeRecord, type ReplicaRecord, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, TestClock, TestCluster, type TestNode } from './cluster.js';

const nodesUpTo = (count: number): TestNode[] => Array.from({ length: count }, (_, i) => ({ id: `n${i + 1}` }));
const goneAfterMs = 30 * 60_000;

async function recordOf(cluster: TestCluster, id: VolumeId): Promise<VolumeRecord> {
  return (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!.value;
}

async function change(cluster: TestCluster, id: VolumeId, step: (record: VolumeRecord) => VolumeRecord): Promise<void> {
  const { value, version } = (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!;
  expect((await cluster.store.compareAndSwap(keyOf.volume(id), version, step(value))).ok).toBe(true);
}

async function passes(cluster: TestCluster, ms: number): Promise<void> {
  for (const endMs = cluster.clock.nowMs + ms; cluster.clock.nowMs < endMs; ) {
    cluster.clock.nowMs += 61_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
  }
}

async function comesBack(cluster: TestCluster, nodeId: NodeId): Promise<void> {
  cluster.daemons.nodes.get(nodeId)!.up = true;
  await passes(cluster, 3 * 61_000);
}

const holds = (cluster: TestCluster, { id, nodeId }: ReplicaRecord) =>
  cluster.daemons.nodes.get(nodeId)!.replicas.has(id);
const isWhole = (record: VolumeRecord) =>
  record.replicas.length === record.parameters.replicas &&
  record.replicas.every(({ id, state }) => state === 'ok' && record.inSync.includes(id));

describe('a good replica that was let go', () => {
  /** Of three replicas two are to stay; the one that leaves was lost for a moment while it stood in for the last, whose node is away. */
  async function blinked() {
    const cluster = await TestCluster.make({ goneAfterMs });
    const { id, replicas } = await cluster.create('vol');
    const [stays, left, away] = replicas as [ReplicaRecord, ReplicaRecord, ReplicaRecord];
    await change(cluster, id, (now) => ({
      ...now,
      parameters: { ...now.parameters, replicas: 2 },
      replicas: [now.replicas[0]!, { ...now.replicas[1]!, state: 'leaving', spare: true }, now.replicas[2]!],
      inSync: [stays.id],
      setVersion: 9,
    }));
    return { cluster, id, stays, left, away };
  }

  it('is called back when copies are missing after all, and goes when they are there', async () => {
    const { cluster, id, stays, left, away } = await blinked();
    await cluster.silence(away.nodeId);
    await cluster.control.repairs.round();
    expect(holds(cluster, left)).toBe(true);
    expect((await recordOf(cluster, id)).inSync).toEqual([stays.id, left.id]);
    await comesBack(cluster, away.nodeId);
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(cluster.daemons.replicas).toHaveLength(2);
  });

  it('is not deleted by the word of the record: the engine has to show the others', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    const [good, wiped, behind] = replicas as [ReplicaRecord, ReplicaRecord, ReplicaRecord];
    // Nobody has noticed yet, the volume is closed.
    cluster.daemons.nodes.get(wiped.nodeId)!.replicas.clear();
    await change(cluster, id, (now) => ({
      ...now,
      parameters: { ...now.parameters, replicas: 2 },
      inSync: [good.id, wiped.id],
    }));
    await cluster.control.repairs.round();
    expect(holds(cluster, behind)).toBe(true);
    await passes(cluster, 2 * 61_000);
    expect(holds(cluster, behind)).toBe(true);
    expect((await recordOf(cluster, id)).inSync).toEqual([good.id, behind.id]);
  });

  it('is not called back once its deletion was ordered, and that goes on after a crash', async () => {
    const { cluster, id, left, away } = await blinked();
    await change(cluster, id, (now) => ({ ...now, inSync: [now.replicas[0]!.id, away.id] }));
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      if (call === 'Retire' && when === 'after') {
        cluster.daemons.hook = hook;
        throw new Error('the controller dies');
      }
      await hook(call, node, when);
    };
    await cluster.control.repairs.round();
    expect(holds(cluster, left)).toBe(false);
    expect((await recordOf(cluster, id)).replicas[1]).toMatchObject({ id: left.id, state: 'leaving' });
    await cluster.restart();
    await cluster.silence(away.nodeId);
    await passes(cluster, 61_000);
    // It is not there any more: nothing waits for it.
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).not.toContain(left.id);
  });

  it('can be gone on from when everything else is lost', async () => {
    const { cluster, id, stays, left, away } = await blinked();
    for (const { nodeId } of [stays, away]) cluster.daemons.nodes.get(nodeId)!.up = false;
    const order = { volumeId: id, confirmed: true, by: 'somebody', giveUpNodes: [] };
    expect((await cluster.control.lossAcceptance.accept(order)).survivors).toEqual([left.nodeId]);
    const record = await recordOf(cluster, id);
    expect(record.inSync).toEqual([left.id]);
    expect(record.replicas[1]).toMatchObject({ state: 'ok' });
    expect(record.replicas[1]).not.toHaveProperty('spare');
    const late = { ...order, confirmed: false };
    expect((await failure(cluster.control.lossAcceptance.accept(late))).message).toContain('misses nothing');
  });
});

describe('several copies are missing', () => {
  it('as many are made as there are places for', async () => {
    const cluster = await TestCluster.make({ nodes: nodesUpTo(4), goneAfterMs });
    const { id, replicas } = await cluster.create('vol');
    // Both count as gone at the same look.
    for (const { nodeId } of replicas.slice(1)) cluster.daemons.nodes.get(nodeId)!.up = false;
    cluster.clock.nowMs += goneAfterMs;
    await passes(cluster, 3 * 61_000);
    const record = await recordOf(cluster, id);
    const free = nodesUpTo(4).find((node) => !replicas.some(({ nodeId }) => nodeId === node.id))!;
    const inSync = record.replicas.filter((one) => record.inSync.includes(one.id)).map(({ nodeId }) => nodeId);
    expect(inSync.sort()).toEqual([replicas[0]!.nodeId, free.id].sort());
    expect(cluster.control.repairs.noteOf(id)?.reason).toBe('NoPlace');
  });

  it('and those that were made died, too: others are made, and the volume is not forgotten', async () => {
    const cluster = await TestCluster.make({ nodes: nodesUpTo(6), goneAfterMs });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const [source] = replicas as [ReplicaRecord];
    // Whatever is made dies before it is whole.
    const { hook } = cluster.daemons;
    let dying = true;
    cluster.daemons.hook = async (call, node, when) => {
      if (dying && call === 'Members')
        for (const one of (await recordOf(cluster, id)).replicas)
          if (one.id !== source.id) {
            cluster.daemons.behind.add(one.id);
            cluster.daemons.nodes.get(one.nodeId)!.up = false;
          }
      await hook(call, node, when);
    };
    cluster.daemons.nodes.get(replicas[1]!.nodeId)!.up = false;
    await change(cluster, id, (now) => ({ ...now, inSync: [source.id] }));
    while ((await recordOf(cluster, id)).replicas.length < 5) {
      await passes(cluster, goneAfterMs + 2 * 61_000);
      expect(cluster.clock.nowMs).toBeLessThan(20 * goneAfterMs);
    }
    dying = false;
    await passes(cluster, 2 * goneAfterMs);
    const record = await recordOf(cluster, id);
    expect(record.inSync).toHaveLength(2);
    expect(record.inSync).toContain(source.id);
  });
});

describe('a volume whose engine can not be asked', () => {
  it('is asked again after a pause that grows, and not at each look', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.slice(0, 2) }));
    const { hook } = cluster.daemons;
    let asked = 0;
    cluster.daemons.hook = async (call, node, when) => {
      if (call === 'Members' && when === 'before') {
        asked++;
        throw new HoldfastError('DATA_LOSS', 'it can not be opened');
      }
      await hook(call, node, when);
    };
    for (let i = 0; i < 40; i++) await cluster.control.repairs.round();
    expect(asked).toBe(1);
    for (let i = 0; i < 60; i++) {
      cluster.clock.nowMs += 1_000;
      await cluster.control.repairs.round();
    }
    expect(asked).toBeGreaterThan(2);
    expect(asked).toBeLessThan(12);
  });
});

describe('volumes that only wait', () => {
  it('hold up no other', async () => {
    const cluster = await TestCluster.make({ nodes: nodesUpTo(4) });
    const ids: VolumeId[] = [];
    for (let i = 0; i < 24; i++) ids.push((await cluster.create(`vol-${i}`, { parameters: { replicas: '2' } })).id);
    const records = await Promise.all(ids.map((id) => recordOf(cluster, id)));
    const [other, ...rest] = records.filter((one) => one.replicas.every(({ nodeId }) => nodeId !== 'n1'));
    const waiting = records.filter((one) => !rest.includes(one) && one !== other);
    expect(waiting.length).toBeGreaterThanOrEqual(8);
    await cluster.silence('n1');
    for (const { id } of waiting)
      await change(cluster, id, (now) => ({
        ...now,
        inSync: now.replicas.filter(({ nodeId }) => nodeId === 'n1').map((one) => one.id),
      }));
    await passes(cluster, 61_000);
    expect(cluster.control.repairs.noteOf(waiting[0]!.id)?.reason).toBe('Waiting');
    const lost = other!.replicas[0]!;
    cluster.daemons.nodes.get(lost.nodeId)!.replicas.delete(lost.id);
    await change(cluster, other!.id, (now) => ({
      ...now,
      replicas: now.replicas.map((one) => (one.id === lost.id ? { ...one, state: 'lost' } : one)),
      inSync: now.inSync.filter((one) => one !== lost.id),
    }));
    await passes(cluster, 2 * 61_000);
    expect(isWhole(await recordOf(cluster, other!.id))).toBe(true);
  });

  it('hold up no other either while their source hangs though its node answers', async () => {
    const cluster = await TestCluster.make({ nodes: nodesUpTo(4) });
    const ids: VolumeId[] = [];
    for (let i = 0; i < 12; i++) ids.push((await cluster.create(`vol-${i}`, { parameters: { replicas: '2' } })).id);
    for (const id of ids.slice(1)) {
      await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.slice(0, 1) }));
      cluster.daemons.problems.set((await recordOf(cluster, id)).inSync[0]!, 'its disk does not answer');
    }
    await passes(cluster, 61_000);
    const { value, version } = (await cluster.store.get<NodeRecord>(
      keyOf.node((await recordOf(cluster, ids[0]!)).replicas[0]!.nodeId),
    ))!;
    const drains = [{ poolId: null, sinceMs: 1, by: 'test' }];
    await cluster.store.compareAndSwap(keyOf.node(value.id), version, { ...value, drains });
    await change(cluster, ids[0]!, (now) => ({ ...now, parameters: { ...now.parameters, replicas: 3 } }));
    await passes(cluster, 2 * 61_000);
    expect((await recordOf(cluster, ids[0]!)).inSync).toHaveLength(3);
  });
});

describe('a controller whose machine slept for an hour', () => {
  class SleepyClock extends TestClock {
    oversleepMs = 0;
    onSleep: () => Promise<void> = async () => {};
    override async sleep(delayMs: number): Promise<void> {
      const lateMs = this.oversleepMs;
      this.oversleepMs = 0;
      await super.sleep(delayMs + lateMs);
      await this.onSleep();
    }
  }

  it('gives every node its time again', async () => {
    const clock = new SleepyClock();
    const cluster = await TestCluster.make({ nodes: nodesUpTo(4), goneAfterMs }, clock);
    const { id, replicas } = await cluster.create('vol');
    const late = cluster.daemons.nodes.get(replicas[2]!.nodeId)!;
    const end = new AbortController();
    let sleeps = 0;
    clock.onSleep = async () => {
      sleeps++;
      // The last one's sign of life comes after those of the others.
      if (sleeps === 3) {
        late.up = false;
        clock.oversleepMs = 60 * 60_000;
      }
      await cluster.heartbeats();
      if (sleeps === 12) end.abort();
    };
    await cluster.control.repairs.run(end.signal);
    expect(sleeps).toBeGreaterThanOrEqual(12);
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toEqual(replicas.map((one) => one.id));
    expect(clock.nowMs).toBeGreaterThan(60 * 60_000);
  });
});
