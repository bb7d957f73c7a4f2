// Memory that frames are made in, with room in front of each for the header that goes before it on a wire.

import { KiB } from '../base/index.js';

/** Bytes before Frame.bytes, in the same memory, that belong to the frame: a sender may put its own header there. */
export const FRAME_HEADROOM = 80;

/** Small frames share buffers of this size: one allocation for hundreds of them, and nothing kept of their worst case. */
const SLAB_BYTES = 512 * KiB;
/** Larger frames get a buffer of their own, so that little of a slab is left over. */
const SLAB_FRAME_MAX = 64 * KiB;

/** Where frames are made. Frames are forgotten in the order in which they were made, so slabs are, too. */
export class FrameSlab {
  #slab = Buffer.alloc(0);
  #used = 0;
  /** What reserve() gave: the next frame begins at byte `at` of `bytes`. */
  bytes = this.#slab;
  at = FRAME_HEADROOM;

  /** Makes room for a frame of at most `most` bytes, good until the next call. */
  reserve(most: number): void {
    const size = FRAME_HEADROOM + most;
    if (most > SLAB_FRAME_MAX) {
      this.bytes = Buffer.allocUnsafeSlow(size);
      this.at = FRAME_HEADROOM;
      return;
    }
    if (this.#slab.length - this.#used < size) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
      this.#used = 0;
    }
    this.bytes = this.#slab;
    this.at = this.#used + FRAME_HEADROOM;
  }
  /** The frame that reserve() made room for, which ends at byte `end`: to keep. */
  keep(end: number): Buffer {
    if (this.bytes === this.#slab) this.#used = end;
    return this.bytes.subarray(this.at, end);
  }
}
