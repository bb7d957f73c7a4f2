// holdfast.v1.Replica: replicas of this node's pools, each made, reported and deleted by the worker that has its volume.

import {
  type IncarnationId,
  invalid,
  type LineageId,
  type PoolId,
  parseUuid,
  type ReplicaId,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import type { ReplicaReport } from '../replica/index.js';
import { type Handlers, type holdfast, holdfastServices, implement, type ServiceBinding } from '../rpc/index.js';
import type { WorkerCalls } from './worker-calls.js';

type ReplicaHandlers = Handlers<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>;

const createTimeoutMs = 60_000;
const retireTimeoutMs = 120_000;
const statusTimeoutMs = 20_000;
const membersMax = 16;

export interface ReplicaServiceOptions {
  readonly workers: readonly WorkerCalls[];
  readonly workerFor: (volumeId: VolumeId) => WorkerCalls;
  /** Throws when the metadata store must not be believed. */
  readonly checkStore: () => Promise<void>;
}

export function replicaService(options: ReplicaServiceOptions): ServiceBinding {
  const handlers: ReplicaHandlers = {
    Create: (request) => create(options, request),
    async Retire(request) {
      const volumeId = parseUuid<VolumeId>(request.volume_id, 'volume id');
      const replicaId = parseUuid<ReplicaId>(request.replica_id, 'replica id');
      // Not known to controllers of before: then all pools must be readable.
      const poolId = request.pool_id === '' ? (zeroUuid as PoolId) : parseUuid<PoolId>(request.pool_id, 'pool id');
      await options.checkStore();
      const order = { volumeId, replicaId, poolId, epoch: request.epoch, setVersion: request.set_version };
      await options.workerFor(volumeId).call('retireReplica', order, retireTimeoutMs);
      return {};
    },
    async Status(request) {
      const volumeId = request.volume_id === '' ? null : parseUuid<VolumeId>(request.volume_id, 'volume id');
      const asked = volumeId === null ? options.workers : [options.workerFor(volumeId)];
      const reports = await Promise.all(
        asked.map((worker) => worker.call('replicaStatus', { volumeId }, statusTimeoutMs)),
      );
      // Each worker tells of all pools.
      const unread = new Map(reports.flatMap((report) => report.unread.map((pool) => [pool.path, pool])));
      return {
        replicas: reports.flatMap((report) => report.replicas.map(replicaInfo)),
        unread_pools: [...unread.values()].map(({ poolId, ...pool }) => ({ pool_id: poolId, ...pool })),
      };
    },
  };
  return implement(holdfastServices.replica(), handlers, {
    logFields: ['replica_id', 'pool_id'],
    allow: { Create: ['controller'], Retire: ['controller'], Status: ['controller', 'operator'] },
  });
}

async function create(
  options: ReplicaServiceOptions,
  request: holdfast.CreateRequest__Output,
): Promise<holdfast.CreateResponse> {
  if (request.size_bytes < 1) throw invalid(`size_bytes ${request.size_bytes} is no size`);
  if (request.members.length < 1 || request.members.length > membersMax) {
    throw invalid(`a replica needs 1 to ${membersMax} members`);
  }
  const volumeId = parseUuid<VolumeId>(request.volume_id, 'volume id');
  const order = {
    volumeId,
    lineageId: parseUuid<LineageId>(request.lineage_id, 'lineage id'),
    replicaId: parseUuid<ReplicaId>(request.replica_id, 'replica id'),
    incarnationId: parseUuid<IncarnationId>(request.incarnation_id, 'incarnation id'),
    poolId: parseUuid<PoolId>(request.pool_id, 'pool id'),
    sizeBytes: request.size_bytes,
    parameters: request.parameters,
    members: request.members.map((member) => ({
      replicaId: parseUuid<ReplicaId>(member.replica_id, 'member replica id'),
      incarnationId: parseUuid<IncarnationId>(member.incarnation_id, 'member incarnation id'),
    })),
    setVersion: request.set_version,
    joining: request.joining,
  };
  await options.workerFor(volumeId).call('createReplica', order, createTimeoutMs);
  return {};
}

function replicaInfo(report: ReplicaReport): holdfast.ReplicaInfo {
  return {
    volume_id: report.volumeId,
    replica_id: report.replicaId,
    incarnation_id: report.incarnationId,
    pool_id: report.poolId,
    stored_bytes: report.storedBytes,
    shared_bytes: report.sharedBytes,
    promised_epoch: report.promisedEpoch,
    joining: report.joining,
    problem: report.problem,
    failed: report.failed,
  };
}
