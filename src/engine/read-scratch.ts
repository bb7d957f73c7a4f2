// Memory that records are read into until they are opened: slabs that are used again as soon as nothing in them is under way.
// Owner: ReadPath. Invariant: what take() gave stays its taker's until release(), however late a disk or a replica answers. A
// read from the page cache is done within its turn, so nearly all of them use the start of one slab, which stays in the
// processor's cache.

import { assert } from '../base/index.js';
import { READ_SCRATCH_BYTES } from './limits.js';

export interface Slab {
  readonly bytes: Buffer;
  end: number;
  users: number;
}

const SPARE_MAX = 4;

export class ReadScratch {
  #current = newSlab();
  readonly #spare: Slab[] = [];

  /** A slab with room for `bytes` from its `end` on, which moves behind them. */
  take(bytes: number): Slab {
    assert(bytes <= READ_SCRATCH_BYTES, 'a batch of reads fits into a slab');
    let slab = this.#current;
    if (slab.end + bytes > READ_SCRATCH_BYTES) {
      slab = this.#spare.pop() ?? newSlab();
      this.#current = slab;
    }
    slab.users++;
    slab.end += bytes;
    return slab;
  }

  release(slab: Slab): void {
    if (--slab.users > 0) return;
    slab.end = 0;
    if (slab !== this.#current && this.#spare.length < SPARE_MAX) this.#spare.push(slab);
  }
}

function newSlab(): Slab {
  return { bytes: Buffer.allocUnsafeSlow(READ_SCRATCH_BYTES), end: 0, users: 0 };
}
