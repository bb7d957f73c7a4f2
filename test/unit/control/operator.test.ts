// Orders of people: a drain that says what is in its way and can be taken back, and the acceptance of loss, which is never silent and never
// happens to a volume that misses nothing.

import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, type VolumeId } from '../../../src/base/index.js';
import { type AuditRecord, keyOf, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, TestCluster } from './cluster.js';

const place = (nodeId: string) => ({ nodeId, pool: '' });

async function recordOf(cluster: TestCluster, id: VolumeId): Promise<VolumeRecord> {
  return (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!.value;
}

async function change(cluster: TestCluster, id: VolumeId, step: (record: VolumeRecord) => VolumeRecord): Promise<void> {
  const { value, version } = (await cluster.store.get<VolumeRecord>(keyOf.volume(id)))!;
  expect((await cluster.store.compareAndSwap(keyOf.volume(id), version, step(value))).ok).toBe(true);
}

async function audits(cluster: TestCluster): Promise<AuditRecord[]> {
  return (await cluster.store.list<AuditRecord>('audit/')).entries.map(({ value }) => value);
}

const accept = (cluster: TestCluster, volumeId: string, confirmed: boolean, giveUpNodes: string[] = []) =>
  cluster.control.lossAcceptance.accept({ volumeId, confirmed, by: 'somebody@here', giveUpNodes });

describe('a drain', () => {
  it('says what can not go anywhere, what is attached, how much there is, and changes nothing by that', async () => {
    const cluster = await TestCluster.make({ nodes: ['n1', 'n2', 'n3'].map((id) => ({ id })) });
    const two = await cluster.create('two', { parameters: { replicas: '2' } });
    const three = await cluster.create('three', { parameters: { replicas: '3' } });
    const at = two.replicas[0]!.nodeId;
    await cluster.daemons.attach(two.id, at);
    const { moves, ordered } = await cluster.control.drains.plan(place(at));
    expect(ordered).toBe(false);
    expect(moves.map(({ volume }) => volume.id).sort()).toEqual([two.id, three.id].sort());
    const of = (id: VolumeId) => moves.find(({ volume }) => volume.id === id)!;
    expect(of(two.id)).toMatchObject({ blocked: '', attached: true, storedBytes: 4096 });
    expect(of(three.id).blocked).toContain('there are 0 that can take one');
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, two.id)).replicas.map(({ nodeId }) => nodeId)).toContain(at);
  });

  it('moves what it can when ordered, and is over when it is taken back', async () => {
    const cluster = await TestCluster.make({ nodes: ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id })) });
    const first = await cluster.create('first');
    const second = await cluster.create('second');
    const at = first.replicas.find(({ nodeId }) => second.replicas.some((one) => one.nodeId === nodeId))!.nodeId;
    await cluster.control.drains.order(place(at), 'somebody');
    await cluster.control.drains.order(place(at), 'somebody');
    await cluster.control.repairs.round();
    const left = (await cluster.control.drains.plan(place(at))).moves.map(({ volume }) => volume.id);
    expect(left).toHaveLength(1);
    await cluster.control.drains.undo(place(at), 'somebody');
    await cluster.control.repairs.round();
    expect((await cluster.control.drains.plan(place(at))).ordered).toBe(false);
    expect((await recordOf(cluster, left[0]!)).replicas.map(({ nodeId }) => nodeId)).toContain(at);
    expect(cluster.control.repairs.noteOf(left[0]!)).toBeUndefined();
  });

  it('leaves a volume alone that may only be used where it has a replica, while it is used there', async () => {
    const cluster = await TestCluster.make({ nodes: ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id })) });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2', dataLocality: 'required' } });
    const at = replicas[0]!.nodeId;
    await cluster.daemons.attach(id, at);
    expect((await cluster.control.drains.plan(place(at))).moves[0]!.blocked).toContain('dataLocality required');
    await cluster.control.drains.order(place(at), 'me');
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.map((one) => one.id)).toEqual(replicas.map((one) => one.id));
    await change(cluster, id, (now) => ({ ...now, publications: [], engine: null }));
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.map(({ nodeId }) => nodeId)).not.toContain(at);
  });

  it('leaves it a replica where Kubernetes lets it be used, and says so', async () => {
    const cluster = await TestCluster.make({ nodes: ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id })) });
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2', dataLocality: 'required' } });
    const [first, second] = replicas.map(({ nodeId }) => nodeId) as [NodeId, NodeId];
    for (const at of [first, second]) await cluster.control.drains.order(place(at), 'me');
    for (let i = 0; i < 3; i++) {
      cluster.clock.nowMs += 61_000;
      await cluster.heartbeats();
      await cluster.control.repairs.round();
    }
    const record = await recordOf(cluster, id);
    const left = record.replicas.map(({ nodeId }) => nodeId).filter((at) => at === first || at === second);
    expect(left).toHaveLength(1);
    expect(record.inSync).toHaveLength(2);
    expect(record.pinnedTo).toEqual([first, second]);
    expect((await cluster.control.drains.plan(place(left[0]!))).moves[0]!.blocked).toContain('only good replica where');
    // And where it may still be used it can be.
    const order = { volumeId: id, readOnly: false, accessMode: 'SINGLE_NODE_WRITER', accessType: 'mount' } as const;
    const gone = left[0] === first ? second : first;
    expect((await failure(cluster.control.volumes.publish({ ...order, nodeId: gone }))).code).toBe(
      'FAILED_PRECONDITION',
    );
    await cluster.control.volumes.publish({ ...order, nodeId: left[0]! });
  });

  it('lets a volume be cloned that lies nowhere else yet, and moves the clone, too', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '1' } });
    const at = replicas[0]!.nodeId;
    await cluster.control.drains.order(place(at), 'me');
    const clone = await cluster.create('clone', { source: { kind: 'volume', id } });
    expect(clone.replicas.map(({ nodeId }) => nodeId)).toEqual([at]);
    for (let i = 0; i < 4; i++) {
      cluster.clock.nowMs += 61_000;
      await cluster.heartbeats();
      await cluster.control.repairs.round();
    }
    expect((await cluster.control.drains.plan(place(at))).moves).toEqual([]);
    expect((await recordOf(cluster, clone.id)).inSync).toHaveLength(1);
  });

  it('waits for what is just being made or deleted there', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    const at = replicas[0]!.nodeId;
    for (const state of ['creating', 'deleting'] as const) {
      await change(cluster, id, (now) => ({ ...now, state }));
      expect((await cluster.control.drains.plan(place(at))).moves).toMatchObject([{ volume: { id }, blocked: '' }]);
    }
  });

  it('is of a place that exists', async () => {
    const cluster = await TestCluster.make();
    expect((await failure(cluster.control.drains.order(place('n9'), 'me'))).code).toBe('NOT_FOUND');
    expect((await failure(cluster.control.drains.order({ nodeId: 'n1', pool: '/x' }, 'me'))).code).toBe('NOT_FOUND');
    await cluster.control.drains.order({ nodeId: 'n1', pool: '/pools/n1' }, 'me');
    expect((await failure(cluster.create('vol', { parameters: { replicas: '3' } }))).message).toContain(
      'n1: has no pool',
    );
  });
});

describe('a node that never returns', () => {
  it('is forgotten only when it is silent and nothing counts on it, and everything is at rest then', async () => {
    const cluster = await TestCluster.make({ nodes: ['n1', 'n2', 'n3', 'n4'].map((id) => ({ id })) });
    const { id, replicas } = await cluster.create('vol');
    const at = replicas[0]!.nodeId;
    const forget = () => cluster.control.drains.forget(place(at), 'me');
    expect((await failure(forget())).message).toContain('answers');
    await cluster.silence(at);
    expect((await failure(forget())).message).toContain('1 volumes still have a replica');
    await cluster.control.drains.order(place(at), 'me');
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.find(({ nodeId }) => nodeId === at)?.state).toBe('leaving');
    expect(cluster.control.repairs.noteOf(id)?.message).toContain('holdfast forget');
    expect((await cluster.control.drains.plan(place(at))).moves).toEqual([]);
    await forget();
    cluster.clock.nowMs += 60_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    const record = await recordOf(cluster, id);
    expect(record.replicas).toHaveLength(3);
    expect(record.inSync).toHaveLength(3);
    expect(cluster.control.repairs.noteOf(id)).toBeUndefined();
    expect((await cluster.control.nodes.list()).map((node) => node.id)).not.toContain(at);
    // It comes back after all: its replica is no record's any more, and is left alone.
    cluster.daemons.nodes.get(at)!.up = true;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    expect(cluster.daemons.nodes.get(at)!.replicas.size).toBe(1);
  });
});

describe('accepting a loss', () => {
  /** Three replicas of which only the first was in sync, and is now down. */
  async function lastIsDown() {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    await change(cluster, id, (now) => ({ ...now, inSync: [replicas[0]!.id], setVersion: 7, epoch: 3 }));
    cluster.daemons.nodes.get(replicas[0]!.nodeId)!.up = false;
    return { cluster, id, replicas };
  }

  it('says what is missing and changes nothing until it is confirmed', async () => {
    const { cluster, id, replicas } = await lastIsDown();
    const before = await recordOf(cluster, id);
    const asked = await accept(cluster, id, false);
    expect(asked).toMatchObject({ done: false, auditKey: '', survivors: replicas.slice(1).map((one) => one.nodeId) });
    expect(asked.givenUp).toEqual([`${replicas[0]!.nodeId}: replica ${replicas[0]!.id}, its node does not answer`]);
    expect(asked.loss).toContain('everything written and flushed since');
    expect(await recordOf(cluster, id)).toEqual(before);
    expect(await audits(cluster)).toEqual([]);
  });

  it('leaves a record of who, when and what, grants the next epoch to nobody, and lets the missing one go', async () => {
    const { cluster, id, replicas } = await lastIsDown();
    const done = await accept(cluster, id, true);
    expect(done.done).toBe(true);
    const record = await recordOf(cluster, id);
    expect(record).toMatchObject({ epoch: 4, reignId: null, engine: null, setVersion: 8, flushedPoint: null });
    expect(record.inSync).toEqual(replicas.slice(1).map((one) => one.id));
    expect(record.replicas[0]).toMatchObject({
      state: 'lost',
      givenUpEpoch: 4,
      message: 'given up by somebody@here: loss accepted',
    });
    const [audit] = await audits(cluster);
    expect(audit).toMatchObject({ by: 'somebody@here', volumeId: id, before: { epoch: 3, inSync: [replicas[0]!.id] } });
    expect((await cluster.store.get(done.auditKey))?.value).toEqual(audit);
    // Back, it is still there until the volume has opened without it; then it is deleted and made anew.
    cluster.daemons.nodes.get(replicas[0]!.nodeId)!.up = true;
    await cluster.control.repairs.round();
    expect(cluster.daemons.nodes.get(replicas[0]!.nodeId)!.replicas.has(replicas[0]!.id)).toBe(true);
    await change(cluster, id, (now) => ({ ...now, flushedPoint: { epoch: 5, seq: 9, digest: 'd' } }));
    cluster.clock.nowMs += 61_000;
    await cluster.heartbeats();
    await cluster.control.repairs.round();
    const after = await recordOf(cluster, id);
    expect(after.inSync).toHaveLength(3);
    expect(after.replicas.map((one) => one.id)).not.toContain(replicas[0]!.id);
  });

  it('is recorded before it is done: a controller that dies in between has not done it silently', async () => {
    for (let step = 0; ; step++) {
      const { cluster, id } = await lastIsDown();
      cluster.point.arm(step);
      await accept(cluster, id, true).catch(() => {});
      const changed = (await recordOf(cluster, id)).epoch !== 3;
      if (changed) expect(await audits(cluster)).toHaveLength(1);
      if (!cluster.point.dead) return;
    }
  });

  it('is done once, and says so, when the store did not say what became of it', async () => {
    const { cluster, id } = await lastIsDown();
    const swap = cluster.store.compareAndSwap.bind(cluster.store);
    let silent = true;
    cluster.store.compareAndSwap = (async (key: string, version: number, value: object) => {
      const result = await swap(key, version, value);
      if (!silent || !key.startsWith('volume/')) return result;
      silent = false;
      throw new HoldfastError('ABORTED', 'the answer was lost', { reason: 'Conflict' });
    }) as typeof cluster.store.compareAndSwap;
    expect((await accept(cluster, id, true)).done).toBe(true);
    expect(silent).toBe(false);
    expect(await recordOf(cluster, id)).toMatchObject({ epoch: 4, setVersion: 8 });
  });

  it('saves the snapshots of a volume that is kept for them alone', async () => {
    const { cluster, id } = await lastIsDown();
    await change(cluster, id, (now) => ({ ...now, state: 'snapshots-only' }));
    expect((await accept(cluster, id, true)).done).toBe(true);
    await change(cluster, id, (now) => ({ ...now, state: 'deleting' }));
    expect((await failure(accept(cluster, id, true))).code).toBe('NOT_FOUND');
  });

  it('is refused where nothing is missing, and to a volume that is open', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    expect((await failure(accept(cluster, id, true))).message).toContain('misses nothing');
    cluster.daemons.nodes.get(replicas[0]!.nodeId)!.up = false;
    await cluster.daemons.attach(id, replicas[1]!.nodeId);
    cluster.daemons.open.set(id, 'in-sync');
    expect((await failure(accept(cluster, id, true))).message).toContain('is open on node');
    expect((await recordOf(cluster, id)).inSync).toHaveLength(3);
    expect(await audits(cluster)).toEqual([]);
    // An engine that has lost all of them only hangs.
    cluster.daemons.open.set(id, 'unreachable');
    expect((await accept(cluster, id, true)).done).toBe(true);
  });

  it('never goes on from a copy that is not whole', async () => {
    const { cluster, id, replicas } = await lastIsDown();
    for (const one of replicas.slice(1)) cluster.daemons.joining.add(one.id);
    expect((await failure(accept(cluster, id, true))).message).toContain('are not whole');
    cluster.daemons.joining.delete(replicas[2]!.id);
    expect((await accept(cluster, id, false)).survivors).toEqual([replicas[2]!.nodeId]);
    cluster.daemons.nodes.get(replicas[2]!.nodeId as NodeId)!.replicas.clear();
    expect((await failure(accept(cluster, id, true))).message).toContain('no replica is left');
  });

  it('keeps the point that members must hold, and takes no member that is not whole', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2' } });
    const flushedPoint = { epoch: 2, seq: 500, digest: 'd' };
    await change(cluster, id, (now) => ({ ...now, flushedPoint, epoch: 2 }));
    const [a, b] = replicas as [(typeof replicas)[0], (typeof replicas)[0]];
    cluster.daemons.nodes.get(a.nodeId)!.up = false;
    cluster.daemons.joining.add(b.id);
    expect((await failure(accept(cluster, id, true))).message).toContain('no replica is left');
    cluster.daemons.joining.delete(b.id);
    expect((await accept(cluster, id, true)).survivors).toEqual([b.nodeId]);
    expect((await recordOf(cluster, id)).flushedPoint).toEqual(flushedPoint);
    // What is left turns out to be old: nothing opens. The one that was given up is back, and is gone back to.
    cluster.daemons.nodes.get(a.nodeId)!.up = true;
    cluster.daemons.hook = (call) => {
      if (call === 'Members') throw new HoldfastError('DATA_LOSS', 'it was rolled back');
    };
    await cluster.control.repairs.round();
    expect(cluster.daemons.nodes.get(a.nodeId)!.replicas.has(a.id)).toBe(true);
    cluster.clock.nowMs += 1_000;
    expect((await accept(cluster, id, true, [b.nodeId])).survivors).toEqual([a.nodeId]);
    const record = await recordOf(cluster, id);
    expect(record.inSync).toEqual([a.id]);
    expect(record.replicas.slice(0, 2).map(({ state }) => state)).toEqual(['ok', 'lost']);
  });

  it('never goes on from a new copy that was still being made', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '1' } });
    await cluster.control.volumes.modify(id, { replicas: '2' });
    const { hook } = cluster.daemons;
    cluster.daemons.hook = async (call, node, when) => {
      for (const one of (await recordOf(cluster, id)).replicas.slice(1)) cluster.daemons.behind.add(one.id);
      await hook(call, node, when);
    };
    await cluster.control.repairs.round();
    expect((await recordOf(cluster, id)).replicas.map(({ state }) => state)).toEqual(['ok', 'ok']);
    cluster.daemons.nodes.get(replicas[0]!.nodeId)!.up = false;
    expect((await failure(accept(cluster, id, true))).message).toContain('are not whole');
  });

  it('keeps the in-sync replicas that are left, and gives up one that answers only when it is named', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol');
    cluster.daemons.nodes.get(replicas[0]!.nodeId)!.up = false;
    const asked = await accept(cluster, id, false, [replicas[1]!.nodeId]);
    expect(asked.givenUp).toHaveLength(2);
    expect(asked.givenUp[1]).toContain('given up by order');
    expect(asked.survivors).toEqual([replicas[2]!.nodeId]);
    expect(asked.loss).toContain('the volume stays closed');
    expect((await failure(accept(cluster, id, true, ['n9']))).code).toBe('INVALID_ARGUMENT');
  });

  it('does not take a pool that is not open for a disk that is gone', async () => {
    for (const unread of [
      { problem: 'not mounted', failed: false, unopened: true },
      { problem: 'not mounted', failed: false },
      { problem: 'I/O error', failed: true },
    ]) {
      const { cluster, id, replicas } = await lastIsDown();
      const node = cluster.daemons.nodes.get(replicas[0]!.nodeId)!;
      node.up = true;
      node.unread.set(node.poolId, unread);
      for (const confirmed of [false, true]) {
        const { message } = await failure(accept(cluster, id, confirmed));
        expect(message).toContain(`its pool /pools/${node.id} can't be read there now: ${unread.problem}`);
        expect(message).toContain(`--give-up ${node.id}`);
      }
      expect(await audits(cluster)).toEqual([]);
      expect((await accept(cluster, id, true, [node.id])).givenUp[0]).toContain(`given up by order, its pool /pools/`);
    }
  });

  it('asks nodes of which nothing was heard lately, and believes what their other pools hold', async () => {
    const second = '00000000-0000-4000-8000-0000000000a2';
    const nodes = ['n1', 'n2', 'n3'].map((id) => ({ id, secondPool: second.replace('a2', `a${id.slice(1)}`) }));
    const cluster = await TestCluster.make({ nodes });
    const { id, replicas } = await cluster.create('vol');
    const [away, there, behind] = replicas as [(typeof replicas)[0], (typeof replicas)[0], (typeof replicas)[0]];
    await change(cluster, id, (now) => ({ ...now, inSync: [away.id, there.id], setVersion: 7, epoch: 3 }));
    cluster.daemons.behind.add(behind.id);
    await cluster.silence(away.nodeId);
    // Not a word of it got through, but it answers.
    cluster.clock.nowMs += 60_000;
    const node = cluster.daemons.nodes.get(there.nodeId)!;
    const other = nodes.find((one) => one.id === node.id)!.secondPool;
    node.unread.set(there.poolId === node.poolId ? other : node.poolId, { problem: 'I/O error', failed: true });
    const asked = await accept(cluster, id, false);
    expect(asked.givenUp).toHaveLength(1);
    expect(asked.survivors).toEqual([there.nodeId]);
    expect((await accept(cluster, id, true)).done).toBe(true);
    expect((await recordOf(cluster, id)).inSync).toEqual([there.id]);
  });

  it('leaves word that an engine may still run, so that its lease is waited out', async () => {
    const { cluster, id, replicas } = await lastIsDown();
    await cluster.daemons.attach(id, replicas[0]!.nodeId);
    expect((await accept(cluster, id, true)).done).toBe(true);
    const { engine } = await recordOf(cluster, id);
    expect(engine).toMatchObject({ nodeId: replicas[0]!.nodeId, maintenance: true });
  });

  it('says what can be waited for, and what an attach may fail at', async () => {
    const { cluster, id, replicas } = await lastIsDown();
    expect((await accept(cluster, id, true)).done).toBe(true);
    for (const one of replicas.slice(1)) cluster.daemons.problems.set(one.id, 'frames are missing');
    const { message } = await failure(accept(cluster, id, true));
    expect(message).toContain(`wait for ${replicas[0]!.nodeId}, or restore a backup`);
    expect(message).toContain(`${replicas[1]!.nodeId}: frames are missing`);
    cluster.daemons.problems.clear();
    cluster.daemons.joining.add(replicas[1]!.id);
    const told = (await failure(accept(cluster, id, true))).message;
    expect(told).toContain(`its in-sync replicas on ${replicas[2]!.nodeId} answer`);
    expect(told).toContain(`Those on ${replicas[1]!.nodeId} have still to be brought up to date`);
  });
});
