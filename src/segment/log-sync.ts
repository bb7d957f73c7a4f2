// Brings one log's bytes to stable storage: one data sync at a time serves all who wait, the next serves those who came
// meanwhile, and one starts by itself when many bytes are unsynced, so that neither a flush nor the kernel's dirty-page
// throttling ever stalls for long.
//
// Owner: SegmentLog. Invariant: `through` is the highest seq whose bytes, and the directory entries they need, are on stable
// storage. May fail: once; after a failed sync the kernel may have dropped the dirty pages, so nothing is retried and every
// later call gets the same error.

import { asHoldfastError, type HoldfastError } from '../base/index.js';
import type { Disk, DiskFile } from './disk.js';
import type { LogSegment } from './segment-log.js';

/** Unsynced bytes at which a background sync starts: about what a disk takes in a few tens of milliseconds. */
const BACKGROUND_SYNC_BYTES = 8 * 1024 * 1024;

/** After a recovery many files may be unsynced; they are not opened all at once. */
const PARALLEL_SYNCS = 64;

export type Done = (error: Error | null) => void;

/** What LogSync asks of the log it serves. */
interface SyncFiles {
  /** The file of a segment with unsynced bytes. */
  open(segment: LogSegment): DiskFile;
  /** A sync no longer uses the segment's file. */
  release(segment: LogSegment): void;
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
  #running: Promise<void> | null = null;
  /** What the running sync will have covered, and who waits for it. */
  #target = 0;
  #serving: Done[] = [];
  #waiters: Done[] = [];
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
    if (sealed || this.#unsyncedBytes >= BACKGROUND_SYNC_BYTES) {
      this.#wanted = true;
      if (this.#running === null) this.#start();
    }
  }

  /** The segment was removed or rewritten; its bytes no longer matter. */
  clean(segment: LogSegment): void {
    if (!segment.dirty) return;
    segment.dirty = false;
    this.#dirty = this.#dirty.filter((other) => other !== segment);
  }

  /** `done(null)` when every frame written so far up to `seq` is on stable storage; before it returns when it is already. */
  wait(seq: number, done: Done): void {
    const wanted = Math.min(seq, this.#appended);
    if (this.#failure !== null || wanted <= this.#through) {
      done(this.#failure);
      return;
    }
    if (this.#running !== null && wanted <= this.#target) {
      this.#serving.push(done);
      return;
    }
    this.#waiters.push(done);
    if (this.#running === null) this.#start();
  }

  /** Syncs every frame written so far. */
  all(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.wait(Number.MAX_SAFE_INTEGER, (error) => (error ? reject(error) : resolve()));
    });
  }

  /** Resolves when no sync runs. Starts none. */
  async idle(): Promise<void> {
    while (this.#running !== null) await this.#running;
  }

  /** The log was cut: what it held above `seq` is no longer there. */
  cutTo(seq: number): void {
    this.#appended = Math.min(this.#appended, seq);
    this.#through = Math.min(this.#through, seq);
  }

  #start(): void {
    this.#target = this.#appended;
    const segments = this.#dirty;
    const directory = this.#directoryDirty;
    this.#dirty = [];
    this.#directoryDirty = false;
    this.#unsyncedBytes = 0;
    this.#wanted = false;
    this.#serving = this.#waiters;
    this.#waiters = [];
    for (const segment of segments) {
      segment.dirty = false;
      segment.syncing = true;
    }
    this.#running = this.#flush(segments, directory).then((failure) => {
      this.#running = null;
      for (const segment of segments) {
        segment.syncing = false;
        this.#files.release(segment);
      }
      if (failure !== null) this.#fail(failure);
      else this.#finish();
    });
  }

  /** Returns the first failure instead of throwing: all files must be let go of before anything else happens. */
  async #flush(segments: readonly LogSegment[], directory: boolean): Promise<HoldfastError | null> {
    let failure: HoldfastError | null = null;
    const note = (error: unknown) => {
      failure ??= asHoldfastError(error);
    };
    for (let first = 0; first === 0 || first < segments.length; first += PARALLEL_SYNCS) {
      const work: Promise<void>[] = [];
      if (directory && first === 0) work.push(this.#disk.syncDirectory(this.#directory).catch(note));
      for (const segment of segments.slice(first, first + PARALLEL_SYNCS)) {
        if (segment.removed) continue;
        try {
          work.push(this.#files.open(segment).datasync().catch(note));
        } catch (error) {
          note(error);
        }
      }
      await Promise.all(work);
    }
    return failure;
  }

  #finish(): void {
    this.#through = Math.max(this.#through, this.#target);
    const served = this.#serving;
    this.#serving = [];
    for (const done of served) done(null);
    if (this.#running === null && (this.#wanted || this.#waiters.length > 0)) this.#start();
  }

  #fail(error: HoldfastError): void {
    this.#failure = error;
    const all = [...this.#serving, ...this.#waiters];
    this.#serving = [];
    this.#waiters = [];
    this.onFailure(error);
    for (const done of all) done(error);
  }
}
