// The zeroes that lie behind a log's end in its file: written ahead where zero-ahead.ts says so, cut off when no longer wanted.
//
// Owner: SegmentLog. Invariants: nothing is written or cut off below a segment's length; a file that may still be appended to
// is truncated on this thread only, so that no append can come in between. May fail: a full disk costs nothing but the zeroes,
// any other failure fails the log.

import { asHoldfastError, type HoldfastError } from '../base/index.js';
import type { DiskFile } from './disk.js';
import { ZERO_STEP } from './limits.js';
import type { LogSegment } from './segment-log.js';
import { ZeroAhead } from './zero-ahead.js';

interface ZeroedLog {
  /** Whether the pool can spare what zeroes take. */
  hasRoom(): boolean;
  writable(segment: LogSegment): DiskFile;
  /** The segment's file has unsynced changes. */
  touched(segment: LogSegment): void;
  /** A truncation no longer uses the segment's file. */
  free(segment: LogSegment): void;
  failed(error: HoldfastError): void;
}

const zeroes = Buffer.alloc(ZERO_STEP.most);

export class LogZeroes {
  readonly #log: ZeroedLog;
  readonly #rule = new ZeroAhead();
  /** Truncations of sealed segments under way, and who waits for the last of them. */
  #trimming = 0;
  #waiting: (() => void)[] = [];

  constructor(log: ZeroedLog) {
    this.#log = log;
  }

  /** A sync of `bytes` that somebody waits for is under way: what the next ones will need is written meanwhile. */
  write(last: LogSegment | undefined, bytes: number): void {
    this.#rule.flushed(bytes);
    if (last === undefined || last.file === null || !last.writable || last.sealed || last.remains) return;
    const stretch = this.#rule.next(last.length, last.zeroedTo);
    if (stretch === null || !this.#log.hasRoom()) return;
    this.#log.touched(last);
    try {
      last.file.write([zeroes.subarray(0, stretch.to - stretch.from)], stretch.from);
      last.zeroedTo = stretch.to;
    } catch (error) {
      this.#rule.restart();
      this.#failedBy(error);
      this.drop(last);
    }
  }

  /** Nothing is expected to be appended soon. */
  giveBack(last: LogSegment): void {
    this.#rule.restart();
    if (!last.remains && last.zeroedTo > last.length) this.drop(last);
  }

  /** Under whatever names the file has: every log that has the segment ends it at the same byte, or goes on behind it. */
  drop(segment: LogSegment): void {
    try {
      this.#log.writable(segment).truncate(segment.length);
      segment.zeroedTo = 0;
    } catch (error) {
      this.#failedBy(error);
    }
  }

  /** Zeroes that can't be cut off do no harm, a disk that fails does. Told later: a sync may just be being started. */
  #failedBy(error: unknown): void {
    const failure = asHoldfastError(error);
    if (failure.reason === 'DiskFailed') queueMicrotask(() => this.#log.failed(failure));
  }

  /** A sync of the segment has ended. Zeroes behind a sealed one are cut off now, where nobody waits. */
  trim(segment: LogSegment): void {
    const { file } = segment;
    // Dirty again: the next sync of it, which is the last one, comes by here too, and the file is not used by both at once.
    if (segment.dirty || !segment.sealed || segment.zeroedTo <= segment.length || file === null || !segment.writable)
      return;
    segment.zeroedTo = 0;
    segment.syncing = true;
    this.#trimming++;
    file.truncateLater(segment.length, (error) => {
      segment.syncing = false;
      this.#log.free(segment);
      if (error !== null) this.#failedBy(error);
      if (--this.#trimming > 0) return;
      const waiting = this.#waiting;
      this.#waiting = [];
      for (const resume of waiting) resume();
    });
  }

  /** Resolves when no truncation is under way. */
  async idle(): Promise<void> {
    while (this.#trimming > 0) await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}
