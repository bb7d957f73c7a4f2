// One volume's log in one pool of this node, and its promise.
//
//            open()                    fence(higher or equal reign)
//   on disk ────────▶ open, no port ─────────────────────────────▶ open, current port ──┐ fence: the former port is lost
//                         ▲                port closed or refused        │   ▲            │
//                         └──────────────────────────────────────────────┘   └────────────┘
//   open ── a write or a sync failed ──▶ failed: refuses everything, also after a restart (marker file)
//   open ── a cut failed half way, retire, close ──▶ shut: the host opens it anew, if it is still there
//
// Owner: the ReplicaHost of one worker; everything here runs on that worker's event loop. Invariants: the promise in memory
// is never below the one on disk and rises first, so that from the moment a fence arrives nothing of a lower reign counts;
// at most one port is current, and only it appends, syncs, reads or changes anything; what is acknowledged was accepted
// (accept.ts) and written. May fail: writes and syncs of the disk (then the replica fails for good); reads of it (damage of that place);
// a full disk (the port is lost, the log ends where it ended).

import {
  AssertionError,
  asHoldfastError,
  type Clock,
  HoldfastError,
  type Logger,
  messageOf,
  precondition,
  type VolumeId,
} from '../base/index.js';
import { type Reign, type SegmentHeader, type SegmentName, type Superblock, segmentFileName } from '../format/index.js';
import {
  createReplicaDirectory,
  directoryUsage,
  type HandleCache,
  type LogSegment,
  LogTail,
  type Pool,
  type RecoveryVerdict,
  SegmentLog,
  SuperblockStore,
} from '../segment/index.js';
import type {
  AppendItem,
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  RangesEnded,
  ReadRange,
  ReplicaStatus,
  SegmentInfo,
} from '../wire/index.js';
import type { AcceptRules } from './accept.js';
import { writeBatch } from './batch-writer.js';
import { checkNotMarked, markFailed } from './failure-marker.js';
import {
  type CacheIdentity,
  cacheIdentity,
  checkIdentity,
  closedHere,
  damagedLog,
  endsAsNoted,
  sameCache,
  staleReign,
  superseded,
  tooMany,
} from './identity.js';
import { OperationQueue } from './operation-queue.js';
import { frameInfos, segmentInfos } from './segment-info.js';
import type { SpaceGauge } from './space-gauge.js';
import { type StopEngine, stopFormerEngine } from './stop-engine.js';
import { describeSuperblock, superblockForCut } from './superblock-change.js';
import { betweenUnlinks } from './unlink-pace.js';

export type Done = (error: Error | null) => void;

/** The end of a port that its replica holds. */
export interface PortHandle {
  /** What it fenced with; set by the replica. */
  reign: Reign | null;
  /** The engine is on another node, where it reads its own replica if it has one. */
  readonly engineElsewhere: boolean;
  /** Every frame through `seq` was written. */
  appended(seq: number): void;
  /** The port may do nothing any more. */
  lose(error: HoldfastError): void;
}

export interface ReplicaParts {
  readonly pool: Pool;
  readonly handles: HandleCache;
  readonly space: SpaceGauge;
  readonly stopEngine: StopEngine;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Opened {
  readonly store: SuperblockStore;
  readonly log: SegmentLog;
  readonly verdict: RecoveryVerdict;
}

export class Replica {
  readonly volumeId: VolumeId;
  readonly #parts: ReplicaParts;
  readonly #store: SuperblockStore;
  readonly #log: SegmentLog;
  readonly #queue = new OperationQueue();
  /** Sticky until a reign's own bytes are taken: a restart in between must not turn a suspect tail into a proven one. */
  #cacheSurvived = false;
  readonly #cacheNow: CacheIdentity;
  #promised: Reign;
  #port: PortHandle | null = null;
  readonly #tail = new LogTail();
  #rules: AcceptRules;
  #failure: HoldfastError | null = null;
  /** Set once when the replica may no longer be used through this object; the host then forgets it. */
  #shut = false;
  onShut: () => void = () => {};

  private constructor(parts: ReplicaParts, volumeId: VolumeId, opened: Opened) {
    this.#parts = parts;
    this.volumeId = volumeId;
    this.#store = opened.store;
    this.#log = opened.log;
    this.#cacheNow = cacheIdentity(parts.pool);
    this.#promised = opened.store.current.promised;
    this.#log.tailInto(this.#tail, opened.verdict.flushedThrough);
    this.#rules = this.#currentRules();
    this.#log.sync.onFailure = (error) => this.#fail(error);
    if (this.#log.sync.failure !== null) this.#fail(this.#log.sync.failure);
  }

  /**
   * Opens what the pool holds of the volume and recovers its log. NOT_FOUND/ReplicaLost when it is not there,
   * DATA_LOSS/Corrupt when neither superblock is good, DiskFailed when it failed before.
   */
  static async open(parts: ReplicaParts, volumeId: VolumeId): Promise<Replica> {
    const { pool, handles, logger, space } = parts;
    const directory = pool.replicaPath(volumeId);
    if (pool.disk.stat(directory) === undefined) {
      throw new HoldfastError('NOT_FOUND', `pool ${pool.path} holds no replica of volume ${volumeId}`, {
        reason: 'ReplicaLost',
      });
    }
    checkNotMarked(pool.disk, directory);
    const store = SuperblockStore.open(pool.disk, directory);
    checkIdentity(store.current, pool, volumeId);
    const { flushed, checkpoint, joining } = store.current;
    const survived = sameCache(store.current.cache, cacheIdentity(pool));
    const evidence = {
      joining,
      cacheSurvived: survived,
      flushedSeq: flushed?.seq ?? 0,
      checkpointSeq: checkpoint?.coveredThrough ?? 0,
    };
    const { log, verdict } = SegmentLog.open(pool.disk, directory, handles, evidence, () => space.hasRoom());
    const replica = new Replica(parts, volumeId, { store, log, verdict });
    await replica.#trim();
    // Of the log as it stands now: an empty segment at its end says nothing.
    replica.#cacheSurvived = survived && endsAsNoted(log.last, store.current);
    const { end, durableThrough: durable, gaps } = verdict;
    const facts = { volume: volumeId, end: end.seq, durable, cacheSurvived: replica.#cacheSurvived, gaps };
    if (verdict.text === null) logger.info(facts, 'replica opened');
    else logger.warn({ ...facts, found: verdict.text }, `replica opened, ${verdict.verdict}`);
    return replica;
  }

  /** Where the disk fails the replica is open, and has failed: the same try once more would pass, and prove nothing. */
  async #trim(): Promise<void> {
    if (this.#log.damage !== null) return;
    try {
      await this.#onDisk(this.#log.trim());
    } catch (error) {
      if (this.#failure !== null) return;
      await this.#log.abandon();
      throw error;
    }
  }

  get superblock(): Superblock {
    return this.#store.current;
  }
  /** Its disk failed: no process uses it again. */
  get failed(): boolean {
    return this.#failure !== null;
  }
  /** A sentence when the replica can't be used as it should; else empty. */
  get problem(): string {
    return this.#failure?.message ?? this.#log.damage ?? '';
  }
  get pool(): Pool {
    return this.#parts.pool;
  }
  get freeBytes(): number {
    return this.#parts.space.freeBytes();
  }

  // --- Reigns ---------------------------------------------------------------------------------------------------------

  /** See ReplicaPort.fence(). The port becomes the current one before this returns. */
  fence(port: PortHandle, reign: Reign): Promise<ReplicaStatus> {
    const refusal = this.#unusable() ?? this.#staleness(reign);
    if (refusal !== null) return Promise.reject(refusal);
    this.#promised = reign;
    const former = this.#port;
    this.#port = port;
    this.#log.cache.readElsewhere = port.engineElsewhere;
    port.reign = reign;
    if (former !== null && former !== port) former.lose(superseded(this.volumeId, former.reign, reign));
    return this.#queue.barrier(async () => {
      this.#checkCurrent(port);
      const stoppedEngine = await stopFormerEngine(this.#parts, this.volumeId, reign);
      this.#checkCurrent(port);
      if (this.#log.damage === null) await this.#onDisk(this.#log.trim());
      const { promised, cache } = this.#store.current;
      // What is copied to it from now on must not make a doubtful end look like a proven one.
      const doubted = !this.#cacheSurvived && sameCache(cache, this.#cacheNow);
      if (doubted || promised.epoch !== reign.epoch || promised.reignId !== reign.reignId)
        await this.#update({ ...this.#store.current, promised: reign, cache: doubted ? null : cache });
      this.#checkCurrent(port);
      this.#log.tailInto(this.#tail, this.#tail.flushedThrough);
      return this.#status(stoppedEngine);
    });
  }

  #staleness(reign: Reign): HoldfastError | null {
    const { epoch, reignId } = this.#promised;
    if (reign.epoch > epoch || (reign.epoch === epoch && reign.reignId === reignId)) return null;
    return staleReign(this.volumeId, this.#promised, reign);
  }

  #status(stoppedEngine: boolean): ReplicaStatus {
    const { epoch, seq, digest } = this.#log.end;
    return {
      superblock: this.#store.current,
      end: { epoch, seq, digest: digest.toString('hex') },
      cacheSurvived: this.#cacheSurvived,
      damage: this.#log.damage,
      flushedThrough: this.#flushedThrough(),
      stoppedEngine,
    };
  }

  #flushedThrough(): number {
    return Math.max(this.#tail.flushedThrough, this.#store.current.flushed?.seq ?? 0);
  }

  /** The port is gone; nothing of it counts any more. */
  release(port: PortHandle): void {
    if (this.#port === port) this.#port = null;
  }

  /** Why the port may do nothing, or null. */
  refusal(port: PortHandle): HoldfastError | null {
    if (this.#port === port) return this.#unusable();
    return this.#unusable() ?? superseded(this.volumeId, port.reign, this.#promised);
  }

  #unusable(): HoldfastError | null {
    return this.#failure ?? (this.#shut ? closedHere(this.volumeId) : null);
  }

  #checkCurrent(port: PortHandle): void {
    const refusal = this.refusal(port);
    if (refusal !== null) throw refusal;
  }

  // --- The way of a write ---------------------------------------------------------------------------------------------

  /** Whether an append now would have to wait behind something else, and keep its items. */
  get blocked(): boolean {
    return this.#queue.blocked;
  }

  /** Appends in order, contiguous items with one write, and acknowledges once. On any refusal the port is lost. */
  append(port: PortHandle, items: readonly AppendItem[]): void {
    if (!this.blocked) this.#append(port, items);
    else if (!this.#queue.pass(() => this.#append(port, items))) this.#losePort(port, tooMany(this.volumeId));
  }

  #append(port: PortHandle, items: readonly AppendItem[]): void {
    if (this.#port !== port || this.#unusable() !== null) return;
    let error: unknown = null;
    const before = this.#log.end.seq;
    try {
      if (this.#log.damage !== null) throw damagedLog(this.#log.damage);
      writeBatch(this.#log, this.#tail, this.#rules, items, this.#opened);
      for (let i = 0; i < items.length; i++) this.#parts.space.taken(items[i]!.bytes.length);
    } catch (caught) {
      if (caught instanceof AssertionError) throw caught;
      error = caught;
      this.#log.tailInto(this.#tail, this.#tail.flushedThrough);
    }
    if (this.#log.end.seq > before) port.appended(this.#log.end.seq);
    if (error !== null) this.#appendFailed(port, asHoldfastError(error));
  }

  #appendFailed(port: PortHandle, error: HoldfastError): void {
    // A full disk ends the port and not the replica: space may come back. Refused frames are their sender's fault.
    if (error.reason === 'DiskFailed') this.#fail(error);
    else this.#losePort(port, error);
  }

  /**
   * The first bytes of a reign's own segment prove that the log's former tail was settled: from here on a surviving page
   * cache is proof again. The write need not be waited for; until it is there the replica only looks more suspect.
   */
  readonly #opened = (header: SegmentHeader): void => {
    if (header.epoch !== this.#promised.epoch || this.#cacheSurvived) return;
    const note = async () => {
      if (this.#unusable() !== null) return;
      await this.#update({ ...this.#store.current, cache: this.#cacheNow });
      this.#cacheSurvived = true;
    };
    this.#queue.run(note).catch((error) => {
      this.#parts.logger.warn({ volume: this.volumeId, error: messageOf(error) }, 'page cache was not noted');
    });
  };

  sync(port: PortHandle, throughSeq: number, done: Done, lone: boolean): void {
    const start = () => {
      const refusal = this.refusal(port);
      if (refusal !== null) done(refusal);
      else this.#log.sync.wait(throughSeq, (error) => done(error ?? this.refusal(port)), lone);
    };
    if (!this.#queue.blocked) start();
    else if (!this.#queue.pass(start)) done(tooMany(this.volumeId));
  }

  /** See SegmentLog.read(). */
  read(port: PortHandle, ranges: readonly ReadRange[], ended: RangesEnded): void {
    const refusal = this.refusal(port);
    if (refusal !== null) return ended(refusal, null);
    this.#log.cache.read();
    this.#log.read(ranges, ended);
  }

  // --- Everything else ------------------------------------------------------------------------------------------------

  segments(port: PortHandle): SegmentInfo[] {
    this.#checkCurrent(port);
    return segmentInfos(this.#log.segments, this.#parts.pool.disk);
  }

  framesOf(port: PortHandle, name: SegmentName): FrameInfo[] {
    this.#checkCurrent(port);
    return frameInfos(this.#log, this.#find(name));
  }

  #find(name: SegmentName): LogSegment {
    const segment = this.#log.find(name);
    if (segment === undefined)
      throw new HoldfastError('NOT_FOUND', `segment ${segmentFileName(name)} is not in ${this.#log.directory}`);
    return segment;
  }

  cut(port: PortHandle, seq: number): Promise<void> {
    return this.#queue.barrier(async () => {
      this.#checkCurrent(port);
      this.#log.checkCut(seq);
      const place = this.#log.endAt(seq);
      const point = { epoch: place.epoch, seq: place.seq, digest: place.digest.toString('hex') };
      const next = superblockForCut(this.#store.current, { point, segment: place.segment, offset: place.offset });
      if (next !== this.#store.current) await this.#update(next);
      this.#checkCurrent(port);
      try {
        await this.#onDisk(this.#log.cut(seq));
      } catch (error) {
        await this.#cutFailed(asHoldfastError(error));
        throw error;
      }
      this.#log.tailInto(this.#tail, Math.min(this.#tail.flushedThrough, this.#log.end.seq));
    });
  }

  /** One whose disk failed stays, and says so. */
  async #cutFailed(error: HoldfastError): Promise<void> {
    if (this.#failure === null) this.#shutFor(error);
    await this.#log.abandon();
  }

  async deleteSegments(port: PortHandle, names: readonly SegmentName[]): Promise<void> {
    const deleting = await this.#queue.run(async () => {
      this.#checkCurrent(port);
      const { joining, checkpoint } = this.#store.current;
      const durable = Math.max(this.#flushedThrough(), checkpoint?.coveredThrough ?? 0);
      for (const name of names) {
        const segment = this.#log.find(name);
        if (segment === undefined || joining || segment.lastSeq <= durable) continue;
        throw precondition(
          `segment ${segmentFileName(name)} holds seq ${segment.lastSeq}, known durable is ${durable}: a hole there would look like a loss`,
        );
      }
      // What comes next in the queue need not wait for the files to go.
      return { done: this.#log.delete(names, () => betweenUnlinks(this.#parts)) };
    });
    await this.#onDisk(deleting.done);
    this.#parts.space.given();
  }

  describe(port: PortHandle, update: DescribeUpdate): Promise<void> {
    const apply = async () => {
      this.#checkCurrent(port);
      let next = describeSuperblock(this.#store.current, update);
      // A joiner that was synced and is at par lacks nothing any more.
      if (update.joining === false) next = { ...next, cache: this.#cacheNow };
      await this.#update(next);
      if (update.joining === false) this.#cacheSurvived = true;
      // Everything is durable everywhere: the volume is idle, and needs nothing ahead.
      if (update.flushed?.seq === this.#log.end.seq && this.#port === port) this.#log.giveBack();
    };
    return update.joining === undefined ? this.#queue.run(apply) : this.#queue.barrier(apply);
  }

  repair(port: PortHandle, segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#queue.run(async () => {
      this.#checkCurrent(port);
      await this.#onDisk(this.#log.repair(segment, offset, bytes));
      this.#parts.logger.warn(
        { volume: this.volumeId, segment: segmentFileName(segment), offset, bytes: bytes.length },
        'damaged bytes repaired',
      );
    });
  }

  async clone(port: PortHandle, order: CloneOrder): Promise<void> {
    this.#checkCurrent(port);
    // A segment that another one follows takes no more frames, whether its engine lived to seal it or not.
    for (const name of order.segments) {
      const segment = this.#find(name);
      if (!segment.sealed && segment === this.#log.last)
        throw precondition(`segment ${segmentFileName(name)} is not sealed: it can't be shared`);
    }
    await this.#log.sync.all();
    this.#checkCurrent(port);
    const { pool } = this.#parts;
    const own = { poolId: pool.id, nodeId: pool.nodeId, cache: this.#cacheNow, promised: this.#promised };
    await createReplicaDirectory(
      pool,
      { ...order.superblock, ...own },
      { directory: this.#log.directory, segments: order.segments },
    );
  }

  usage(): { storedBytes: number; sharedBytes: number } {
    return directoryUsage(this.#parts.pool.disk, this.#log.directory);
  }

  /** After a failed write or sync nothing that the kernel shows proves anything: the replica fails, and nothing is tried again. */
  async #onDisk(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      const failure = asHoldfastError(error);
      if (failure.reason === 'DiskFailed') this.#fail(failure);
      throw failure;
    }
  }

  async #update(next: Superblock): Promise<void> {
    try {
      await this.#store.update(next);
    } catch (error) {
      const failure = asHoldfastError(error);
      if (failure.reason === 'DiskFailed') this.#fail(failure);
      throw failure;
    } finally {
      // Also after a failure: one slot may hold the new contents, and then they count.
      this.#rules = this.#currentRules();
    }
  }

  #currentRules(): AcceptRules {
    const { volumeId, lineageId, promised, reigns, joining } = this.#store.current;
    return { volumeId, lineageId, promised, reigns, joining };
  }

  // --- Endings --------------------------------------------------------------------------------------------------------

  #losePort(port: PortHandle, error: HoldfastError): void {
    this.release(port);
    port.lose(error);
  }

  #fail(error: HoldfastError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    this.#parts.logger.error({ volume: this.volumeId, error: error.message }, 'replica failed');
    const port = this.#port;
    if (port !== null) this.#losePort(port, error);
    markFailed(this.#parts.pool.disk, this.#log.directory, error).catch((caught) => {
      this.#parts.logger.error(
        { volume: this.volumeId, error: messageOf(caught) },
        'the failed replica could not be marked',
      );
    });
  }

  #shutFor(error: HoldfastError): void {
    if (this.#shut) return;
    this.#shut = true;
    const port = this.#port;
    if (port !== null) this.#losePort(port, error);
    this.onShut();
  }

  /** Ends it: the port is lost with `error`, files are closed when it resolves. */
  async close(error: HoldfastError): Promise<void> {
    this.#shutFor(error);
    await this.#queue.drained();
    await (this.#failure === null ? this.#log.close() : this.#log.abandon());
  }
}
