// Tells whether a flush will follow a write. Databases and journals flush after nearly every write: when the last flushes came so, the
// replicas are asked to sync together with the frame, and by the time the flush is asked for, the sync is half done. A wrong guess costs
// a few syncs that nobody waits for.
//
// Owner: the pipeline.

/** So many frames at most lie between two flushes of a volume with this habit: several writers have it side by side. */
const FRAMES_MAX = 8;
/** Flushes in a row that make a habit. */
const HABIT = 4;

export class FlushHabit {
  #flushed = 0;
  #streak = 0;

  /** A flush was asked for; `seq` is the newest frame. One that covers nothing new says nothing. */
  flushed(seq: number): void {
    if (seq <= this.#flushed) return;
    this.#streak = seq - this.#flushed <= FRAMES_MAX ? Math.min(this.#streak + 1, HABIT) : 0;
    this.#flushed = seq;
  }

  /** Frames through `seq` are about to be sent: should they be synced at once? */
  expected(seq: number): boolean {
    if (this.#streak < HABIT) return false;
    if (seq - this.#flushed <= FRAMES_MAX) return true;
    this.#streak = 0;
    return false;
  }
}
