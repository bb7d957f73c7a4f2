// The memory in which replies are made, for all connections of one thread: warm in the processor's cache, and an idle connection
// holds none. A slab is filled from its start and used again when every read that was given a place in it has ended and
// everything in it was sent; only its user can tell, so it gives the slab back.
//
// A connection that answers no reads gets a small slab: one sync answers the flushes of all connections in the same turn, each with
// a slab of its own. When those were large ones, of which few are kept, making new ones was a third of all CPU that flushes cost.

import { KiB } from '../base/index.js';

/** Two reads of 128 KiB with their heads. Larger ones get a slab of their own size, which is not kept. */
export const REPLY_SLAB_BYTES = 256 * KiB + 4 * KiB;
/** Some hundred replies without data. */
export const SMALL_SLAB_BYTES = 4 * KiB;
/** More is given to the collector. */
const SPARE_MAX = 16;
/** Replies without data; longer ones are those of reads. */
const REPLY_SMALL_MAX = 64;
const SPARE_SMALL_MAX = 512;

export class ReplySlab {
  readonly bytes: Buffer;
  /** What lies below is taken. */
  end = 0;
  /** Reads that were given a place and have not ended. */
  reads = 0;

  constructor(size: number) {
    this.bytes = Buffer.allocUnsafeSlow(size);
  }
  get room(): number {
    return this.bytes.length - this.end;
  }
}

const spare: ReplySlab[] = [];
const spareSmall: ReplySlab[] = [];

/** Room for at least `bytes`. */
export function takeReplySlab(bytes: number): ReplySlab {
  if (bytes <= REPLY_SMALL_MAX) return spareSmall.pop() ?? new ReplySlab(SMALL_SLAB_BYTES);
  return bytes > REPLY_SLAB_BYTES ? new ReplySlab(bytes) : (spare.pop() ?? new ReplySlab(REPLY_SLAB_BYTES));
}

/** Nobody reads or fills it any more. */
export function giveReplySlab(slab: ReplySlab): void {
  slab.end = 0;
  slab.reads = 0;
  const { length } = slab.bytes;
  if (length === REPLY_SLAB_BYTES && spare.length < SPARE_MAX) spare.push(slab);
  else if (length === SMALL_SLAB_BYTES && spareSmall.length < SPARE_SMALL_MAX) spareSmall.push(slab);
}
