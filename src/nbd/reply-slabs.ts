// The memory in which replies are made, for all connections of one thread: warm in the processor's cache, and an idle connection
// holds none. A slab is filled from its start and used again when every read that was given a place in it has ended and
// everything in it was sent; only its user can tell, so it gives the slab back.

import { KiB } from '../base/index.js';

/** Two reads of 128 KiB with their heads. Larger ones get a slab of their own size, which is not kept. */
export const REPLY_SLAB_BYTES = 256 * KiB + 4 * KiB;
/** More is given to the collector. */
const SPARE_MAX = 16;

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

export function takeReplySlab(bytes: number): ReplySlab {
  return bytes > REPLY_SLAB_BYTES ? new ReplySlab(bytes) : (spare.pop() ?? new ReplySlab(REPLY_SLAB_BYTES));
}

/** Nobody reads or fills it any more. */
export function giveReplySlab(slab: ReplySlab): void {
  slab.end = 0;
  slab.reads = 0;
  if (slab.bytes.length === REPLY_SLAB_BYTES && spare.length < SPARE_MAX) spare.push(slab);
}
