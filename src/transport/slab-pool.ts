// The memory that received bytes lie in, for all streams of one thread. Owner: one StreamNet.
//
// A slab is filled from its start and only ever appended to, until nobody uses it: then it is filled anew. Usually everything received
// is consumed before the next socket is read, so that one slab, warm in the processor's cache, serves all streams. A slab of which
// a part is still in use goes on to be filled behind that part.
// Invariants: a slab in `#free` or freshly taken with one user has `used` bytes that nobody reads; at most one stream receives into
// a slab at a time (take() hands it out, giveBack() returns it).

import { assert, KiB, MiB } from '../base/index.js';
import type { ReceiveSlab } from './byte-stream.js';

/**
 * Several of the largest common messages (128 KiB writes) in a few reads; larger ones of 1 MiB fall out of the processor's cache. Of 256 KiB the second
 * read of a unix socket, which holds 208 KiB, fills the rest, and what has come of a message by then is moved.
 */
export const SLAB_BYTES = 512 * KiB;
/** Slabs kept for later; more than that is given to the collector. */
const FREE_MAX = 16;
/** Messages above a slab get a larger one, of a power of two. Up to this size (the largest frames) two are kept: fresh memory of that size costs a page fault every 4 KiB. */
const LARGE_BYTES_MAX = 8 * MiB;
const LARGE_FREE_MAX = 2;

export class Slab implements ReceiveSlab {
  readonly bytes: Buffer;
  readonly #pool: SlabPool;
  #users = 1;
  /** What lies below may be in use. */
  used = 0;

  constructor(pool: SlabPool, size: number) {
    this.#pool = pool;
    this.bytes = Buffer.allocUnsafeSlow(size);
  }

  /** Nobody but the caller uses it. */
  get sole(): boolean {
    return this.#users === 1;
  }

  retain(): void {
    assert(this.#users > 0, 'a receive slab is retained by somebody who no longer has it');
    this.#users++;
  }

  release(): void {
    assert(this.#users > 0, 'a receive slab is released once too often');
    if (--this.#users === 0) this.#pool.unused(this);
  }

  reuse(): void {
    this.#users = 1;
    this.used = 0;
  }
}

export class SlabPool {
  readonly #free: Slab[] = [];
  readonly #freeLarge: Slab[] = [];
  /** Partly in use, with room behind. The pool is one of its users. */
  #open: Slab | null = null;
  /** Slabs that are used by somebody. */
  inUse = 0;
  /** Slabs made so far. */
  made = 0;

  /** A slab with at least `room` bytes behind `used`, for the caller alone to fill. */
  take(room: number): Slab {
    const open = this.#open;
    if (open !== null) {
      if (open.sole) open.used = 0;
      if (open.bytes.length - open.used >= room) {
        this.#open = null;
        return open;
      }
      if (room <= SLAB_BYTES) {
        this.#open = null;
        open.release();
      }
    }
    this.inUse++;
    const slab = room > SLAB_BYTES ? this.#large(room) : (this.#free.pop() ?? this.#make(SLAB_BYTES));
    slab.reuse();
    return slab;
  }

  #large(room: number): Slab {
    const index = this.#freeLarge.findIndex(({ bytes }) => bytes.length >= room);
    if (index >= 0) return this.#freeLarge.splice(index, 1)[0]!;
    return this.#make(room > LARGE_BYTES_MAX ? room : 2 ** Math.ceil(Math.log2(room)));
  }

  #make(size: number): Slab {
    this.made++;
    return new Slab(this, size);
  }

  /** The caller fills it no further; what lies below `used` stays as it is for those who retained the slab. */
  giveBack(slab: Slab, used: number): void {
    slab.used = used;
    if (this.#open === null && slab.bytes.length === SLAB_BYTES) this.#open = slab;
    else slab.release();
  }

  /** For Slab.release() only. */
  unused(slab: Slab): void {
    this.inUse--;
    const size = slab.bytes.length;
    if (size === SLAB_BYTES) {
      if (this.#free.length < FREE_MAX) this.#free.push(slab);
    } else if (size <= LARGE_BYTES_MAX) {
      // The newest is the one that fits what comes now.
      this.#freeLarge.unshift(slab);
      this.#freeLarge.length = Math.min(this.#freeLarge.length, LARGE_FREE_MAX);
    }
  }

  /** Nothing received is used by anybody: for tests. */
  get idle(): boolean {
    return this.inUse === 0 || (this.inUse === 1 && this.#open?.sole === true);
  }
}
