// The replicas of a volume follow its record and the state of the nodes. Watched at every call of a daemon: nothing is deleted that the
// store's in-sync set names, no replica is in the set that has not caught up, and there are never fewer good copies than the story allows.

import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, type VolumeId } from '../../../src/base/index.js';
import { keyOf, type NodeRecord, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, GIB, TestCluster, type TestNode } from './cluster.js';

const fourNodes: readonly TestNode[] = ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id }));
const goneAfterMs = 30 * 60_000;

async function recordOf(cluster: TestCluster, id: VolumeId): Promise<VolumeRecord> {
  return (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!.value;
}

async function change(cluster: TestCluster, id: VolumeId, step: (record: VolumeRecord) => VolumeRecord): Promise<void> {
  const { value, version } = (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!;
  expect((await cluster.store.compareAndSwap(keyOf.volume(id), version, step(value))).ok).toBe(true);
}

const nodesOf = (record: VolumeRecord) => record.replicas.map(({ nodeId }) => nodeId as string).sort();

/** Fails a story in which a good copy goes too early. Returns the smallest number of good copies seen. */
function watched(cluster: TestCluster, id: VolumeId): { least: number } {
  const seen = { least: Number.POSITIVE_INFINITY };
  const pass = cluster.daemons.hook;
  const had = new Map<string, VolumeRecord['replicas'][number]>();
  cluster.daemons.hook = async (call, node, when) => {
    const value = (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))?.value;
    if (value !== undefined && value.state === 'ready') {
      for (const replica of value.replicas) had.set(replica.id, replica);
      const good = value.inSync.filter((replicaId) => {
        const replica = had.get(replicaId);
        return cluster.daemons.nodes.get(replica!.nodeId)!.replicas.has(replicaId);
      });
      expect(good.length, `${call} at ${node}: a member of the set has no data`).toBe(value.inSync.length);
      for (const replicaId of value.inSync) expect(cluster.daemons.behind.has(replicaId)).toBe(false);
      seen.least = Math.min(seen.least, good.length);
    }
    await pass(call, node, when);
  };
  return seen;
}

/** Marks a replica lost, as the engine does, and takes it out of the set. */
async function lose(cluster: TestCluster, id: VolumeId, nodeId: string, wiped: boolean): Promise<void> {
  const record = await recordOf(cluster, id);
  const replica = record.replicas.find((one) => one.nodeId === nodeId)!;
  if (wiped) cluster.daemons.nodes.get(nodeId as NodeId)!.replicas.delete(replica.id);
  await change(cluster, id, (now) => ({
    ...now,
    replicas: now.replicas.map((one) => (one.id === replica.id ? { ...one, state: 'lost', message: 'empty' } : one)),
    inSync: now.inSync.filter((one) => one !== replica.id),
    setVersion: now.setVersion + 1,
  }));
}

async function drain(cluster: TestCluster, nodeId: string): Promise<void> {
  const key = keyOf.node(nodeId as NodeId);
  const { value, version } = (await cluster.store.get<NodeRecord>(key))!;
  const drains = [{ poolId: null, sinceMs: 1, by: 'test' }];
  expect((await cluster.store.compareAndSwap(key, version, { ...value, drains })).ok).toBe(true);
}

const isWhole = (record: VolumeRecord) =>
  record.replicas.length === record.parameters.replicas &&
  record.replicas.every(({ id, state }) => state === 'ok' && record.inSync.includes(id));

/** Lets time pass with looks as often as there are when a volume lacks something. */
async function passes(cluster: TestCluster, ms: number): Promise<void> {
  for (const endMs = cluster.clock.nowMs + ms; cluster.clock.nowMs < endMs; ) {
    cluster.clock.nowMs += 61_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
  }
}

describe('the number of replicas', () => {
  it('goes down: one leaves the set before its data goes, and up again beside the others', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const seen = watched(cluster, id);
    await cluster.control.volumes.modify(id, { replicas: '2' });
    expect(cluster.daemons.replicas).toHaveLength(3);
    await cluster.control.repairs.round();
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
    expect(cluster.daemons.replicas).toHaveLength(2);
    await cluster.control.volumes.modify(id, { replicas: '3' });
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).toEqual(['n1', 'n2', 'n3']);
    expect(seen.least).toBe(2);
  });

  it('goes up: a copy that has not caught up is not in the set, and nothing is given up for it', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol', { parameters: { replicas: '2' } });
    watched(cluster, id);
    await cluster.control.volumes.modify(id, { replicas: '3' });
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      if (call === 'Members' && when === 'before')
        for (const one of (await recordOf(cluster, id)).replicas)
          if (!(await recordOf(cluster, id)).inSync.includes(one.id)) cluster.daemons.behind.add(one.id);
      await hook(call, node, when);
    };
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(record.inSync).toHaveLength(2);
    expect(record.replicas.map(({ state }) => state)).toEqual(['ok', 'ok', 'ok']);
    expect(cluster.control.repairs.noteOf(id)?.reason).toBe('Rebuilding');
    await cluster.control.volumes.modify(id, { replicas: '2' });
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, id))).toEqual(nodesOf({ ...record, replicas: record.replicas.slice(0, 2) }));
  });

  it('goes down by whoever can best be spared: out of sync, then where two share a zone, not where it is used', async () => {
    const nodes = ['n1', 'n2', 'n3'].map((name, i) => ({ id: name, zone: i === 0 ? 'a' : 'b' }));
    const cluster = await TestCluster.make({ nodes });
    const common = { failureDomain: 'node', replicas: '3' };
    const crowded = await cluster.create('crowded', { parameters: common });
    await change(cluster, crowded.id, (now) => ({
      ...now,
      parameters: { ...now.parameters, failureDomain: 'topology.kubernetes.io/zone' },
    }));
    await cluster.daemons.attach(crowded.id, 'n3' as NodeId);
    await cluster.control.volumes.modify(crowded.id, { replicas: '2' });
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, crowded.id))).toEqual(['n1', 'n3']);

    const behind = await cluster.create('behind', { parameters: common });
    const out = behind.replicas.find(({ nodeId }) => nodeId === 'n2')!;
    cluster.daemons.behind.add(out.id);
    await change(cluster, behind.id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== out.id) }));
    await cluster.control.volumes.modify(behind.id, { replicas: '2' });
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, behind.id))).toEqual(['n1', 'n3']);
  });

  it('waits with less for as many in sync as are to stay', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    for (const one of replicas.slice(1)) cluster.daemons.behind.add(one.id);
    await change(cluster, id, (now) => ({ ...now, inSync: [now.replicas[0]!.id] }));
    await cluster.control.volumes.modify(id, { replicas: '2' });
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas).toHaveLength(3);
    cluster.daemons.behind.delete(replicas[2]!.id);
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(record.replicas.map((one) => one.id)).toEqual([replicas[0]!.id, replicas[2]!.id]);
  });

  it('keeps to zones, tags and locality when it goes up', async () => {
    const nodes = [
      { id: 'n1', zone: 'a', tags: ['fast'] },
      { id: 'n2', zone: 'b', tags: ['fast'] },
      { id: 'n3', zone: 'a', tags: ['fast'] },
      { id: 'n4', zone: 'c' },
      { id: 'n5', zone: 'd', tags: ['fast'] },
    ];
    const cluster = await TestCluster.make({ nodes });
    const parameters = { replicas: '2', failureDomain: 'zone', nodeSelector: 'fast' };
    const { id } = await cluster.create('vol', { parameters });
    await cluster.control.volumes.modify(id, { replicas: '3' });
    await cluster.control.repairs.round();
    const held = nodesOf(await recordOf(cluster, id));
    expect(held).toHaveLength(3);
    expect(new Set(held.map((node) => nodes.find((one) => one.id === node)!.zone)).size).toBe(3);
    expect(held).not.toContain('n4');
    const refused = await failure(cluster.control.volumes.modify(id, { replicas: '4' }));
    expect(refused.code).toBe('RESOURCE_EXHAUSTED');
    expect(refused.message).toContain('n4: does not carry the tag fast');
    expect((await recordOf(cluster, id)).parameters.replicas).toBe(3);
  });
});

describe('a lost replica', () => {
  it('is replaced elsewhere, and forgotten only when the new one is in sync', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes });
    const { id, replicas } = await cluster.create('vol');
    const at = replicas[1]!.nodeId;
    await lose(cluster, id, at, false);
    const { hook } = cluster.daemons;
    let forgottenEarly = false;
    cluster.daemons.hook = async (call, node, when) => {
      const record = await recordOf(cluster, id);
      if (record.inSync.length < 3 && !record.replicas.some((one) => one.id === replicas[1]!.id)) forgottenEarly = true;
      await hook(call, node, when);
    };
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).not.toContain(at);
    expect(forgottenEarly).toBe(false);
    expect(cluster.daemons.nodes.get(at)!.replicas.size).toBe(0);
  });

  it('is made anew where it was, when nothing of it is left there and there is no other place', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    await lose(cluster, id, 'n2', true);
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).toEqual(['n1', 'n2', 'n3']);
    expect(record.replicas.map((one) => one.id)).not.toContain(replicas[1]!.id);
  });

  it('without a place is told of, and is not tried all the time', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await lose(cluster, id, 'n2', false);
    await cluster.control.repairs.round();
    expect(cluster.control.repairs.noteOf(id)).toMatchObject({ reason: 'NoPlace' });
    expect(cluster.control.repairs.noteOf(id)!.message).toContain(
      `n2: still has data of a lost replica: "holdfast replace ${id} n2"`,
    );
    const [health] = await cluster.control.health([await recordOf(cluster, id)]);
    expect(health!.map(({ reason }) => reason)).toContain('NoPlaceForReplica');
    const calls = cluster.daemons.calls.length;
    for (let i = 0; i < 20; i++) await cluster.control.repairs.round();
    expect(cluster.daemons.calls.length).toBe(calls);
    expect(cluster.daemons.nodes.get('n2' as NodeId)!.replicas.size).toBe(1);
    watched(cluster, id);
    await cluster.control.replacement.order(id, 'n2', 'me');
    cluster.clock.nowMs += 60_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).toEqual(['n1', 'n2', 'n3']);
  });

  it('is given up by order only when it is out of sync and another one is in sync', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const order = (nodeId: string) => cluster.control.replacement.order(id, nodeId, 'me');
    expect((await failure(order(replicas[0]!.nodeId))).message).toContain('is in sync');
    await lose(cluster, id, replicas[0]!.nodeId, false);
    const free = fourNodes.find((node) => !nodesOf({ ...replicas, replicas } as never).includes(node.id))!.id;
    expect((await failure(order(free))).code).toBe('NOT_FOUND');
    await cluster.silence(replicas[1]!.nodeId);
    expect((await failure(order(replicas[0]!.nodeId))).code).toBe('FAILED_PRECONDITION');
  });
});

describe('a replica whose disk failed under it', () => {
  async function withFailed(nodes: readonly TestNode[]) {
    // No delay after which nodes are gone: its own daemon says that it never comes back.
    const cluster = await TestCluster.make({ nodes });
    const { id, replicas } = await cluster.create('vol');
    const bad = replicas[1]!;
    cluster.daemons.behind.add(bad.id);
    cluster.daemons.problems.set(bad.id, 'the disk failed under the replica');
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== bad.id) }));
    const seen = watched(cluster, id);
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, id))).toContain(bad.nodeId);
    await passes(cluster, 4 * 61_000);
    expect(seen.least).toBe(2);
    return { cluster, record: await recordOf(cluster, id), bad };
  }

  it('is replaced on another node soon', async () => {
    const { record, bad } = await withFailed(fourNodes);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).not.toContain(bad.nodeId);
  });

  it('makes room for a new one where it is, when there is no other node', async () => {
    const { record, bad } = await withFailed(fourNodes.slice(0, 3));
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).toContain(bad.nodeId);
    expect(record.replicas.map((one) => one.id)).not.toContain(bad.id);
  });
});

describe('a node that is gone', () => {
  async function withSilentNode(afterMs: number) {
    const cluster = await TestCluster.make({ nodes: fourNodes, goneAfterMs: afterMs });
    const { id } = await cluster.create('vol');
    const away = (await recordOf(cluster, id)).replicas[2]!.nodeId;
    await cluster.silence(away);
    return { cluster, id, away };
  }

  it('is replaced after the delay and not before; what it held is deleted when it is back', async () => {
    const { cluster, id, away } = await withSilentNode(goneAfterMs);
    const seen = watched(cluster, id);
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, id))).toContain(away);
    cluster.clock.nowMs += goneAfterMs;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(record.inSync).toHaveLength(3);
    expect(record.replicas.find(({ nodeId }) => nodeId === away)?.state).toBe('leaving');
    cluster.daemons.nodes.get(away)!.up = true;
    cluster.clock.nowMs += 60_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
    expect(cluster.daemons.nodes.get(away)!.replicas.size).toBe(0);
    expect(seen.least).toBeGreaterThanOrEqual(2);
  });

  it('is never replaced without a delay', async () => {
    const { cluster, id, away } = await withSilentNode(0);
    cluster.clock.nowMs += 100 * goneAfterMs;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, id))).toContain(away);
  });

  it('is not the only thing that is replaced: a disk that does not answer is, too, though its node does', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes, goneAfterMs });
    const { id, replicas } = await cluster.create('vol');
    const bad = replicas[1]!;
    cluster.daemons.behind.add(bad.id);
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== bad.id) }));
    await cluster.control.repairs.round();
    await passes(cluster, goneAfterMs / 2);
    expect(nodesOf(await recordOf(cluster, id))).toContain(bad.nodeId);
    await passes(cluster, goneAfterMs);
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).not.toContain(bad.nodeId);
  });

  it('that is back before its replacement is in sync keeps its replica', async () => {
    const { cluster, id, away } = await withSilentNode(goneAfterMs);
    cluster.clock.nowMs += goneAfterMs;
    await cluster.heartbeats();
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      const record = await recordOf(cluster, id);
      for (const one of record.replicas) if (one.nodeId === 'n4') cluster.daemons.behind.add(one.id);
      await hook(call, node, when);
    };
    const spare = fourNodes.map((node) => node.id).find((name) => !nodesOf0(cluster, id).includes(name));
    expect(spare).toBe('n4');
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas).toHaveLength(4);
    cluster.daemons.nodes.get(away)!.up = true;
    cluster.clock.nowMs += 60_000;
    await cluster.heartbeats();
    for (let i = 0; i < 3; i++) await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).toContain(away);
    expect(cluster.daemons.nodes.get('n4' as NodeId)!.replicas.size).toBe(0);
  });

  const nodesOf0 = (cluster: TestCluster, id: VolumeId) =>
    [...cluster.daemons.nodes.values()]
      .filter((node) => [...node.replicas.values()].some((one) => one.volumeId === id))
      .map((node) => node.id as string);
});

describe('a drained node', () => {
  it('is left one volume at a time, each with all its copies at every moment', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes });
    const ids: VolumeId[] = [];
    for (let i = 0; i < 4; i++) ids.push((await cluster.create(`vol-${i}`)).id);
    const seen = ids.map((id) => watched(cluster, id));
    let movingMost = 0;
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      const records = await Promise.all(ids.map((id) => recordOf(cluster, id)));
      movingMost = Math.max(movingMost, records.filter(({ replicas }) => replicas.length > 3).length);
      await hook(call, node, when);
    };
    const on = (await Promise.all(ids.map((id) => recordOf(cluster, id)))).filter((one) => nodesOf(one).includes('n1'));
    expect(on.length).toBeGreaterThan(1);
    await drain(cluster, 'n1');
    for (let i = 0; i < on.length; i++) await cluster.control.repairs.round();
    for (const id of ids) {
      expect(isWhole(await recordOf(cluster, id))).toBe(true);
      expect(nodesOf(await recordOf(cluster, id))).not.toContain('n1');
    }
    expect(cluster.daemons.nodes.get('n1' as NodeId)!.replicas.size).toBe(0);
    expect(movingMost).toBe(1);
    for (const one of seen) expect(one.least).toBe(3);
  });

  it('takes no new replicas, over restarts and registrations, and keeps what has no other place', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await drain(cluster, 'n1');
    await cluster.restart();
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    expect(nodesOf(await recordOf(cluster, id))).toEqual(['n1', 'n2', 'n3']);
    expect(cluster.control.repairs.noteOf(id)?.reason).toBe('NoPlace');
    expect((await failure(cluster.create('other', { parameters: { replicas: '3' } }))).message).toContain(
      'n1: is being drained',
    );
  });
});

describe('what must not get stuck', () => {
  it('a node with replicas of many volumes dies: all are replaced, and others do not wait for it', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes, goneAfterMs });
    const ids: VolumeId[] = [];
    for (let i = 0; i < 16; i++) ids.push((await cluster.create(`vol-${i}`)).id);
    const on = async (nodeId: string) =>
      (await Promise.all(ids.map((id) => recordOf(cluster, id)))).filter((one) => nodesOf(one).includes(nodeId));
    const dead = await on('n1');
    expect(dead.length).toBeGreaterThan(9);
    await cluster.silence('n1');
    for (const { id } of dead)
      await change(cluster, id, (now) => ({
        ...now,
        inSync: now.inSync.filter((one) => now.replicas.find((replica) => replica.id === one)!.nodeId !== 'n1'),
      }));
    // It only reboots, for all anybody knows: a lost disk elsewhere is not kept waiting.
    const spare = (await Promise.all(ids.map((id) => recordOf(cluster, id)))).find(
      (one) => !nodesOf(one).includes('n1'),
    );
    if (spare !== undefined) {
      await lose(cluster, spare.id, spare.replicas[0]!.nodeId, true);
      await passes(cluster, 61_000);
      expect(isWhole(await recordOf(cluster, spare.id))).toBe(true);
    }
    await passes(cluster, goneAfterMs + 10 * 61_000);
    for (const { id } of dead) expect((await recordOf(cluster, id)).inSync).toHaveLength(3);
  });

  it.each(['behind', 'lost'] as const)('the only good copy is to leave and the other one is %s', async (what) => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const [leaving, other] = replicas as [(typeof replicas)[0], (typeof replicas)[0]];
    if (what === 'lost') cluster.daemons.nodes.get(other.nodeId)!.replicas.delete(other.id);
    await change(cluster, id, (now) => ({
      ...now,
      parameters: { ...now.parameters, replicas: 1 },
      inSync: [leaving.id],
      replicas: [
        { ...leaving, state: 'leaving' },
        { ...other, state: what === 'lost' ? 'lost' : 'ok' },
      ],
    }));
    const seen = watched(cluster, id);
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(record.replicas.map((one) => one.id)).not.toContain(leaving.id);
    expect(seen.least).toBe(1);
  });

  it('a replica that came back long ago is not taken for one that stalled', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes, goneAfterMs });
    const { id, replicas } = await cluster.create('vol');
    const late = replicas[2]!;
    cluster.daemons.behind.add(late.id);
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== late.id) }));
    await cluster.control.repairs.round();
    cluster.daemons.behind.delete(late.id);
    await cluster.control.repairs.round();
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
    await passes(cluster, 2 * goneAfterMs);
    await drain(cluster, fourNodes.find((node) => !nodesOf({ replicas } as never).includes(node.id))!.id);
    await passes(cluster, 61_000);
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toEqual(replicas.map((one) => one.id));
  });

  it('a volume whose source hangs gets no copies that nobody can fill', async () => {
    const cluster = await TestCluster.make({ nodes: [...fourNodes, { id: 'n5' }, { id: 'n6' }], goneAfterMs });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    await change(cluster, id, (now) => ({ ...now, inSync: [replicas[0]!.id] }));
    for (const one of replicas) cluster.daemons.problems.set(one.id, 'its disk does not answer');
    await passes(cluster, 5 * goneAfterMs);
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toEqual(replicas.map((one) => one.id));
  });

  it.each([
    new HoldfastError('ALREADY_EXISTS', 'a replica of the volume is here already'),
    new HoldfastError('UNAVAILABLE', 'the disk failed', { reason: 'DiskFailed' }),
    new HoldfastError('RESOURCE_EXHAUSTED', 'this worker has its fill'),
  ])('a place that refuses ($code) is not asked for ever', async (refusal) => {
    const nodes = ['n1', 'n2', 'n3', 'n4'].map((name) => ({
      id: name,
      capacityBytes: name === 'n3' ? 900 * GIB : 100 * GIB,
    }));
    const cluster = await TestCluster.make({ nodes });
    cluster.daemons.nodes.get('n3' as NodeId)!.up = false;
    const { id } = await cluster.create('vol', { parameters: { replicas: '2' } }).catch(async () => {
      await cluster.silence('n3');
      return cluster.create('vol', { parameters: { replicas: '2' } });
    });
    const bad = cluster.daemons.nodes.get('n3' as NodeId)!;
    bad.up = true;
    bad.refuseCreate = refusal;
    await cluster.heartbeats();
    await cluster.control.volumes.modify(id, { replicas: '3' });
    await passes(cluster, 6 * 61_000);
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    expect(nodesOf(record)).not.toContain('n3');
  });
});

describe('a controller that dies at any step', () => {
  type Story = (cluster: TestCluster) => Promise<{ id: VolumeId; nodes: number }>;
  const stories: Record<string, Story> = {
    'of fewer replicas': async (cluster) => {
      const { id } = await cluster.create('vol');
      return { id, nodes: 2 };
    },
    'of more replicas': async (cluster) => {
      const { id } = await cluster.create('vol', { parameters: { replicas: '2' } });
      return { id, nodes: 3 };
    },
    'of a replacement': async (cluster) => {
      const { id } = await cluster.create('vol');
      await lose(cluster, id, 'n2', true);
      return { id, nodes: 3 };
    },
  };

  it.each(Object.entries(stories))('%s leaves what the next one finishes', async (_, story) => {
    for (let step = 0; ; step++) {
      const cluster = await TestCluster.make();
      const { id, nodes } = await story(cluster);
      cluster.point.arm(step);
      let crashed = false;
      try {
        await cluster.control.volumes.modify(id, { replicas: String(nodes) });
        const seen = watched(cluster, id);
        await cluster.control.repairs.round();
        expect(seen.least).toBeGreaterThanOrEqual(2);
      } catch (error) {
        if (!cluster.point.dead) throw error;
      }
      crashed = cluster.point.dead;
      await cluster.restart();
      watched(cluster, id);
      await cluster.control.volumes.modify(id, { replicas: String(nodes) });
      await cluster.control.repairs.round();
      const record = await recordOf(cluster, id);
      expect(isWhole(record)).toBe(true);
      expect(record.replicas).toHaveLength(nodes);
      const named = record.replicas.map((one) => one.id as string).sort();
      expect(cluster.daemons.replicas.map((one) => one.replicaId).sort()).toEqual(named);
      if (!crashed) {
        expect(step).toBeGreaterThan(8);
        return;
      }
    }
  });
});

describe('a metadata store that went back in time', () => {
  it('does not cost the copy that holds what was written since', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol', { parameters: { replicas: '1' } });
    await cluster.control.volumes.modify(id, { replicas: '2' });
    const { hook } = cluster.daemons;
    let old: VolumeRecord | undefined;
    cluster.daemons.hook = async (call, node, when) => {
      // As the second one is made, and not in sync yet.
      if (call === 'Members' && when === 'before') old ??= await recordOf(cluster, id);
      await hook(call, node, when);
    };
    await cluster.control.repairs.round();
    const [first, second] = (await recordOf(cluster, id)).replicas;
    await cluster.control.volumes.modify(id, { replicas: '1' });
    await drain(cluster, first!.nodeId);
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toEqual([second!.id]);
    await change(cluster, id, () => ({ ...old!, parameters: { ...old!.parameters, replicas: 1 } }));
    expect(old!.inSync).toEqual([first!.id]);
    const key = keyOf.node(first!.nodeId);
    const { value, version } = (await cluster.store.get<NodeRecord>(key))!;
    const { drains: _, ...node } = value;
    await cluster.store.compareAndSwap(key, version, node);
    await cluster.control.repairs.round();
    expect(cluster.daemons.replicas.map((one) => one.replicaId)).toEqual([second!.id]);
    expect(cluster.control.repairs.noteOf(id)).toBeDefined();
    // Nor when the volume is to be deleted.
    await change(cluster, id, (now) => ({ ...now, state: 'deleting' }));
    await cluster.settle();
    expect(cluster.daemons.replicas.map((one) => one.replicaId)).toEqual([second!.id]);
  });
});

describe('a volume that is just being attached', () => {
  it('is ordered at the node where it is to be used, and let alone after a lost race', async () => {
    const cluster = await TestCluster.make({ nodes: fourNodes });
    const { id, replicas } = await cluster.create('vol');
    expect(replicas.map((one) => one.nodeId)).not.toContain('n4');
    cluster.daemons.behind.add(replicas[2]!.id);
    const { hook } = cluster.daemons;
    const asked: string[] = [];
    cluster.daemons.hook = async (call, node, when) => {
      if (call === 'Members' && when === 'before') {
        asked.push(node);
        throw new HoldfastError('ABORTED', 'it lost its reign', { reason: 'StaleReign' });
      }
      await hook(call, node, when);
    };
    const publication = {
      readOnly: false,
      accessMode: 'SINGLE_NODE_WRITER',
      accessType: 'mount',
      publishedMs: 1,
    } as const;
    // The last has no replica.
    for (const nodeId of [replicas[0]!.nodeId, replicas[1]!.nodeId, 'n4' as NodeId]) {
      const left = replicas.find((one) => one.nodeId !== nodeId)!.nodeId;
      await change(cluster, id, (now) => ({
        ...now,
        inSync: replicas.slice(0, 2).map((one) => one.id),
        // Of the node where it was before.
        engine: { nodeId: left, maintenance: false, openedMs: 1 },
        publications: [{ nodeId, ...publication }],
      }));
      cluster.clock.nowMs += 61_000;
      await cluster.heartbeats();
      await cluster.control.repairs.round();
      expect(asked.splice(0)).toEqual([nodeId]);
    }
  });
});
