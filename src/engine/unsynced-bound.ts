// Bounds the bytes of a volume that are written but not on stable storage, so that no flush, and no page cache, ever has more
// to push out than a disk takes in a moment. Asks for a sync of its own when a share of the bound is reached; above the bound
// no write is admitted.
//
// Owner: one engine. The bound follows the disks: a sync that took long halves it, quick ones raise it again, so that ten
// volumes on one slow pool share it. Invariants: at most one sync of its own is asked for at a time; whenever the bound is
// exceeded and everything is committed, one is.

import { type Clock, KiB } from '../base/index.js';
import { UNSYNCED } from './limits.js';

/** How exactly bytes are counted. */
const MARK_BYTES = 64 * KiB;

export class UnsyncedBound {
  readonly #clock: Clock;
  #limit = UNSYNCED.first;
  /** Bytes ever written, and those of them known synced. */
  #written = 0;
  #synced = 0;
  #lastSeq = 0;
  /** Points between which bytes are not told apart: frames through seq are so many bytes. */
  #marks: { seq: number; written: number }[] = [];
  #asked: { seq: number; atMs: number } | null = null;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get bytes(): number {
    return this.#written - this.#synced;
  }
  get limit(): number {
    return this.#limit;
  }
  /** No write is admitted now; synced() may change that. */
  get exceeded(): boolean {
    return this.bytes > this.#limit;
  }

  /** A frame was made. */
  wrote(seq: number, bytes: number): void {
    this.#written += bytes;
    this.#lastSeq = seq;
    if (this.#written - (this.#marks.at(-1)?.written ?? this.#synced) >= MARK_BYTES)
      this.#marks.push({ seq, written: this.#written });
  }

  /** Everything through `committed` is written everywhere. Returns what is to be synced now, or 0. */
  due(committed: number): number {
    if (this.#asked !== null || this.bytes < this.#limit / 4) return 0;
    const first = this.#marks[0];
    // Nothing of it is there yet to be synced.
    if (committed < this.#lastSeq && (first === undefined || first.seq > committed)) return 0;
    this.#asked = { seq: committed, atMs: this.#clock.monotonicMs() };
    return committed;
  }

  /** Everything through `seq` is on stable storage everywhere. */
  synced(seq: number): void {
    if (seq >= this.#lastSeq) {
      this.#synced = this.#written;
      this.#marks.length = 0;
    } else {
      let passed = 0;
      while (passed < this.#marks.length && this.#marks[passed]!.seq <= seq) passed++;
      if (passed > 0) {
        this.#synced = this.#marks[passed - 1]!.written;
        this.#marks.splice(0, passed);
      }
    }
    const asked = this.#asked;
    if (asked === null || seq < asked.seq) return;
    this.#asked = null;
    const tookMs = this.#clock.monotonicMs() - asked.atMs;
    if (tookMs > UNSYNCED.slowMs) this.#limit = Math.max(UNSYNCED.least, this.#limit / 2);
    else if (tookMs < UNSYNCED.quickMs) this.#limit = Math.min(UNSYNCED.most, this.#limit * 2);
  }
}
