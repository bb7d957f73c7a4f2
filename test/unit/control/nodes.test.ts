import { describe, expect, it } from 'vitest';
import type { NodeId, VolumeId } from '../../../src/base/index.js';
import { healthOf } from '../../../src/control/health.js';
import { NODE_SILENT_MS } from '../../../src/control/index.js';
import { keyOf, type NameRecord, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, TestCluster } from './cluster.js';

const description = {
  node_id: 'n9',
  control_address: '127.0.0.1:7009',
  topology: {},
  tags: [],
  pools: [],
  replica_addresses: [],
  instance: 'one',
  store_version_seen: 0,
};

describe('nodes', () => {
  it('have to register before their heartbeats count, and again when restarted', async () => {
    const { control } = await TestCluster.make();
    expect(await control.nodes.heartbeat(description)).toBe(false);
    await control.nodes.register(description);
    expect(await control.nodes.heartbeat(description)).toBe(true);
    expect(await control.nodes.heartbeat({ ...description, instance: 'two' })).toBe(false);
  });

  it('are known to the next controller, which lets them be silent for a while', async () => {
    const cluster = await TestCluster.make();
    await cluster.control.nodes.register(description);
    await cluster.restart();
    const silent = async () => (await cluster.control.nodes.get('n9' as NodeId))?.silentMs !== undefined;
    expect(await silent()).toBe(false);
    cluster.clock.nowMs += NODE_SILENT_MS + 1;
    expect(await silent()).toBe(true);
    expect(await cluster.control.nodes.heartbeat(description)).toBe(true);
    expect(await silent()).toBe(false);
  });

  it('are not written to the store at each heartbeat, but a change is', async () => {
    const cluster = await TestCluster.make();
    await cluster.control.nodes.register(description);
    const before = await cluster.store.version();
    for (let n = 0; n < 5; n++) await cluster.control.nodes.heartbeat(description);
    expect(await cluster.store.version()).toBe(before);
    await cluster.control.nodes.heartbeat({ ...description, tags: ['ssd'] });
    expect(await cluster.store.version()).toBe(before + 1);
  });

  it.each([
    { node_id: '../x' },
    { node_id: '' },
    { control_address: '' },
    { instance: '' },
    { pools: [{ pool_id: 'x', path: '/p', capacity_bytes: 1, free_bytes: 1, tags: [], problem: '' }] },
  ])('are refused with nonsense (%#)', async (wrong) => {
    const { control } = await TestCluster.make();
    expect((await failure(control.nodes.register({ ...description, ...wrong }))).code).toBe('INVALID_ARGUMENT');
  });
});

describe('health', () => {
  it('follows the in-sync set and the signs of life', async () => {
    const cluster = await TestCluster.make();
    const record = await cluster.create('vol', { parameters: { minReplicas: '2' } });
    const reasons = async (change: Partial<VolumeRecord>) =>
      healthOf({ ...record, ...change }, await cluster.control.nodes.list()).map(
        (entry) => `${entry.status} ${entry.reason}`,
      );
    const [first, second, third] = record.replicas;
    expect(await reasons({})).toEqual([]);
    expect(await reasons({ inSync: [first!.id, second!.id] })).toEqual(['DEGRADED ReplicaOutOfSync']);
    expect(await reasons({ inSync: [first!.id] })).toEqual(['DEGRADED ReplicaOutOfSync', 'DEGRADED WritesWait']);
    const lost = { ...third!, state: 'lost' as const };
    expect(await reasons({ replicas: [first!, second!, lost], inSync: [first!.id, second!.id] })).toEqual([
      'DEGRADED ReplicaLost',
    ]);
    const gone = record.replicas.map((replica) => ({ ...replica, state: 'lost' as const }));
    expect(await reasons({ replicas: gone })).toEqual(['DATA_LOSS AllReplicasLost', 'DEGRADED ReplicaLost']);
    await cluster.silence('n1');
    expect(await reasons({})).toEqual(['DEGRADED NodeSilent']);
    await cluster.silence('n2');
    await cluster.silence('n3');
    expect(await reasons({})).toEqual(['INACCESSIBLE NoReplicaReachable']);
  });
});

describe('the loop', () => {
  it('frees names whose object was never made, but not while somebody may come back', async () => {
    const cluster = await TestCluster.make();
    const key = keyOf.volumeName('ab'.repeat(16));
    await cluster.store.compareAndSwap<NameRecord>(key, 0, {
      name: 'left',
      id: '00000000-0000-4000-8000-0000000000aa',
    });
    await cluster.control.reconciler.round();
    cluster.clock.nowMs += 60_000;
    await cluster.control.reconciler.round();
    expect(await cluster.keys()).toEqual({ 'volume-name': 1 });
    cluster.clock.nowMs += 15 * 60_000;
    await cluster.control.reconciler.round();
    expect(await cluster.keys()).toEqual({});
  });

  it('leaves replicas alone that no record names', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const entry = (await cluster.store.get(keyOf.volume(id as VolumeId)))!;
    await cluster.store.compareAndSwap(entry.key, entry.version, undefined);
    await cluster.settle();
    expect(cluster.daemons.replicas).toHaveLength(3);
  });
});
