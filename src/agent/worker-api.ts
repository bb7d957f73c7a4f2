// What the daemon's main thread and its workers may ask of each other. The main thread decides (metadata, reigns, keys);
// a worker does (engines, replicas, exports). Values cross threads by structured clone: plain data and byte arrays only.

import type {
  GroupId,
  IncarnationId,
  LineageId,
  NodeId,
  PoolId,
  ReplicaId,
  SnapshotId,
  VolumeId,
} from '../base/index.js';
import type {
  ChangedExtents,
  CloneTarget,
  Copies,
  EngineMember,
  EngineReplicaState,
  EngineStatus,
  EngineVolume,
  QosLimits,
  SetOutcome,
} from '../engine/index.js';
import type { LogPoint, Member, Reign } from '../format/index.js';
import type { PoolReport, ReplicaReport, UnreadPool } from '../replica/index.js';

export interface OpenEngineOrder {
  readonly volume: EngineVolume;
  readonly reign: Reign;
  readonly members: readonly EngineMember[];
  readonly setVersion: number;
  /** 32 bytes; the sender wipes its copy after the call, the worker its own when the engine has it. */
  readonly dataKey: Uint8Array | null;
  readonly readOnly: boolean;
  readonly formerEngineGone: boolean;
  readonly flushedPoint: { readonly epoch: number; readonly seq: number; readonly digest: string } | null;
}

export interface OpenedEngine {
  readonly sizeBytes: number;
  /** Durable on every in-sync replica. */
  readonly opening: LogPoint;
}

export interface CreateReplicaOrder {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly replicaId: ReplicaId;
  readonly incarnationId: IncarnationId;
  readonly poolId: PoolId;
  readonly sizeBytes: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly members: readonly Member[];
  readonly setVersion: number;
  readonly joining?: boolean;
}

export interface RetireReplicaOrder {
  readonly volumeId: VolumeId;
  readonly replicaId: ReplicaId;
  readonly poolId: PoolId;
  /** The highest of the volume that the metadata store knows. */
  readonly epoch: number;
  readonly setVersion: number;
}

export interface ReplicasReport {
  readonly replicas: readonly ReplicaReport[];
  /** Pools in which more of them may lie. */
  readonly unread: readonly UnreadPool[];
}

export interface ChangedOrder {
  readonly base: SnapshotId | null;
  readonly target: SnapshotId;
  readonly startingOffset: number;
  readonly maxResults: number;
}

/** An engine's status without the names of its snapshots: there may be ten thousand. */
export type OpenEngineStatus = Omit<EngineStatus, 'snapshotIds'> & { readonly snapshotCount: number };

/** Orders to an open engine name its reign: an order meant for an engine that is gone must not reach its successor's. */
export interface Addressed {
  readonly volumeId: VolumeId;
  readonly epoch: number;
}

export interface WorkerMethods {
  /** Opens pools and listens for peers; called once, first. */
  start: { readonly params: null; readonly result: { readonly replicaPort: number } };
  /** Repeating it with the same reign joins or returns the engine; a lower reign's engine is stopped first. */
  openEngine: { readonly params: OpenEngineOrder; readonly result: OpenedEngine };
  /** Serves the engine as NBD on a unix socket. Repeating it is harmless. */
  startExport: { readonly params: Addressed & { readonly socketPath: string }; readonly result: null };
  /** Drops the export's connections, flushes and closes. `flush: false` deposes instead. A missing engine is no error. */
  closeEngine: { readonly params: Addressed & { readonly flush: boolean }; readonly result: null };
  freeze: {
    readonly params: Addressed & {
      readonly snapshotId: SnapshotId;
      readonly groupId: GroupId | null;
      readonly holdToken: string | null;
    };
    readonly result: { readonly sizeBytes: number; readonly wallMs: number; readonly seq: number };
  };
  hold: { readonly params: Addressed & { readonly token: string; readonly deadlineMs: number }; readonly result: null };
  release: {
    readonly params: Addressed & { readonly token: string };
    readonly result: { readonly heldUntilNow: boolean };
  };
  clone: {
    readonly params: Addressed & {
      readonly snapshotId: SnapshotId;
      readonly newVolumeId: VolumeId;
      readonly targets: readonly CloneTarget[];
      readonly parameters: Readonly<Record<string, string>>;
    };
    readonly result: null;
  };
  resize: {
    readonly params: Addressed & { readonly sizeBytes: number };
    readonly result: { readonly sizeBytes: number };
  };
  /** See Engine.follow. */
  follow: {
    readonly params: Addressed & { readonly members: readonly EngineMember[]; readonly copies: Copies };
    readonly result: readonly EngineReplicaState[];
  };
  setQos: { readonly params: Addressed & { readonly qos: QosLimits }; readonly result: null };
  deleteSnapshot: { readonly params: Addressed & { readonly snapshotId: SnapshotId }; readonly result: null };
  changed: { readonly params: Addressed & { readonly order: ChangedOrder }; readonly result: ChangedExtents };
  engineStatus: { readonly params: Addressed; readonly result: OpenEngineStatus };

  createReplica: { readonly params: CreateReplicaOrder; readonly result: null };
  retireReplica: {
    readonly params: RetireReplicaOrder;
    readonly result: null;
  };
  replicaStatus: { readonly params: { readonly volumeId: VolumeId | null }; readonly result: ReplicasReport };

  poolStatus: { readonly params: null; readonly result: readonly PoolReport[] };

  /** Closes engines, exports and replicas; the worker may be ended afterwards. */
  shutdown: { readonly params: null; readonly result: null };
}

export interface MainMethods {
  changeSet: {
    readonly params: {
      readonly volumeId: VolumeId;
      readonly reign: Reign;
      readonly expectedSetVersion: number;
      readonly inSync: readonly ReplicaId[];
      readonly reason: string;
    };
    readonly result: SetOutcome;
  };
  markLost: {
    readonly params: {
      readonly volumeId: VolumeId;
      readonly reign: Reign;
      readonly replicaId: ReplicaId;
      readonly message: string;
    };
    readonly result: null;
  };
  noteFlushed: {
    readonly params: {
      readonly volumeId: VolumeId;
      readonly reign: Reign;
      readonly point: { readonly epoch: number; readonly seq: number; readonly digest: string };
    };
    readonly result: null;
  };
  /** host:port of the replica server of the worker that has this volume on that node. */
  replicaAddress: {
    readonly params: { readonly nodeId: NodeId; readonly volumeId: VolumeId; readonly refresh: boolean };
    readonly result: { readonly address: string };
  };
  /** An engine ended without being told to: deposed, or its replicas failed. */
  engineEnded: { readonly params: Addressed & { readonly why: string }; readonly result: null };
}
