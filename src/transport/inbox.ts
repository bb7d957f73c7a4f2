// What one stream has received and its handler has not consumed. Owner: one stream, which fills the place that prepare() gives
// and then calls offer().
//
// Between two reads an idle stream holds no slab: few leftover bytes move into a buffer of its own, so that thousands of
// connections that each wait for the rest of a header don't hold a slab each. Only a large message under way keeps one.

import { assert, KiB, MiB } from '../base/index.js';
import type { StreamHandler } from './byte-stream.js';
import type { Slab, SlabPool } from './slab-pool.js';

/** Room for one read when nothing larger is awaited. */
const ROOM_MIN = 64 * KiB;
/** Leftovers up to this size are moved: cheaper than a slab that nobody else can use. */
const CARRY_MAX = 4 * KiB;
/** Far above the largest message of any protocol here. */
const UNCONSUMED_MAX = 256 * MiB;

const nothing = Buffer.alloc(0);

export class Inbox {
  readonly #pool: SlabPool;
  #carry: Buffer = nothing;
  #carried = 0;
  #slab: Slab | null = null;
  #from = 0;
  /** Where the next byte received goes. */
  to = 0;

  constructor(pool: SlabPool) {
    this.#pool = pool;
  }

  /** Unconsumed bytes. */
  get length(): number {
    return this.#carried + this.to - this.#from;
  }

  /**
   * Memory with room from `to` on: for `exactly` bytes when that is known, else for the rest of the `wanted` ones, else for a
   * read of usual size. Followed by offer(), rest() or clear().
   */
  prepare(wanted: number, exactly = 0): Buffer {
    const { length } = this;
    const room = exactly > 0 ? exactly : wanted > length ? wanted - length : ROOM_MIN;
    assert(length + room <= UNCONSUMED_MAX, 'a handler consumes what it receives, or pauses the stream');
    const slab = this.#slab;
    if (slab !== null && slab.bytes.length - this.to >= room) return slab.bytes;
    const next = this.#pool.take(Math.max(wanted, length + room));
    const at = next.used;
    if (slab !== null) {
      slab.bytes.copy(next.bytes, at, this.#from, this.to);
      this.#pool.giveBack(slab, this.to);
    } else if (this.#carried > 0) this.#carry.copy(next.bytes, at, 0, this.#carried);
    this.#slab = next;
    this.#from = at;
    this.to = at + length;
    this.#carried = 0;
    return next.bytes;
  }

  /** `count` more bytes lie at `to`: hands all unconsumed ones over. */
  offer(handler: StreamHandler, count: number): void {
    const slab = this.#slab!;
    this.to += count;
    const consumed = handler.received(slab, this.#from, this.to);
    assert(consumed >= 0 && consumed <= this.to - this.#from, 'a handler consumed what it was not offered');
    this.#from += consumed;
  }

  /** Until more arrives: keeps as little as possible. */
  rest(): void {
    const slab = this.#slab;
    if (slab === null) return;
    const left = this.to - this.#from;
    if (left > CARRY_MAX) return;
    if (left > 0) {
      if (this.#carry.length === 0) this.#carry = Buffer.allocUnsafeSlow(CARRY_MAX);
      slab.bytes.copy(this.#carry, 0, this.#from, this.to);
    }
    this.#carried = left;
    this.#letGo(slab);
  }

  /** Drops everything. */
  clear(): void {
    this.#carried = 0;
    if (this.#slab !== null) this.#letGo(this.#slab);
  }

  #letGo(slab: Slab): void {
    this.#slab = null;
    this.#pool.giveBack(slab, this.to);
    this.#from = 0;
    this.to = 0;
  }
}

/** For a source that hands over what it has in larger pieces only: there is room for so many bytes each time. */
export class RoomyInbox extends Inbox {
  readonly #roomMin: number;

  constructor(pool: SlabPool, roomMin: number) {
    super(pool);
    this.#roomMin = roomMin;
  }

  override prepare(wanted: number): Buffer {
    return super.prepare(wanted, Math.max(wanted - this.length, this.#roomMin));
  }
}
