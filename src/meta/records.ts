// The objects of the metadata store, by key kind. Control owns most fields; the engine's agent alone changes epoch, reignId,
// engine, inSync, setVersion, wrappedKey, formatted and flushedPoint (design: only the current reign changes the set).
// Every value is JSON; times are milliseconds since 1970; sizes bytes.

import type {
  GroupId,
  IncarnationId,
  LineageId,
  NodeId,
  PoolId,
  ReignId,
  ReplicaId,
  SnapshotId,
  VolumeId,
} from '../base/index.js';

export type ReplicaState = 'creating' | 'ok' | 'lost' | 'leaving';

export const keyOf = {
  volume: (id: VolumeId) => `volume/${id}`,
  /** `hash` is the first 32 hex digits of SHA-256 of the CSI name. */
  volumeName: (hash: string) => `volume-name/${hash}`,
  snapshot: (id: SnapshotId) => `snapshot/${id}`,
  snapshotName: (hash: string) => `snapshot-name/${hash}`,
  group: (id: GroupId) => `group/${id}`,
  groupName: (hash: string) => `group-name/${hash}`,
  node: (id: NodeId) => `node/${id}`,
  /** What was ordered that gave data up; for people, never changed. */
  audit: (atMs: number, id: VolumeId) => `audit/${String(atMs).padStart(15, '0')}-${id}`,
  /** How and out of what the volume's record was rebuilt; for people. */
  rescue: (id: VolumeId) => `rescue/${id}`,
} as const;

/** Intent: a CSI name belongs to the object with this id, from before the object exists until it is gone. */
export interface NameRecord {
  readonly name: string;
  readonly id: string;
}

export interface Qos {
  /** Operations and bytes a second; 0 or absent = unlimited. */
  readonly maxReadIops?: number;
  readonly maxWriteIops?: number;
  readonly maxReadBps?: number;
  readonly maxWriteBps?: number;
}

export interface VolumeParameters {
  /** Total copies, 1..5. */
  readonly replicas: number;
  readonly minReplicas: number;
  /** 'node' or a topology label key. */
  readonly failureDomain: string;
  readonly dataLocality: 'disabled' | 'preferred' | 'required';
  readonly compression: 'none' | 'lz4' | 'zstd';
  readonly encryption: 'none' | 'aes-256-gcm' | 'chacha20-poly1305';
  readonly keyProvider: string;
  readonly fsType: string;
  readonly mkfsOptions: string;
  readonly mountOptions: string;
}

export interface ReplicaRecord {
  readonly id: ReplicaId;
  readonly nodeId: NodeId;
  readonly poolId: PoolId;
  /** Set when the replica was formatted; a replica that shows another one is not this replica. */
  readonly incarnationId: IncarnationId;
  /** See replica-states.ts. Whether it is in sync is said by VolumeRecord.inSync alone. */
  readonly state: ReplicaState;
  /**
   * Of a lost one: given up by an accepted loss, which granted this epoch. Its data stays until an engine of a later one has opened, and a
   * further acceptance may go back to it.
   */
  readonly givenUpEpoch?: number;
  /** Of a leaving one: it has the volume's data, nothing was ordered yet that deletes it, and it goes back when copies are missing. */
  readonly spare?: true;
  /** Sentence for people when state is lost or leaving. */
  readonly message?: string;
}

export interface Publication {
  readonly nodeId: NodeId;
  readonly readOnly: boolean;
  /** CSI access mode name, e.g. SINGLE_NODE_WRITER. */
  readonly accessMode: string;
  readonly accessType: 'mount' | 'block';
  readonly publishedMs: number;
}

export interface WrappedKeyRecord {
  readonly cipher: string;
  readonly wrappedBy: string;
  readonly blob: string;
}

export interface VolumeRecord {
  readonly id: VolumeId;
  readonly name: string;
  /** creating: replicas being made. ready. deleting: tombstone until every replica confirmed. snapshots-only: deleted as a volume, kept for its snapshots. */
  readonly state: 'creating' | 'ready' | 'deleting' | 'snapshots-only';
  readonly createdMs: number;
  readonly sizeBytes: number;
  /** Clones share their source's lineage (data key, record identity). */
  readonly lineageId: LineageId;
  readonly source?: { readonly kind: 'snapshot' | 'volume'; readonly id: string; readonly sourceVolumeId: VolumeId };
  readonly parameters: VolumeParameters;
  readonly qos: Qos;
  /** Topology requirement it was placed under, for repeats and for display. */
  readonly topology?: Readonly<Record<string, string>>[];
  /** Tags that nodes and pools of its replicas must carry. Absent: none. */
  readonly selectors?: { readonly nodes: readonly string[]; readonly disks: readonly string[] };
  /** With dataLocality required: the nodes where its users may run, as was said when it was made; that is never said anew. */
  readonly pinnedTo?: readonly NodeId[];
  readonly replicas: readonly ReplicaRecord[];
  /** Never empty once ready. */
  readonly inSync: readonly ReplicaId[];
  /** Rises with each change of inSync. */
  readonly setVersion: number;
  /** 0 before the first open. */
  readonly epoch: number;
  readonly reignId: ReignId | null;
  /** Where the current reign's engine runs; null when closed cleanly. */
  readonly engine: { readonly nodeId: NodeId; readonly maintenance: boolean; readonly openedMs: number } | null;
  readonly publications: readonly Publication[];
  readonly wrappedKey: WrappedKeyRecord | null;
  /** Whether mkfs ran: never -> formatting -> formatted. A clone copies its source's. Block volumes: 'raw' once published as block. */
  readonly formatted: { readonly state: 'never' | 'formatting' | 'formatted' | 'raw'; readonly fsType?: string };
  /** A point durable on all in-sync replicas: a log without it was rolled back. */
  readonly flushedPoint: { readonly epoch: number; readonly seq: number; readonly digest: string } | null;
}

export interface SnapshotRecord {
  readonly id: SnapshotId;
  readonly name: string;
  readonly volumeId: VolumeId;
  readonly groupId?: GroupId;
  readonly state: 'creating' | 'ready' | 'deleting';
  /** Whether its volume had a filesystem at that instant; what is made of it starts there. */
  readonly formatted?: VolumeRecord['formatted'];
  /** The instant it shows; 0 until ready. */
  readonly createdMs: number;
  readonly sizeBytes: number;
}

export interface GroupRecord {
  readonly id: GroupId;
  readonly name: string;
  readonly state: 'creating' | 'ready' | 'deleting';
  readonly createdMs: number;
  /** Sorted by volume id. */
  readonly members: readonly { readonly volumeId: VolumeId; readonly snapshotId: SnapshotId }[];
}

export interface PoolRecord {
  readonly id: PoolId;
  readonly path: string;
  readonly capacityBytes: number;
  readonly freeBytes: number;
  readonly tags: readonly string[];
  /** Sentence when the pool can't be used (read-only, failing disk, ...). */
  readonly problem?: string;
}

/** Who gave up what, written before it was done. */
export interface AuditRecord {
  readonly what: 'accept-loss';
  readonly volumeId: VolumeId;
  readonly by: string;
  readonly atMs: number;
  /** Sentences. */
  readonly givenUp: readonly string[];
  readonly survivors: readonly NodeId[];
  readonly loss: string;
  readonly before: Pick<VolumeRecord, 'inSync' | 'epoch' | 'setVersion' | 'flushedPoint'>;
}

/** By an operator's order: no new replicas go there, and those that are there go elsewhere. */
export interface DrainRecord {
  /** Null: the whole node. */
  readonly poolId: PoolId | null;
  readonly sinceMs: number;
  /** Who ordered it, as told. */
  readonly by: string;
}

/** What a node's daemon says of itself at Register and each Heartbeat, and what was ordered for it. */
export interface NodeRecord {
  readonly id: NodeId;
  /** gRPC address of the storage daemon's control API, host:port. */
  readonly controlAddress: string;
  readonly topology: Readonly<Record<string, string>>;
  readonly tags: readonly string[];
  readonly pools: readonly PoolRecord[];
  /** TCP ports of the workers' replica servers, host:port, by worker index; a volume's worker is hash(volume id) mod length. */
  readonly replicaAddresses: readonly string[];
  /** Random per daemon start. */
  readonly instance: string;
  readonly heartbeatMs: number;
  /** Highest store version this daemon ever saw. */
  readonly storeVersionSeen: number;
  /** Kept over registrations. */
  readonly drains?: readonly DrainRecord[];
}
