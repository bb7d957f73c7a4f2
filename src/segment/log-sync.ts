// Brings one log's bytes to stable storage: one data sync at a time serves all who wait, the next serves those who came
// meanwhile, and one starts by itself when many bytes are unsynced, so that neither a flush nor the kernel's dirty-page
// throttling ever stalls for long.
//
// Owner: SegmentLog. Invariant: `through` is the highest seq whose bytes, and the directory entries they need, are on stable
// storage. May fail: once; after a failed sync the kernel may have dropped the dirty pages, so nothing is retried and every
// later call gets the same error.

import { asHoldfastError, type HoldfastError } from '../base/index.js';
import type { Disk, DiskFile } from './disk.js';
import { BACKGROUND_SYNC_BYTES, PARALLEL_SYNCS } from './limits.js';
import type { LogSegment } from './segment-log.js';

export type Done = (error: Error | null) => void;

/** What LogSync asks of the log it serves. */
interface SyncFiles {
  /** The file of a segment with unsynced bytes. */
  open(segment: LogSegment): DiskFile;
  /** A sync no longer uses the segment's file. `synced`: what it was begun for is on stable storage. */
  release(segment: LogSegment, synced: boolean): void;
  /** A sync of `bytes` that somebody waits for is under way: the disk is busy, this thread is not. */
  waiting(bytes: number): void;
}

export class LogSync {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #files: SyncFiles;
  #dirty: LogSegment[] = [];
  #directoryDirty = false;
  #unsyncedBytes = 0;
  /** A sealed segment waits for a sync that nobody asked for. */
  #wanted = false;
  #appended = 0;
  #through = 0;
  /** The running sync: its segments, how many of them were begun, calls under way (and one more while it starts), its first failure. */
  #running = false;
  #syncing: LogSegment[] = [];
  #begun = 0;
  #open = 0;
  #failed: HoldfastError | null = null;
  /** What it will have covered, and who waits for it. */
  #target = 0;
  #serving: Done[] = [];
  #waiters: Done[] = [];
  /** The newest waiter has nothing to do for this log until it was answered. */
  #lone = false;
  #idle: (() => void)[] = [];
  #failure: HoldfastError | null = null;
  /** Called once when a sync failed. */
  onFailure: (error: HoldfastError) => void = () => {};

  constructor(disk: Disk, directory: string, files: SyncFiles) {
    this.#disk = disk;
    this.#directory = directory;
    this.#files = files;
  }

  get unsyncedBytes(): number {
    return this.#unsyncedBytes;
  }
  get failure(): HoldfastError | null {
    return this.#failure;
  }

  /** The state after recovery: these segments, and the directory, may hold what was never synced. */
  adopt(segments: readonly LogSegment[], appended: number, through: number): void {
    this.#appended = appended;
    this.#through = Math.min(through, appended);
    this.#directoryDirty = segments.length > 0;
    for (const segment of segments) this.touched(segment, 0);
  }

  /** Bytes are about to be written through `segment.file`. */
  touched(segment: LogSegment, bytes: number): void {
    this.#unsyncedBytes += bytes;
    if (segment.dirty) return;
    segment.dirty = true;
    this.#dirty.push(segment);
  }

  directoryChanged(): void {
    this.#directoryDirty = true;
  }

  /** Frames through `seq` were written. A sealed segment is synced at once: nothing more will be added to it. */
  appended(seq: number, sealed: boolean): void {
    this.#appended = seq;
    if (this.#failure === null && (sealed || this.#unsyncedBytes >= BACKGROUND_SYNC_BYTES)) {
      this.#wanted = true;
      if (!this.#running) this.#start();
    }
  }

  /** The segment was removed or rewritten; its bytes no longer matter. */
  clean(segment: LogSegment): void {
    if (!segment.dirty) return;
    segment.dirty = false;
    this.#dirty = this.#dirty.filter((other) => other !== segment);
  }

  /**
   * `done(null)` when every frame written so far up to `seq` is on stable storage; before it returns when it is already. `lone`: who
   * waits has nothing to do for this log meanwhile.
   */
  wait(seq: number, done: Done, lone = false): void {
    const wanted = Math.min(seq, this.#appended);
    if (this.#failure !== null || wanted <= this.#through) {
      done(this.#failure);
      return;
    }
    if (this.#running && wanted <= this.#target) {
      this.#serving.push(done);
      return;
    }
    this.#waiters.push(done);
    this.#lone = lone;
    if (!this.#running) this.#start();
  }

  /** Syncs every frame written so far. */
  all(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.wait(Number.MAX_SAFE_INTEGER, (error) => (error ? reject(error) : resolve()));
    });
  }

  /** Resolves when no sync runs. Starts none. */
  async idle(): Promise<void> {
    while (this.#running) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** The log was cut: what it held above `seq` is no longer there. */
  cutTo(seq: number): void {
    this.#appended = Math.min(this.#appended, seq);
    this.#through = Math.min(this.#through, seq);
  }

  #start(): void {
    const bytes = this.#unsyncedBytes;
    const directory = this.#directoryDirty;
    this.#running = true;
    this.#target = this.#appended;
    this.#syncing = this.#dirty;
    this.#begun = 0;
    this.#open = 1;
    this.#dirty = [];
    this.#directoryDirty = false;
    this.#unsyncedBytes = 0;
    this.#wanted = false;
    this.#serving = this.#waiters;
    this.#waiters = [];
    for (const segment of this.#syncing) {
      segment.dirty = false;
      segment.syncing = true;
      segment.startedTo = segment.length;
    }
    if (directory) {
      this.#open++;
      this.#disk.syncDirectory(this.#directory).then(() => this.#ended(null), this.#ended);
    }
    while (this.#begun < this.#syncing.length && this.#begun < PARALLEL_SYNCS) this.#syncNext();
    if (this.#serving.length > 0) this.#files.waiting(bytes);
    this.#ended(null);
  }

  #syncNext(): void {
    const segment = this.#syncing[this.#begun++]!;
    if (segment.removed) return;
    this.#open++;
    try {
      const lone = this.#lone && this.#serving.length === 1 && this.#syncing.length === 1;
      this.#files.open(segment).datasync(this.#ended, lone);
    } catch (error) {
      // Not before those that come next were begun.
      queueMicrotask(() => this.#ended(error));
    }
  }

  /** One call of the running sync has ended. All files are let go of before anything else happens. */
  readonly #ended = (error: unknown): void => {
    if (error !== null) this.#failed ??= asHoldfastError(error);
    this.#open--;
    while (this.#begun < this.#syncing.length && this.#open < PARALLEL_SYNCS) this.#syncNext();
    if (this.#open > 0) return;
    const segments = this.#syncing;
    this.#syncing = [];
    this.#running = false;
    for (const segment of segments) {
      segment.syncing = false;
      this.#files.release(segment, this.#failed === null);
    }
    if (this.#failed !== null) this.fail(this.#failed);
    else this.#finish();
    const idle = this.#idle;
    this.#idle = [];
    for (const resume of idle) resume();
  };

  #finish(): void {
    if (this.#failure !== null) return;
    this.#through = Math.max(this.#through, this.#target);
    const served = this.#serving;
    this.#serving = [];
    for (const done of served) done(null);
    if (!this.#running && (this.#wanted || this.#waiters.length > 0)) this.#start();
  }

  /** Also told when another write to the log's files failed: from then on nothing of them counts as synced. */
  fail(error: HoldfastError): void {
    if (this.#failure !== null) return;
    this.#failure = error;
    const all = [...this.#serving, ...this.#waiters];
    this.#serving = [];
    this.#waiters = [];
    this.onFailure(error);
    for (const done of all) done(error);
  }
}
