// Where a data sync waits for the disk: on a thread of libuv's pool, or in place, on this thread at the end of its turn. To hand a sync
// to the pool, go on looking for events meanwhile and be told costs more than half of what a fast disk takes for a few KiB (decision 036);
// but while a sync waits in place nothing else of the thread goes on. So only one waits so that has the thread's pool files to itself.
//
// Owner: the thread, one for all disks of it. Invariants: every sync ends once, never before sync() returned; it begins after sync() was
// called; in place at most one a turn, and none while the pool has one. May fail: each sync by itself.

import { IN_PLACE_AFTER, IN_PLACE_BYTES, IN_PLACE_US, IN_PLACE_WRITES, IN_POOL_MAX } from './limits.js';

type Done = (error: Error | null) => void;

/** After each one in place that was quick: where more than one of 14 is slow, the pool gets ever more of them. */
const IMPATIENCE_KEPT = 0.95;

export interface SyncableFile {
  /** Waits for the disk on this thread: microseconds, or a negative errno. */
  syncInPlace(): number;
  /** On a thread of the pool. */
  syncInPool(done: Done): void;
  /** What a negative errno of syncInPlace() stands for. */
  syncError(negative: number): Error;
}

export class LoneSyncs {
  readonly #atEndOfTurn: (action: () => void) => void;
  /** The file that the last operations were of, how many in a row, and what was written to it since its last sync. */
  #file: SyncableFile | null = null;
  #alone = 0;
  #writes = 0;
  #bytes = Number.POSITIVE_INFINITY;
  /** Syncs under way in the pool. */
  #inPool = 0;
  /** Syncs to leave to the pool, and how many after the next one in place that takes long. */
  #impatient = 0;
  #nextImpatient = 1;
  /** To be waited for at the end of this turn. */
  #due: SyncableFile | null = null;
  #dueDone: Done = () => {};
  #scheduled = false;

  /** `atEndOfTurn`: once what the turn's events brought was handled, and its answers were sent. */
  constructor(atEndOfTurn: (action: () => void) => void) {
    this.#atEndOfTurn = atEndOfTurn;
  }

  wrote(file: SyncableFile, bytes: number): void {
    this.#used(file);
    this.#writes++;
    this.#bytes += bytes;
  }

  /** Somebody reads: a client of this volume or another one, whom a sync in place would keep waiting. */
  read(): void {
    this.#alone = 0;
  }

  /** `lone`: nothing is to be done for the file's log until the sync has ended. */
  sync(file: SyncableFile, done: Done, lone: boolean): void {
    this.#used(file);
    if (this.#due !== null) {
      this.#dueToPool();
      this.#toPool(file, done);
    } else if (lone && this.#mayWait()) {
      this.#due = file;
      this.#dueDone = done;
      if (this.#scheduled) return;
      this.#scheduled = true;
      this.#atEndOfTurn(this.#endOfTurn);
    } else this.#toPool(file, done);
  }

  #used(file: SyncableFile): void {
    if (file === this.#file) {
      this.#alone++;
      return;
    }
    this.#file = file;
    this.#alone = 0;
    // How much of it is unsynced shows only after its next sync.
    this.#bytes = Number.POSITIVE_INFINITY;
  }

  #mayWait(): boolean {
    if (this.#inPool > 0 || !this.#isLone()) return false;
    if (this.#impatient === 0) return true;
    this.#impatient--;
    return false;
  }

  #isLone(): boolean {
    return this.#alone >= IN_PLACE_AFTER && this.#writes <= IN_PLACE_WRITES && this.#bytes <= IN_PLACE_BYTES;
  }

  readonly #endOfTurn = (): void => {
    this.#scheduled = false;
    const file = this.#due;
    if (file === null) return;
    // What came in the rest of the turn counts, too.
    if (file !== this.#file || !this.#isLone()) return this.#dueToPool();
    const done = this.#dueDone;
    this.#due = null;
    this.#writes = 0;
    this.#bytes = 0;
    const taken = file.syncInPlace();
    if (taken < 0) return done(file.syncError(taken));
    if (taken < IN_PLACE_US) this.#nextImpatient = Math.max(1, IMPATIENCE_KEPT * this.#nextImpatient);
    else {
      this.#impatient = Math.floor(this.#nextImpatient);
      this.#nextImpatient = Math.min(2 * this.#nextImpatient, IN_POOL_MAX);
    }
    done(null);
  };

  #dueToPool(): void {
    const file = this.#due!;
    this.#due = null;
    this.#toPool(file, this.#dueDone);
  }

  #toPool(file: SyncableFile, done: Done): void {
    if (file === this.#file) {
      this.#writes = 0;
      this.#bytes = 0;
    }
    this.#inPool++;
    file.syncInPool((error) => {
      this.#inPool--;
      done(error);
    });
  }
}
