// What the record allows an engine to make of its in-sync set while replicas come and go, and what an engine is told of them.

import { afterEach, describe, expect, it } from 'vitest';
import { changeSet, engineMembers, markLost } from '../../../src/agent/reigns.js';
import type { IncarnationId, NodeId, PoolId, ReignId, ReplicaId } from '../../../src/base/index.js';
import type { ReplicaRecord, VolumeRecord } from '../../../src/meta/index.js';
import { type Bench, makeBench, replicaIds, volumeId, volumeRecord } from './fakes.js';

const reign = { epoch: 3, reignId: '99999999-1111-4111-8111-111111111111' as ReignId };
const newId = 'cccccccc-1111-4111-8111-111111111111' as ReplicaId;
const [a, b] = replicaIds as [ReplicaId, ReplicaId];

const third = (state: ReplicaRecord['state']): ReplicaRecord => ({
  id: newId,
  nodeId: 'node-c' as NodeId,
  poolId: '33333333-1111-4111-8111-111111111111' as PoolId,
  incarnationId: '44444444-1111-4111-8111-111111111119' as IncarnationId,
  state,
});

function recordWith(state: ReplicaRecord['state'], inSync: readonly ReplicaId[]): VolumeRecord {
  const record = volumeRecord({ ...reign, inSync });
  return { ...record, replicas: [...record.replicas, third(state)] };
}

const ask = (record: VolumeRecord, inSync: readonly ReplicaId[]) =>
  changeSet(record, reign, { expectedSetVersion: record.setVersion, inSync });

describe('a change of the in-sync set', () => {
  it('takes in a replica that was made, and no other', () => {
    expect(ask(recordWith('ok', [a, b]), [a, b, newId])).toMatchObject({ inSync: [a, b, newId], setVersion: 2 });
    for (const state of ['creating', 'lost', 'leaving'] as const)
      expect(() => ask(recordWith(state, [a, b]), [a, b, newId])).toThrow(`is ${state}`);
    expect(() => ask(volumeRecord(reign), [a, b, newId])).toThrow('is unknown');
  });

  it('lets one that is to leave stay until it leaves, and never come back', () => {
    const leaving = recordWith('leaving', [a, b, newId]);
    // Another is lost meanwhile: that must not wait for the one that leaves.
    expect(ask(leaving, [a, newId])).toMatchObject({ inSync: [a, newId] });
    const left = ask(leaving, [a, b]) as VolumeRecord;
    expect(left.inSync).toEqual([a, b]);
    // A change that was asked for before it left, and arrives late.
    expect(changeSet(left, reign, { expectedSetVersion: leaving.setVersion, inSync: [a, b, newId] })).toBe('conflict');
    expect(() => ask(left, [a, b, newId])).toThrow('is leaving');
  });
});

describe('what an engine is told', () => {
  it('is of every replica but those that are not made yet and those that have left', () => {
    const told = (record: VolumeRecord) =>
      engineMembers(record).map(({ replicaId, leaving, inSync }) => [replicaId, leaving, inSync]);
    const both = [
      [a, false, true],
      [b, false, true],
    ];
    expect(told(recordWith('creating', [a, b]))).toEqual(both);
    expect(told(recordWith('leaving', [a, b]))).toEqual(both);
    expect(told(recordWith('ok', [a, b]))).toEqual([...both, [newId, false, false]]);
    expect(told(recordWith('leaving', [a, b, newId]))).toEqual([...both, [newId, true, true]]);
  });

  it('does not call lost what is to leave anyway', () => {
    expect(markLost(recordWith('leaving', [a, b]), reign, newId, 'empty')).toBeUndefined();
    expect(markLost(recordWith('ok', [a, b]), reign, newId, 'empty')!.replicas[2]).toMatchObject({ state: 'lost' });
  });

  describe('by an order', () => {
    const benches: Bench[] = [];
    afterEach(async () => {
      for (const one of benches.splice(0)) {
        expect(one.fatal).toEqual([]);
        await one.stop();
      }
    });

    it('is what the record says at that moment, and goes to the engine of the record’s reign alone', async () => {
      const bench = await makeBench(volumeRecord());
      benches.push(bench);
      await bench.volumes.followMembers(volumeId, 5_000);
      const [engine] = bench.engines;
      expect(engine!.followed.at(-1)).toMatchObject({
        copies: { minReplicas: 1 },
        members: [{ replicaId: a }, { replicaId: b }],
      });
      const record = await bench.record();
      const parameters = { ...record.parameters, minReplicas: 2 };
      await bench.put({ ...record, parameters, replicas: [...record.replicas, third('ok')] });
      await Promise.all(Array.from({ length: 5 }, () => bench.volumes.followMembers(volumeId, 5_000)));
      expect(engine!.followed.at(-1)!.copies.minReplicas).toBe(2);
      expect(engine!.followed.at(-1)!.members.map(({ replicaId }) => replicaId)).toEqual([a, b, newId]);
      expect(bench.engines).toHaveLength(1);
      await bench.put({ ...(await bench.record()), epoch: 9, reignId: reign.reignId });
      const told = engine!.followed.length;
      await expect(bench.volumes.followMembers(volumeId, 5_000)).rejects.toMatchObject({ reason: 'StaleReign' });
      expect(engine!.followed).toHaveLength(told);
    });
  });
});
