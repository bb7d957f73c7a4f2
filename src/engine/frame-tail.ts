// The newest frames, kept in memory: all that are not yet committed, and some committed ones behind them. A replica that
// was away joins the live stream here once the log on disk has brought it this far.

import { TAIL_BYTES } from './limits.js';
import type { Frame } from './log-writer.js';

export class FrameTail {
  #frames: Frame[] = [];
  #bytes = 0;

  push(frame: Frame): void {
    this.#frames.push(frame);
    this.#bytes += frame.bytes.length;
  }
  /** Forgets the oldest committed frames beyond the bound. */
  trim(committedThrough: number): void {
    let drop = 0;
    while (this.#bytes > TAIL_BYTES && drop < this.#frames.length && this.#frames[drop]!.seq <= committedThrough) {
      this.#bytes -= this.#frames[drop]!.bytes.length;
      drop++;
    }
    // In slices, so that the array is not shifted for every frame.
    if (drop > 0) this.#frames = this.#frames.slice(drop);
  }
  /** Frames above `seq`, oldest first; undefined when some of them are no longer here. */
  after(seq: number, lastSeq: number): Frame[] | undefined {
    if (seq >= lastSeq) return [];
    const first = this.#frames[0];
    if (first === undefined || first.seq > seq + 1) return undefined;
    return this.#frames.slice(seq + 1 - first.seq);
  }
}
