// The newest frames, kept in memory: all that are not yet committed, and some committed ones behind them. A replica that
// was away joins the live stream here once the log on disk has brought it this far. While none is away only the last few are
// kept: where a replica's log ends when it is lost, so that it can be compared with this one.

import { TAIL_BYTES, TAIL_BYTES_WHOLE } from './limits.js';
import type { Frame } from './log-writer.js';

export class FrameTail {
  #frames: Frame[] = [];
  /** Frames before this index are forgotten. */
  #head = 0;
  #bytes = 0;

  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frame.bytes.length;
  }
  /**
   * Forgets the oldest committed frames beyond the bound. `whole`: every replica there is has appended what is committed, so that
   * nobody is away and nobody is still being sent such a frame. The last committed frame always stays.
   */
  trim(committedThrough: number, whole: boolean): void {
    const most = whole ? TAIL_BYTES_WHOLE : TAIL_BYTES;
    while (this.#bytes > most && this.#head < this.#frames.length) {
      const oldest = this.#frames[this.#head]!;
      if (oldest.seq >= committedThrough) break;
      this.#bytes -= oldest.bytes.length;
      this.#head++;
      oldest.memory.release(whole);
    }
    // Only when half of the array is forgotten: moving thousands of small frames at every commit costs more than the commit.
    if (this.#head > 0 && this.#head * 2 >= this.#frames.length) {
      this.#frames = this.#frames.slice(this.#head);
      this.#head = 0;
    }
  }
  /** Frames above `seq`, oldest first; undefined when some of them are no longer here. */
  after(seq: number, lastSeq: number): Frame[] | undefined {
    if (seq >= lastSeq) return [];
    const first = this.#frames[this.#head];
    if (first === undefined || first.seq > seq + 1) return undefined;
    return this.#frames.slice(this.#head + seq + 1 - first.seq);
  }
}
