// Bounds the descriptors that all logs of a worker keep open. First opened, first closed; files with unsynced bytes stay.

import { assert } from '../base/index.js';
import type { LogSegment } from './segment-log.js';

export class HandleCache {
  readonly #limit: number;
  readonly #open = new Set<LogSegment>();
  #holds = 0;

  /** `limit`: descriptors kept open, those that must stay open not counted against opening more. */
  constructor(limit: number) {
    assert(limit > 0, 'a handle cache needs room');
    this.#limit = limit;
  }

  get size(): number {
    return this.#open.size;
  }

  /** Called when `segment.file` was just opened. */
  opened(segment: LogSegment): void {
    assert(segment.file !== null && !this.#open.has(segment), 'a handle is opened once');
    this.#open.add(segment);
    if (this.#holds === 0 && this.#open.size > this.#limit) this.#evict(segment);
  }

  /** Nothing is evicted until release(): files that are opened for one call stay open until all of them were used. */
  hold(): void {
    this.#holds++;
  }
  release(): void {
    if (--this.#holds > 0) return;
    for (let over = this.#open.size - this.#limit; over > 0; over--) this.#evict(null);
  }

  /** Closes the segment's file now, or when the sync that uses it ends. */
  close(segment: LogSegment): void {
    if (segment.file === null || segment.syncing) return;
    segment.file.close();
    segment.file = null;
    this.#open.delete(segment);
  }

  #evict(newest: LogSegment | null): void {
    let looked = 0;
    for (const segment of this.#open) {
      if (++looked > 64) return;
      if (segment === newest || segment.dirty || segment.syncing) {
        // To the back of the queue, so that pinned files are not looked at each time.
        this.#open.delete(segment);
        this.#open.add(segment);
        continue;
      }
      this.close(segment);
      return;
    }
  }
}
