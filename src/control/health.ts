// How a volume is, from its record and the nodes' signs of life alone: nothing is asked of a daemon, so the answer comes at once
// also when the daemons do not.

import type { VolumeRecord } from '../meta/index.js';
import type { NodeView } from './nodes.js';
import type { RepairNote } from './repairs.js';

export interface HealthEntry {
  readonly status: 'DEGRADED' | 'INACCESSIBLE' | 'DATA_LOSS';
  /** CamelCase, for programs. */
  readonly reason: string;
  /** For people. */
  readonly message: string;
}

/** Empty: healthy. No two entries have the same status and reason. */
export function healthOf(record: VolumeRecord, nodes: readonly NodeView[], note?: RepairNote): HealthEntry[] {
  const alive = new Set(nodes.filter((node) => node.silentMs === undefined).map((node) => node.id));
  const wanted = record.parameters.replicas;
  const lost = record.replicas.filter((replica) => replica.state === 'lost');
  const inSync = record.replicas.filter((replica) => record.inSync.includes(replica.id) && replica.state !== 'lost');
  const reachable = inSync.filter((replica) => alive.has(replica.nodeId));
  const found: HealthEntry[] = [];
  const on = (replicas: typeof inSync) => replicas.map((replica) => replica.nodeId).join(', ');

  if (inSync.length === 0) {
    found.push({
      status: 'DATA_LOSS',
      reason: 'AllReplicasLost',
      message: `no replica holds the acknowledged data; lost on ${on(lost)}`,
    });
  } else if (reachable.length === 0) {
    found.push({
      status: 'INACCESSIBLE',
      reason: 'NoReplicaReachable',
      message: `the nodes of all in-sync replicas are silent: ${on(inSync)}`,
    });
  }
  if (lost.length > 0) {
    const messages = lost.map((replica) => `${replica.nodeId}: ${replica.message ?? 'its disk came back empty'}`);
    found.push({
      status: 'DEGRADED',
      reason: 'ReplicaLost',
      message: `${lost.length} of ${wanted} replicas are lost (${messages.join('; ')})`,
    });
  }
  const behind = record.replicas.filter(
    ({ id, state }) => !record.inSync.includes(id) && state !== 'lost' && state !== 'leaving',
  );
  if (behind.length > 0) {
    found.push({
      status: 'DEGRADED',
      reason: 'ReplicaOutOfSync',
      message: `${inSync.length} of ${wanted} replicas are in sync; behind on ${on(behind)}`,
    });
  }
  // One that is to leave counts while it stands in for one that is missing.
  const { length: named } = record.replicas.filter(
    ({ id, state }) => state !== 'leaving' || record.inSync.includes(id),
  );
  if (named < wanted) {
    found.push({
      status: 'DEGRADED',
      reason: 'ReplicaMissing',
      message: `${named} of ${wanted} replicas exist, the others are still to be made`,
    });
  }
  if (note?.reason === 'NoPlace') {
    found.push({ status: 'DEGRADED', reason: 'NoPlaceForReplica', message: `no place for a replica: ${note.message}` });
  }
  const silent = inSync.filter((replica) => !alive.has(replica.nodeId));
  if (silent.length > 0 && reachable.length > 0) {
    found.push({ status: 'DEGRADED', reason: 'NodeSilent', message: `no sign of life from ${on(silent)}` });
  }
  if (inSync.length > 0 && inSync.length < record.parameters.minReplicas) {
    found.push({
      status: 'DEGRADED',
      reason: 'WritesWait',
      message: `${inSync.length} replicas are in sync, minReplicas is ${record.parameters.minReplicas}: writes wait, reads go on`,
    });
  }
  const pools = reachable.flatMap((replica) => {
    const pool = nodes.find((node) => node.id === replica.nodeId)?.pools.find((held) => held.id === replica.poolId);
    return pool?.problem === undefined ? [] : [`${replica.nodeId}: ${pool.problem}`];
  });
  if (pools.length > 0) found.push({ status: 'DEGRADED', reason: 'PoolProblem', message: pools.join('; ') });
  return found;
}
