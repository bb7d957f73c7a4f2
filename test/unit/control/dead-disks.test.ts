// Disks that can't be read beside good ones of the same node, what is left of replicas that nobody names, and orders of people about both:
// none of them deletes the last good copy, and none is in the way of the others.

import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, type ReplicaId, type VolumeId } from '../../../src/base/index.js';
import { keyOf, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, GIB, TestCluster } from './cluster.js';

const secondOf = (id: string) => `00000000-0000-4000-8000-0000000000a${id.slice(1)}`;
const twoPools = (...ids: string[]) => ids.map((id) => ({ id, secondPool: secondOf(id) }));
const plain = (...ids: string[]) => ids.map((id) => ({ id }));

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

/** Its engine has found that it is lost, and has gone on without it. */
const lost =
  (id: ReplicaId, more: object = {}) =>
  (now: VolumeRecord) => ({
    ...now,
    replicas: now.replicas.map((one) => (one.id === id ? { ...one, state: 'lost' as const, ...more } : one)),
    inSync: now.inSync.filter((one) => one !== id),
    setVersion: now.setVersion + 1,
  });

const isWhole = ({ replicas, inSync, parameters }: VolumeRecord) =>
  replicas.length === parameters.replicas && replicas.every(({ id, state }) => state === 'ok' && inSync.includes(id));

describe('a disk that died', () => {
  it('is seen as failed though it can not even be listed, and given up by order; its node takes another copy then', async () => {
    const cluster = await TestCluster.make({ nodes: twoPools('n1', 'n2', 'n3') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    const bad = replicas[1]!;
    const node = cluster.daemons.nodes.get(bad.nodeId)!;
    const where = { nodeId: node.id as string, pool: bad.poolId as string };
    const forget = () => cluster.control.drains.forget(where, 'me');
    expect((await failure(forget())).message).toContain('can be used');
    node.unread.set(bad.poolId, { problem: 'the disk reports an I/O error', failed: true });
    await cluster.heartbeats();
    expect((await failure(forget())).message).toContain('1 volumes still have a replica');
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== bad.id) }));
    await passes(cluster, 5 * 61_000);
    const stuck = await recordOf(cluster, id);
    expect(stuck.replicas.find((one) => one.id === bad.id)?.state).toBe('leaving');
    expect(cluster.control.repairs.noteOf(id)?.message).toContain('has a replica of the volume that is being deleted');
    expect((await failure(cluster.control.drains.forget({ ...where, pool: '' }, 'me'))).message).toContain('answers');
    await forget();
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(isWhole(record)).toBe(true);
    const made = record.replicas.find(({ nodeId }) => nodeId === bad.nodeId)!;
    expect(made.poolId).not.toBe(bad.poolId);
  });

  it('is told of with the order that gives it up', async () => {
    const cluster = await TestCluster.make({ nodes: twoPools('n1', 'n2', 'n3', 'n4') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    const bad = replicas[1]!;
    cluster.daemons.nodes
      .get(bad.nodeId)!
      .unread.set(bad.poolId, { problem: 'the disk reports an I/O error', failed: true });
    await change(cluster, id, (now) => ({ ...now, inSync: now.inSync.filter((one) => one !== bad.id) }));
    await passes(cluster, 5 * 61_000);
    expect((await recordOf(cluster, id)).inSync).toHaveLength(3);
    const { message } = cluster.control.repairs.noteOf(id)!;
    expect(message).toContain(`if that disk never comes back, "holdfast forget ${bad.nodeId}/${bad.poolId}"`);
  });

  it('hides what may be there: a place is not used again while its node can not see all of it', async () => {
    const cluster = await TestCluster.make({ nodes: twoPools('n1', 'n2', 'n3') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    const at = replicas[1]!;
    const node = cluster.daemons.nodes.get(at.nodeId)!;
    await change(cluster, id, lost(at.id));
    // Since its last sign of life.
    node.unread.set(at.poolId, { problem: 'not mounted', failed: false });
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toContain(at.id);
    expect(node.replicas.has(at.id)).toBe(true);
  });
});

describe('what an accepted loss gave up', () => {
  async function givenUpOne() {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3', 'n4') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    await change(cluster, id, (now) => ({ ...lost(replicas[0]!.id, { givenUpEpoch: 4 })(now), epoch: 4 }));
    const node = cluster.daemons.nodes.get(replicas[0]!.nodeId)!;
    return { cluster, id, node, given: replicas[0]! };
  }

  it('is not deleted by order before the volume has opened without it, nor is that advised', async () => {
    const { cluster, id, node, given } = await givenUpOne();
    cluster.daemons.nodes.get('n4' as NodeId)!.refuseCreate = new HoldfastError('RESOURCE_EXHAUSTED', 'full');
    const order = () => cluster.control.replacement.order(id, node.id, 'me');
    expect((await failure(order())).message).toContain('was given up by an accepted loss');
    await passes(cluster, 61_000);
    expect(node.replicas.has(given.id)).toBe(true);
    const { message } = cluster.control.repairs.noteOf(id)!;
    expect(message).toContain('it is kept until the volume has opened without it');
    expect(message).not.toContain('holdfast replace');
    await change(cluster, id, (now) => ({ ...now, flushedPoint: { epoch: 5, seq: 9, digest: 'd' } }));
    await order();
    expect((await recordOf(cluster, id)).replicas.find((one) => one.id === given.id)?.state).toBe('leaving');
  });

  it('stays until as many as there should be are in sync without it, where there is a place for them', async () => {
    const { cluster, id, node, given } = await givenUpOne();
    await change(cluster, id, (now) => ({ ...now, flushedPoint: { epoch: 5, seq: 9, digest: 'd' } }));
    let early = false;
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, at, when) => {
      const { inSync } = await recordOf(cluster, id);
      if (!node.replicas.has(given.id) && inSync.length < 3) early = true;
      await hook(call, at, when);
    };
    await cluster.control.repairs.round();
    await passes(cluster, 61_000);
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
    expect(node.replicas.has(given.id)).toBe(false);
    expect(early).toBe(false);
  });
});

describe('a replica given up by order', () => {
  it('is deleted on the word of the engine only: a good one whose disk nobody noticed is no good one', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const [a, b] = replicas as [(typeof replicas)[0], (typeof replicas)[0]];
    await change(cluster, id, lost(b.id));
    // By the record and its heartbeat it is in sync.
    cluster.daemons.problems.set(a.id, 'its disk is dead');
    const { code, message } = await failure(cluster.control.replacement.order(id, b.nodeId, 'me'));
    expect(code).toBe('FAILED_PRECONDITION');
    expect(message).toContain('shows no other replica in sync');
    expect((await recordOf(cluster, id)).replicas.map(({ state }) => state)).toEqual(['ok', 'lost']);
    cluster.daemons.problems.clear();
    await cluster.control.replacement.order(id, b.nodeId, 'me');
    expect((await recordOf(cluster, id)).replicas.map(({ state }) => state)).toEqual(['ok', 'leaving']);
  });

  it('may be one that only its node knows of: what came back after it was forgotten', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    const stray = replicas[2]!;
    const node = cluster.daemons.nodes.get(stray.nodeId)!;
    await change(cluster, id, (now) => ({
      ...now,
      inSync: now.inSync.filter((one) => one !== stray.id),
      replicas: now.replicas.filter((one) => one.id !== stray.id),
    }));
    node.refuseCreate = new HoldfastError('ALREADY_EXISTS', `it holds replica ${stray.id}`);
    await cluster.control.repairs.round();
    await passes(cluster, 61_000);
    expect(cluster.control.repairs.noteOf(id)?.message).toContain(`"holdfast replace ${id} ${node.id}"`);
    const order = () => cluster.control.replacement.order(id, node.id, 'me');
    for (const one of replicas.slice(0, 2)) cluster.daemons.problems.set(one.id, 'its disk is dead');
    expect((await failure(order())).code).toBe('FAILED_PRECONDITION');
    expect(node.replicas.has(stray.id)).toBe(true);
    cluster.daemons.problems.clear();
    await order();
    expect(node.replicas.has(stray.id)).toBe(false);
    delete node.refuseCreate;
    await cluster.control.repairs.round();
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
    expect((await failure(cluster.control.replacement.order(id, 'n9', 'me'))).code).toBe('NOT_FOUND');
  });
});

describe('a place for a new replica', () => {
  it('is not at a node of which the controller has not heard since it started', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3') });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const free = ['n1', 'n2', 'n3'].find((node) => replicas.every(({ nodeId }) => nodeId !== node))! as NodeId;
    cluster.daemons.nodes.get(free)!.up = false;
    await change(cluster, id, (now) => ({ ...now, parameters: { ...now.parameters, replicas: 3 } }));
    await cluster.restart();
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas).toHaveLength(2);
    expect(cluster.control.repairs.noteOf(id)!.message).toContain('has not been heard of');
    cluster.daemons.nodes.get(free)!.up = true;
    await passes(cluster, 61_000);
    expect(isWhole(await recordOf(cluster, id))).toBe(true);
  });

  it('is not at a pool that did not answer for another volume', async () => {
    const nodes = ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id, freeBytes: 50 * GIB }));
    const cluster = await TestCluster.make({ nodes });
    const hung = cluster.daemons.nodes.get('n3' as NodeId)!;
    // Not chosen as long as volumes are made, and the best place afterwards.
    nodes[2]!.freeBytes = 0;
    await cluster.heartbeats();
    const ids: VolumeId[] = [];
    for (const name of ['a', 'b', 'c']) ids.push((await cluster.create(name, { parameters: { replicas: '1' } })).id);
    nodes[2]!.freeBytes = 90 * GIB;
    await cluster.heartbeats();
    hung.refuseCreate = new HoldfastError('UNAVAILABLE', 'no answer');
    let asked = 0;
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      if (call === 'Create' && node === 'n3' && when === 'before') asked++;
      await hook(call, node, when);
    };
    const [first, ...others] = ids as [VolumeId, ...VolumeId[]];
    await change(cluster, first, (now) => ({ ...now, parameters: { ...now.parameters, replicas: 2 } }));
    await passes(cluster, 5 * 61_000);
    expect(isWhole(await recordOf(cluster, first))).toBe(true);
    expect(asked).toBeGreaterThan(1);
    const before = asked;
    for (const id of others)
      await change(cluster, id, (now) => ({ ...now, parameters: { ...now.parameters, replicas: 2 } }));
    await passes(cluster, 61_000);
    for (const id of others) expect(isWhole(await recordOf(cluster, id))).toBe(true);
    expect(asked).toBe(before);
  });
});

describe('a volume whose good copies are all to leave', () => {
  it('is not said to have none', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol', { parameters: { replicas: '2' } });
    await change(cluster, id, (now) => ({
      ...now,
      replicas: now.replicas.map((one) => ({ ...one, state: 'leaving' as const, spare: true as const })),
    }));
    const [health] = await cluster.control.health([await recordOf(cluster, id)]);
    expect(health!.map(({ reason }) => reason)).not.toContain('ReplicaMissing');
  });
});

describe('a drain', () => {
  it('goes on beside a volume that can not be reached, and says so', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3') });
    const names = ['a', 'b', 'c'];
    const volumes = [];
    for (const name of names) volumes.push(await cluster.create(name, { parameters: { replicas: '1' } }));
    // All of them lie on the first node.
    for (const { id, replicas } of volumes) {
      const { nodeId, ...rest } = replicas[0]!;
      const node = cluster.daemons.nodes.get(nodeId)!;
      const target = cluster.daemons.nodes.get('n1' as NodeId)!;
      const held = { ...node.replicas.get(rest.id)!, poolId: target.poolId as string };
      node.replicas.delete(rest.id);
      target.replicas.set(rest.id, held);
      await change(cluster, id, (now) => ({
        ...now,
        engine: null,
        replicas: [{ ...rest, nodeId: target.id, poolId: target.poolId }],
      }));
    }
    const mute = [...volumes].sort((x, y) => (x.id < y.id ? -1 : 1))[0]!.id;
    const volume = cluster.daemons.volume.bind(cluster.daemons);
    cluster.daemons.volume = (address) => {
      const calls = volume(address);
      return {
        ...calls,
        Members: async (request, options) => {
          if (request.volume_id === mute) throw new HoldfastError('UNAVAILABLE', 'the engine does not answer');
          return calls.Members(request, options);
        },
      };
    };
    await cluster.control.drains.order({ nodeId: 'n1', pool: '' }, 'me');
    await passes(cluster, 6 * 61_000);
    const { moves } = await cluster.control.drains.plan({ nodeId: 'n1', pool: '' });
    expect(moves.map((move) => move.volume.id)).toEqual([mute]);
    expect(moves[0]!.blocked).toContain('the engine does not answer');
  });

  it('is ordered in turn with those who choose places', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2') });
    const { compareAndSwap } = cluster.store;
    let ordered: Promise<void> | undefined;
    // In the middle of making a volume, when its places are chosen and not yet written.
    cluster.store.compareAndSwap = (async (key: string, ...rest: [number, object]) => {
      if (key.startsWith('volume/') && ordered === undefined) {
        ordered = cluster.control.drains.order({ nodeId: 'n1', pool: '' }, 'me');
        for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
        const drained = (await cluster.control.nodes.list()).filter(({ drains }) => drains !== undefined);
        expect(drained).toEqual([]);
      }
      return compareAndSwap.call(cluster.store, key, ...rest);
    }) as typeof compareAndSwap;
    await cluster.create('vol', { parameters: { replicas: '2' } });
    await ordered;
    expect((await cluster.control.drains.plan({ nodeId: 'n1', pool: '' })).moves).toHaveLength(1);
  });

  it('is not of a pool that is not open, of which nobody knows what it holds; by its id it is', async () => {
    const cluster = await TestCluster.make({ nodes: plain('n1', 'n2', 'n3') });
    const { replicas } = await cluster.create('vol', { parameters: { replicas: '3' } });
    const { nodeId, poolId } = replicas[0]!;
    const node = cluster.daemons.nodes.get(nodeId)!;
    node.unread.set(node.poolId, { problem: 'not mounted', failed: false, unopened: true });
    await cluster.heartbeats();
    for (const pool of [`/pools/${nodeId}`, '00000000-0000-0000-0000-000000000000']) {
      const { code } = await failure(cluster.control.drains.order({ nodeId, pool }, 'me'));
      expect(code).toBe(pool.startsWith('/') ? 'FAILED_PRECONDITION' : 'NOT_FOUND');
    }
    expect((await cluster.control.drains.plan({ nodeId, pool: poolId })).moves).toHaveLength(1);
  });
});
