// What a worker answers: engines from its engine room, replicas from its host.

import type { VolumeId } from '../base/index.js';
import type { PoolReport } from '../replica/index.js';
import type { EngineRoom } from './engine-room.js';
import type { RpcHandlers } from './port-rpc.js';
import type { CreateReplicaOrder, ReplicasReport, RetireReplicaOrder, WorkerMethods } from './worker-api.js';

/** The replicas of this worker's volumes in the node's pools. */
export interface WorkerReplicas {
  create(order: CreateReplicaOrder): Promise<void>;
  retire(order: RetireReplicaOrder): Promise<void>;
  /** Null: all volumes of this worker. */
  status(volumeId: VolumeId | null): Promise<ReplicasReport>;
  pools(): PoolReport[];
  /** Opens the pools, listens for peers' engines. */
  start(): Promise<{ replicaPort: number }>;
  close(): Promise<void>;
}

export function workerHandlers(room: EngineRoom, replicas: WorkerReplicas): RpcHandlers<WorkerMethods> {
  return {
    start: () => replicas.start(),
    openEngine: (order) => room.open(order),
    async startExport({ socketPath, ...at }) {
      await room.startExport(at, socketPath);
      return null;
    },
    async closeEngine({ flush, ...at }) {
      await room.close(at, flush);
      return null;
    },
    freeze: ({ snapshotId, groupId, holdToken, ...at }) => room.engine(at).freeze({ snapshotId, groupId, holdToken }),
    async hold({ token, deadlineMs, ...at }) {
      await room.engine(at).hold(token, deadlineMs);
      return null;
    },
    release: ({ token, ...at }) => ({ heldUntilNow: room.engine(at).release(token) }),
    async clone({ volumeId, epoch, ...order }) {
      await room.engine({ volumeId, epoch }).clone(order);
      return null;
    },
    async resize({ sizeBytes, ...at }) {
      const engine = room.engine(at);
      await engine.resize(sizeBytes);
      return { sizeBytes: engine.sizeBytes };
    },
    follow: ({ members, copies, ...at }) => room.engine(at).follow(members, copies),
    setQos({ qos, ...at }) {
      room.engine(at).setQos(qos);
      return null;
    },
    async deleteSnapshot({ snapshotId, ...at }) {
      await room.engine(at).deleteSnapshot(snapshotId);
      return null;
    },
    changed: ({ order, ...at }) => room.engine(at).changed(order),
    engineStatus(at) {
      const { snapshotIds, ...status } = room.status(at);
      return { ...status, snapshotCount: snapshotIds.length };
    },
    async createReplica(order) {
      await replicas.create(order);
      return null;
    },
    async retireReplica(order) {
      await replicas.retire(order);
      return null;
    },
    replicaStatus: ({ volumeId }) => replicas.status(volumeId),
    poolStatus: () => replicas.pools(),
    async shutdown() {
      await room.closeAll();
      await replicas.close();
      return null;
    },
  };
}
