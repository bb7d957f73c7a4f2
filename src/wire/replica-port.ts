// The engine's view of one replica. The local one (same worker) and remote ones (through wire/) look alike.
//
// Order: append, sync, cut, deleteSegments and describe of one port take effect in the order of the calls. Every call
// carries the reign given to fence(); a replica that promised a higher one refuses with ABORTED (reason StaleReign) and
// from then on the port is lost. A port that is lost (connection gone, disk failed, deposed) fails every pending and
// later call and never recovers: the engine makes a new one.

import type { NodeId, ReplicaId } from '../base/index.js';
import type { CheckpointPlace, LogPoint, Member, Reign, SegmentName, Superblock, WrappedKey } from '../format/index.js';

export interface SegmentInfo extends SegmentName {
  readonly slot: number;
  readonly firstSeq: number;
  /** firstSeq - 1 while it holds no frame. */
  readonly lastSeq: number;
  /** Digest (hex) of its last frame; of the frame before the segment while it holds none. */
  readonly lastDigest: string;
  /** Bytes of header and valid frames. */
  readonly length: number;
  readonly sealed: boolean;
  /** Names of its file: more than 1 when clones share it. As of the call. */
  readonly links: number;
}

export interface FrameInfo {
  readonly seq: number;
  readonly offset: number;
  readonly length: number;
  /** hex */
  readonly digest: string;
}

export interface ReplicaStatus {
  readonly superblock: Superblock;
  /** End of its log: the last valid frame, zero seq and zero digest when empty. */
  readonly end: LogPoint;
  /**
   * False when nothing proves that the page cache which took its last bytes survived (boot id or mount instance changed):
   * acknowledged but unflushed frames may be missing at the end.
   */
  readonly cacheSurvived: boolean;
  /** Set when recovery met damage that is no torn tail; the segment and offset are in the text. Such a replica is no source of that range. */
  readonly damage: string | null;
  /** The highest point known durable everywhere that any valid frame or superblock here names. */
  readonly flushedThrough: number;
  /** True when an engine of an older reign ran in the same process and was stopped by this fence. */
  readonly stoppedEngine: boolean;
}

export interface ReplicaEvents {
  /** All frames up to seq are appended (page cache or further). Cumulative, monotonic. */
  appended(throughSeq: number): void;
  /** Called once. */
  lost(error: Error): void;
}

export interface DescribeUpdate {
  readonly sizeBytes?: number;
  readonly wrappedKey?: WrappedKey | null;
  /** Those that changed. */
  readonly parameters?: Readonly<Record<string, string>>;
  readonly setVersion?: number;
  readonly members?: readonly Member[];
  readonly flushed?: LogPoint;
  /** Becomes `checkpoint`; the former one becomes `previousCheckpoint`. */
  readonly checkpoint?: CheckpointPlace;
  readonly joining?: boolean;
  readonly addReign?: Reign;
}

export interface CloneOrder {
  /** The complete superblock of the new replica but for what only its host knows (poolId, nodeId, cache, promised): those are overwritten. */
  readonly superblock: Superblock;
  /** Sealed segments of this replica to link, oldest first. */
  readonly segments: readonly SegmentName[];
}

export interface ReadRange {
  readonly segment: SegmentName;
  readonly offset: number;
  /** Filled completely or the read fails. */
  readonly into: Uint8Array;
}

/**
 * Told of ranges that ended, all with the same error or none: as soon as they did, each once. `ranges` null: all of them, and it is
 * the only call. Calls may come before the reading function returns.
 */
export type RangesEnded = (error: Error | null, ranges: readonly number[] | null) => void;

export interface ReplicaPort {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly local: boolean;
  /** Receives events from now on; called once, before fence(). */
  listen(events: ReplicaEvents): void;
  /** Promises the reign durably, then answers what the replica holds. Repeating it with the same reign is harmless. */
  fence(reign: Reign): Promise<ReplicaStatus>;
  /** The log's segments, oldest first. */
  segments(): Promise<SegmentInfo[]>;
  /** Frames of one segment in order; for finding where two logs part. */
  frames(segment: SegmentName): Promise<FrameInfo[]>;
  /**
   * Appends whole frames at `offset` of `segment`. At offset 0 `bytes` starts with the segment's header (4096 bytes), which
   * creates the file. Frames must follow the log's end (seq and digest) exactly, except that while `joining` stands in the superblock a
   * new segment may start at a later seq (the segments between were dropped). Buffers must not change until acknowledged.
   * Never waits; events.appended() acknowledges. May be held back until flush() or the end of the turn.
   */
  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void;
  /** What append() was given so far leaves now and not at the end of the turn. A port without it sends at once. */
  flush?(): void;
  /**
   * `done(null)` when every frame appended so far up to throughSeq, and every directory entry they need, is on stable storage. `lone`:
   * the caller has nothing to do for this volume until then, so that the disk may be waited for in place (decision 036).
   */
  sync(throughSeq: number, done: (error: Error | null) => void, lone?: boolean): void;
  /** One callback for all ranges, when nothing is written into their memory any more; on error none of them counts. */
  read(ranges: readonly ReadRange[], done: (error: Error | null) => void): void;
  /** The same told range by range, so that what is in memory does not wait for a disk. A port without it has no disk of its own. */
  readParts?(ranges: readonly ReadRange[], ended: RangesEnded): void;
  /** `done(null)` when the replica has just confirmed that no higher reign was promised. */
  confirm(done: (error: Error | null) => void): void;
  /** Removes every frame above `seq` (0: all). Whole segments are deleted, a prefix is kept by writing a new file and renaming it. Durable when resolved. */
  cut(seq: number): Promise<void>;
  /** Unlinks segments; missing ones are no error. */
  deleteSegments(segments: readonly SegmentName[]): Promise<void>;
  /**
   * Rewrites bytes that were read damaged with the same bytes as verified elsewhere, in place and synced: the one exception to
   * "segments never change", since afterwards the file holds what it held before the damage. Only within the valid length.
   */
  repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void>;
  /** Bytes that can still be appended in the replica's pool, net of its reserve, as last heard (each acknowledgement brings it). */
  freeBytes(): number;
  /** Updates the superblock durably. */
  describe(update: DescribeUpdate): Promise<void>;
  /** Creates another volume's replica in the same pool out of hard links. Idempotent by the new replica's id. */
  clone(order: CloneOrder): Promise<void>;
  /** Stored, shared (linked more than once) and exclusive bytes on disk, by inode. */
  usage(): Promise<{ storedBytes: number; sharedBytes: number }>;
  close(): void;
}

/** Makes a port to a member's replica; the engine calls it again after a loss. Rejects UNAVAILABLE when it can't be reached in time. */
export interface ReplicaConnector {
  connect(replica: { replicaId: ReplicaId; nodeId: NodeId }, timeoutMs: number): Promise<ReplicaPort>;
}

/** The arguments of one append(). */
export interface AppendItem {
  readonly segment: SegmentName;
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly lastSeq: number;
}

/** A port that takes appends which arrived together in one go: contiguous ones with one write, all with one acknowledgement. */
export interface BatchReplicaPort extends ReplicaPort {
  appendBatch(items: readonly AppendItem[]): void;
}
