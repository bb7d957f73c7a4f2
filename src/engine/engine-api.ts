// What the agent gives an engine and what it may ask of it. engine.ts implements it; tests and the agent see only this.

import type {
  Clock,
  GroupId,
  LineageId,
  Logger,
  NodeId,
  Random,
  ReplicaId,
  SnapshotId,
  VolumeId,
} from '../base/index.js';
import type { Cipher, Compression, LogPoint, Member, Reign, WrappedKey } from '../format/index.js';
import type { PageCache } from '../hotpath/index.js';
import type { BlockDevice } from './block-device.js';
import type { ReplicaConnector } from './replica-port.js';

/** Operations and bytes a second; 0 = unlimited. */
export interface QosLimits {
  readonly maxReadIops: number;
  readonly maxWriteIops: number;
  readonly maxReadBps: number;
  readonly maxWriteBps: number;
}

export interface EngineMember extends Member {
  readonly nodeId: NodeId;
  readonly inSync: boolean;
  /** Known to have come back empty: shown, never connected. */
  readonly lost: boolean;
  /** Is to leave the in-sync set. Of no use as a source once it has left. */
  readonly leaving?: boolean;
}

/** How many replicas there are to be, and how many of them writes need. */
export interface Copies {
  readonly replicas: number;
  readonly minReplicas: number;
}

export interface EngineVolume {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  /** From the metadata; the log may hold a newer, larger size, which wins. */
  readonly sizeBytes: number;
  readonly compression: Compression;
  readonly cipher: Cipher;
  readonly minReplicas: number;
  /** None leaves while fewer others are in sync. Absent: as many as writes need. */
  readonly replicas?: number;
  readonly qos: QosLimits;
  /** Copied into the replicas' superblocks, so that they describe themselves. */
  readonly wrappedKey: WrappedKey | null;
}

export type SetOutcome =
  /** The new set stands in the store. */
  | { readonly outcome: 'done'; readonly setVersion: number }
  /**
   * The store's set is of another version than expected, and still this reign's own: an earlier change whose outcome was unknown had
   * taken effect after all. Nothing was changed; this is what stands.
   */
  | { readonly outcome: 'conflict'; readonly setVersion: number; readonly inSync: readonly ReplicaId[] }
  /** Another reign was granted: this engine is deposed. */
  | { readonly outcome: 'deposed' };

/** The engine's way to the metadata store. Both calls may be repeated. */
export interface MembershipPort {
  /**
   * Replaces the in-sync set, if the store still has this engine's reign and `expectedSetVersion`. Idempotent: a set that already
   * stands is 'done'. Rejects when the outcome is unknown (store unreachable): the change is then still pending and the engine asks again.
   */
  changeSet(change: { expectedSetVersion: number; inSync: readonly ReplicaId[]; reason: string }): Promise<SetOutcome>;
  /** Marks a replica whose disk came back empty or foreign; shown to people, never re-admitted. */
  markLost(replicaId: ReplicaId, message: string): Promise<void>;
  /** Keeps a point that is durable on all in-sync replicas; best effort. */
  noteFlushed(point: { epoch: number; seq: number; digest: string }): Promise<void>;
}

export interface EngineOptions {
  readonly volume: EngineVolume;
  /** Already granted by the store. */
  readonly reign: Reign;
  readonly members: readonly EngineMember[];
  readonly setVersion: number;
  /** 32 bytes; null for a plain volume and for a maintenance engine of an encrypted one (which can't read or write data then). */
  readonly dataKey: Buffer | null;
  readonly readOnly: boolean;
  /** Proof from elsewhere that the former engine is gone (its process ended): then no lease has to be waited out. */
  readonly formerEngineGone: boolean;
  /** Every reply asks all replicas instead of trusting a lease, so that no clock is trusted. The same for all engines of a volume. */
  readonly leaseless?: boolean;
  /** A point that every in-sync log must contain. */
  readonly flushedPoint: { readonly epoch: number; readonly seq: number; readonly digest: string } | null;
  readonly connector: ReplicaConnector;
  readonly membership: MembershipPort;
  /** Memory for map pages that all volumes share; by default that of the thread. */
  readonly pages?: PageCache;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface EngineReplicaState {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly state: 'in-sync' | 'catching-up' | 'unreachable' | 'lost';
  readonly message: string;
  readonly appendedThrough: number;
  /** Of log that it may still have to be sent, counted in whole segments. */
  readonly behindBytes: number;
}

export interface EngineStatus {
  readonly state: 'serving' | 'paused' | 'failed' | 'closed';
  readonly message: string;
  readonly sizeBytes: number;
  readonly allocatedBytes: number;
  readonly storedBytes: number;
  readonly replicas: readonly EngineReplicaState[];
  readonly snapshotIds: readonly SnapshotId[];
  readonly counters: Readonly<
    Record<
      | 'reads'
      | 'writes'
      | 'flushes'
      | 'trims'
      | 'readBytes'
      | 'writeBytes'
      /** All that went into the log: of clients, moved, of checkpoints. */
      | 'storedWriteBytes'
      | 'movedBytes'
      | 'checkpointBytes'
      /** Length of the segments that were deleted. */
      | 'reclaimedBytes'
      | 'readRepairs',
      number
    >
  >;
}

export interface ScrubReport {
  /** Over all replicas. */
  readonly verifiedBytes: number;
  readonly repairs: number;
  /** One sentence for each place that no replica has intact. */
  readonly damage: readonly string[];
}

export interface ChangedExtents {
  /** Of the target, at its instant. */
  readonly volumeSizeBytes: number;
  readonly extents: readonly { readonly offset: number; readonly length: number }[];
  /** Where to go on; null: nothing follows. */
  readonly nextOffset: number | null;
}

export interface CloneTarget {
  readonly sourceReplicaId: ReplicaId;
  readonly member: Member;
}

export interface Engine extends BlockDevice {
  readonly reign: Reign;
  /** A point durable on every in-sync replica: the reign's first frame, once it is open. */
  readonly opening: LogPoint;
  freeze(order: {
    snapshotId: SnapshotId;
    groupId: GroupId | null;
    holdToken: string | null;
  }): Promise<{ sizeBytes: number; wallMs: number; seq: number }>;
  /** Withholds replies of writes, trims and flushes (appending goes on) until release or deadline. */
  hold(token: string, deadlineMs: number): Promise<void>;
  /** False when the deadline had passed: the group must be given up. */
  release(token: string): boolean;
  clone(order: {
    snapshotId: SnapshotId;
    newVolumeId: VolumeId;
    targets: readonly CloneTarget[];
    parameters: Readonly<Record<string, string>>;
  }): Promise<void>;
  /** Grows; a size at or below the current one is no change. */
  resize(sizeBytes: number): Promise<void>;
  setQos(qos: QosLimits): void;
  /**
   * Takes over the replicas, how many of them there are to be, and how many writes need, as the volume's record has them now. A new one is
   * brought up to date beside the foreground and then joins; one that leaves, or is not named any more, is taken out of the set once as
   * many others as there are to be are in it, and counts until the store has confirmed that. Returns at once with how they are now.
   */
  follow(members: readonly EngineMember[], copies: Copies): readonly EngineReplicaState[];
  /** A snapshot that does not exist is no error. */
  deleteSnapshot(snapshotId: SnapshotId): Promise<void>;
  /**
   * What differs between two snapshots, the base being the earlier one; base null: what target has mapped. Exact to the block,
   * ascending, merged within an answer. One answer is bounded in extents and in work, and may hold nothing but where to go on.
   * Throws NOT_FOUND, INVALID_ARGUMENT for snapshots in the wrong order.
   */
  changed(order: {
    base: SnapshotId | null;
    target: SnapshotId;
    startingOffset: number;
    maxResults: number;
  }): Promise<ChangedExtents>;
  /** Verifies everything at rest on every in-sync replica and repairs what a peer has intact. Goes on by itself, slowly, without this call. */
  scrub(): Promise<ScrubReport>;
  status(): EngineStatus;
  /** Flushes what was written, notes a clean end, disconnects. Requests after it fail with ESHUTDOWN. */
  close(): Promise<void>;
  /** Stops at once, without flushing: a higher reign was promised. */
  depose(why: string): void;
}
