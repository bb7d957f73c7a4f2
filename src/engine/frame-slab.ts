// Memory that frames are made in. It is used again once every frame in it was forgotten and nobody can still be sending one: fresh
// memory costs a page fault for each 4 KiB, and what is used again at once is still in the processor's cache.

import { KiB } from '../base/index.js';

/** Frames of single small requests lie in slabs of this size. */
const SMALL_BYTES = 128 * KiB;
const SMALL_FRAME_MAX = 32 * KiB;
/** All others: the longest data frame, or one of a checkpoint, fits with its headers. What is longer still gets memory used once. */
const LARGE_BYTES = 528 * KiB;
/** Slabs kept for later by one thread, for all its volumes; more is given to the collector. */
const SPARE_MAX = { small: 16, large: 8 };

const spareSmall: FrameMemory[] = [];
const spareLarge: FrameMemory[] = [];

/** One slab. Frames are forgotten in the order in which they were made, so it empties as it was filled. */
export class FrameMemory {
  readonly bytes: Buffer;
  /** What lies below holds frames. */
  used = 0;
  /** Frames in it that are remembered. */
  frames = 0;
  /** Frames are still being added. */
  filling = true;
  /** Somebody may go on reading a forgotten frame. */
  #tainted = false;

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size);
  }

  /** Bytes behind `used`; all of them once everything in it is forgotten. */
  get room(): number {
    if (this.frames === 0 && !this.#tainted) this.used = 0;
    return this.bytes.length - this.used;
  }

  /** A frame is forgotten. `unread`: nobody reads its bytes any more, neither here nor on the way out. */
  release(unread: boolean): void {
    this.frames--;
    if (!unread) this.#tainted = true;
    if (!this.filling) this.#spare();
  }

  /** No more frames are added. */
  filled(): void {
    this.filling = false;
    this.#spare();
  }

  /** Begins anew. */
  reuse(): this {
    this.used = 0;
    this.filling = true;
    return this;
  }

  #spare(): void {
    if (this.frames > 0 || this.#tainted) return;
    const { length } = this.bytes;
    if (length === SMALL_BYTES && spareSmall.length < SPARE_MAX.small) spareSmall.push(this);
    else if (length === LARGE_BYTES && spareLarge.length < SPARE_MAX.large) spareLarge.push(this);
  }
}

/** Where one engine makes its frames. */
export class FrameSlab {
  #small: FrameMemory | null = null;
  #large: FrameMemory | null = null;
  /** What reserve() gave: the next frame begins at byte `at` of `bytes`. */
  memory = new FrameMemory(0);
  at = 0;

  get bytes(): Buffer {
    return this.memory.bytes;
  }

  /** Makes room for a frame of at most `most` bytes, good until the next call. */
  reserve(most: number): void {
    if (most <= SMALL_FRAME_MAX) this.memory = this.#small = roomIn(this.#small, most, spareSmall, SMALL_BYTES);
    else if (most <= LARGE_BYTES) this.memory = this.#large = roomIn(this.#large, most, spareLarge, LARGE_BYTES);
    else this.memory = new FrameMemory(most);
    this.at = this.memory.used;
  }

  /** The frame that reserve() made room for, which ends at byte `end`: to keep until its memory is told to release() it. */
  keep(end: number): Buffer {
    const { memory } = this;
    memory.frames++;
    // The next frame begins on a cache line of its own.
    memory.used = (end + 63) & ~63;
    return memory.bytes.subarray(this.at, end);
  }
}

/** The slab itself while it has room, else the next one. */
function roomIn(memory: FrameMemory | null, size: number, spare: FrameMemory[], bytes: number): FrameMemory {
  if (memory !== null && memory.room >= size) return memory;
  memory?.filled();
  return spare.pop()?.reuse() ?? new FrameMemory(bytes);
}
