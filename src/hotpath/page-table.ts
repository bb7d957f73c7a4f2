// Every page version of one map, as columns of typed arrays by id: 34 bytes each, resident or not. A page number (4 MiB of the
// address space) has a chain of versions, newest first; the newest is the live volume's, each older one belongs to the snapshots
// taken from its birth on until the next one's. Owner: the block map.
//
// Invariants:
// - Births fall along a chain. Between two snapshots that follow each other at most one version of a number is born.
// - A hole is a version that maps nothing; it stands only above a version that maps something.
// - Places and bases change only while a checkpoint is begun or written, so that the table it writes, chunk by chunk and between
//   requests, shows the moment at which it began. For the same reason an id that became free keeps all its columns, and is not
//   given out again, until the next checkpoint begins.

import { assert, corrupt } from '../base/index.js';
import {
  placeSlot,
  TABLE_CHUNK_IDS,
  TABLE_DETACHED,
  TABLE_HOLE,
  TABLE_ID_WORDS,
  TABLE_NUMBER_BITS,
} from '../format/index.js';
import type { SlotCounts } from './slot-counts.js';

const FREE = 0;
const PAGE = 1;
const HOLE = 2;
/** No root has it; its entries are still counted. */
const DETACHED = 3;
/** Given up since the last checkpoint began. */
const GONE = 4;

const DIRECTORY_PAGES = 512;

export class PageTable {
  readonly #counts: SlotCounts;
  place0 = new Uint32Array(TABLE_CHUNK_IDS);
  place1 = new Uint32Array(TABLE_CHUNK_IDS);
  base0 = new Uint32Array(TABLE_CHUNK_IDS);
  base1 = new Uint32Array(TABLE_CHUNK_IDS);
  birth = new Uint32Array(TABLE_CHUNK_IDS);
  number = new Uint32Array(TABLE_CHUNK_IDS);
  /** Next in the chain, 0 at its ends. */
  older = new Uint32Array(TABLE_CHUNK_IDS);
  newer = new Uint32Array(TABLE_CHUNK_IDS);
  /** Frame in the page cache, plus one. */
  frame = new Uint32Array(TABLE_CHUNK_IDS);
  /** Mapped entries as last written; a resident page knows better. */
  entries = new Uint16Array(TABLE_CHUNK_IDS);
  #state = new Uint8Array(TABLE_CHUNK_IDS);
  #nextId = 1;
  #free: number[] = [];
  /** Newest version by page number, in pieces of 2 GiB. */
  readonly #heads: (Uint32Array | undefined)[] = [];
  /** Became free, or a hole, or detached, since the last checkpoint began. */
  #gone: number[] = [];
  #turned: number[] = [];
  readonly #detached: number[] = [];
  #dirtyChunks = new Set<number>();
  #used = 0;

  constructor(counts: SlotCounts) {
    this.#counts = counts;
  }

  get nextId(): number {
    return this.#nextId;
  }
  /** Page versions and holes. */
  get used(): number {
    return this.#used;
  }
  /** Page numbers lie below this. */
  get numbers(): number {
    return this.#heads.length * DIRECTORY_PAGES;
  }
  get detachedCount(): number {
    return this.#detached.length;
  }
  isPage(id: number): boolean {
    return this.#state[id] === PAGE;
  }
  isDetached(id: number): boolean {
    return this.#state[id] === DETACHED;
  }

  /** Newest version of a page number: 0, a page, or a hole. */
  head(number: number): number {
    const piece = this.#heads[number >>> 9];
    return piece === undefined ? 0 : piece[number & 511]!;
  }
  /** Nothing of the 2 GiB around this page number was ever mapped. */
  pieceEmpty(number: number): boolean {
    return this.#heads[number >>> 9] === undefined;
  }
  #setHead(number: number, id: number): void {
    let piece = this.#heads[number >>> 9];
    if (piece === undefined) {
      while (this.#heads.length <= number >>> 9) this.#heads.push(undefined);
      piece = new Uint32Array(DIRECTORY_PAGES);
      this.#heads[number >>> 9] = piece;
    }
    piece[number & 511] = id;
  }

  /** The version that a snapshot of this birth sees: a page's id, or 0. */
  seenAt(number: number, birth: number): number {
    let id = this.head(number);
    while (id !== 0 && this.birth[id]! > birth) id = this.older[id]!;
    return id !== 0 && this.#state[id] === PAGE ? id : 0;
  }

  /** Puts a new page on top of a number's chain. */
  push(number: number, birth: number): number {
    return this.#push(number, birth, PAGE);
  }

  #push(number: number, birth: number, state: number): number {
    const id = this.#take();
    const below = this.head(number);
    assert(below === 0 || this.birth[below]! < birth, 'versions of a page are born one after the other');
    this.#state[id] = state;
    this.birth[id] = birth;
    this.number[id] = number;
    this.older[id] = below;
    this.newer[id] = 0;
    if (below !== 0) this.newer[below] = id;
    this.#setHead(number, id);
    if (state === HOLE) this.#turned.push(id);
    return id;
  }

  /** The live volume has nothing there from `birth` on, whatever older versions hold. */
  pushHole(number: number, birth: number): void {
    const below = this.head(number);
    if (below !== 0 && this.#state[below] === PAGE) this.#push(number, birth, HOLE);
  }

  /** Takes a version out of its chain, with a hole above it that hides nothing any more. Its id stays in use. */
  unlink(id: number): void {
    const older = this.older[id]!;
    const newer = this.newer[id]!;
    if (older !== 0) this.newer[older] = newer;
    if (newer !== 0) this.older[newer] = older;
    else this.#setHead(this.number[id]!, older);
    this.older[id] = 0;
    this.newer[id] = 0;
    if (newer !== 0 && this.#state[newer] === HOLE && (older === 0 || this.#state[older] === HOLE)) {
      this.unlink(newer);
      this.release(newer);
    }
  }

  /** Gives up an id that is in no chain. */
  release(id: number): void {
    this.#state[id] = GONE;
    this.#gone.push(id);
    this.#used--;
  }

  /** Keeps the page of an unlinked id until its entries were taken off the counts. */
  detach(id: number): void {
    this.#state[id] = DETACHED;
    this.#turned.push(id);
    this.#detached.push(id);
  }
  /** Some detached pages, to be read, taken off and released. */
  takeDetached(most: number): number[] {
    return this.#detached.splice(-most);
  }
  /** It could not be read now: all others come first. */
  putBack(id: number): void {
    this.#detached.unshift(id);
  }

  #take(): number {
    this.#used++;
    const free = this.#free.pop();
    if (free !== undefined) return free;
    assert(this.#nextId < 0xffff_fffe, 'ids of map pages are not used up');
    if (this.#nextId === this.#state.length) this.#grow(this.#nextId * 2);
    return this.#nextId++;
  }

  #grow(length: number): void {
    const larger = (column: Uint32Array) => {
      const next = new Uint32Array(length);
      next.set(column);
      return next;
    };
    this.place0 = larger(this.place0);
    this.place1 = larger(this.place1);
    this.base0 = larger(this.base0);
    this.base1 = larger(this.base1);
    this.birth = larger(this.birth);
    this.number = larger(this.number);
    this.older = larger(this.older);
    this.newer = larger(this.newer);
    this.frame = larger(this.frame);
    const entries = new Uint16Array(length);
    entries.set(this.entries);
    this.entries = entries;
    const state = new Uint8Array(length);
    state.set(this.#state);
    this.#state = state;
  }

  /** A page begins as a copy of another: what the log holds of that one is its base. */
  inheritBase(id: number, from: number): void {
    const delta = this.base1[from] !== 0;
    this.base0[id] = delta ? this.base0[from]! : this.place0[from]!;
    this.base1[id] = delta ? this.base1[from]! : this.place1[from]!;
    this.#count(this.base0[id]!, this.base1[id]!, 1);
  }

  /** A checkpoint wrote the page there: whole, or as a delta over the base it had. Old places that no longer count go to `superseded`. */
  written(id: number, place: readonly [number, number], delta: boolean, entries: number, superseded: number[]): void {
    const becomesBase = delta && this.base1[id] === 0;
    if (becomesBase) {
      this.base0[id] = this.place0[id]!;
      this.base1[id] = this.place1[id]!;
    } else if (this.place1[id] !== 0) superseded.push(placeSlot(this.place0[id]!));
    if (!delta && this.base1[id] !== 0) {
      superseded.push(placeSlot(this.base0[id]!));
      this.base0[id] = 0;
      this.base1[id] = 0;
    }
    this.place0[id] = place[0];
    this.place1[id] = place[1];
    this.entries[id] = entries;
    this.#count(place[0], place[1], 1);
    this.#dirtyChunks.add(Math.floor(id / TABLE_CHUNK_IDS));
  }

  #count(word0: number, word1: number, delta: 1 | -1): void {
    if (word1 !== 0) this.#counts.addPlaces(placeSlot(word0), delta);
  }

  /** A checkpoint begins: what turned since the last one is noted, free ids can be given out again. */
  begin(superseded: number[]): void {
    for (const id of this.#turned) {
      const flag = this.#state[id] === HOLE ? TABLE_HOLE : this.#state[id] === DETACHED ? TABLE_DETACHED : 0;
      if (flag === 0) continue;
      this.place0[id] = (this.place0[id]! | flag) >>> 0;
      this.#dirtyChunks.add(Math.floor(id / TABLE_CHUNK_IDS));
    }
    this.#turned = [];
    for (const id of this.#gone) {
      if (this.place0[id] !== 0) this.#dirtyChunks.add(Math.floor(id / TABLE_CHUNK_IDS));
      if (this.place1[id] !== 0) superseded.push(placeSlot(this.place0[id]!));
      if (this.base1[id] !== 0) superseded.push(placeSlot(this.base0[id]!));
      this.place0[id] = this.place1[id] = this.base0[id] = this.base1[id] = this.birth[id] = this.number[id] = 0;
      this.entries[id] = 0;
      this.#state[id] = FREE;
      this.#free.push(id);
    }
    this.#gone = [];
  }

  /** Numbers of the chunks that changed since the last call, ascending. */
  takeDirtyChunks(): number[] {
    const chunks = [...this.#dirtyChunks].sort((a, b) => a - b);
    this.#dirtyChunks = new Set();
    return chunks;
  }
  /** A chunk is to be written anew though nothing of it changed. */
  touchChunk(chunk: number): void {
    this.#dirtyChunks.add(chunk);
  }

  /** What the table says of a chunk's ids, or undefined when none of them is in use. */
  chunkWords(chunk: number): Uint32Array | undefined {
    const words = new Uint32Array(TABLE_CHUNK_IDS * TABLE_ID_WORDS);
    const first = chunk * TABLE_CHUNK_IDS;
    let any = false;
    for (let i = 0; i < TABLE_CHUNK_IDS && first + i < this.#nextId; i++) {
      const id = first + i;
      if (this.place0[id] === 0) continue;
      any = true;
      const at = i * TABLE_ID_WORDS;
      words[at] = this.place0[id]!;
      words[at + 1] = this.place1[id]!;
      words[at + 2] = this.base0[id]!;
      words[at + 3] = this.base1[id]!;
      words[at + 4] = this.birth[id]!;
      words[at + 5] = (this.number[id]! | (Math.max(0, this.entries[id]! - 1) << TABLE_NUMBER_BITS)) >>> 0;
    }
    return any ? words : undefined;
  }

  /** Takes over a checkpoint's table. `chunks` are its chunks by number. */
  install(chunks: ReadonlyMap<number, Uint32Array>, nextId: number): void {
    let length = TABLE_CHUNK_IDS;
    while (length < nextId) length *= 2;
    this.#grow(length);
    this.#nextId = nextId;
    for (const [chunk, words] of chunks) this.#installChunk(chunk, words);
    for (let id = nextId - 1; id > 0; id--) if (this.#state[id] === FREE) this.#free.push(id);
    this.#chain();
  }

  #installChunk(chunk: number, words: Uint32Array): void {
    for (let i = 0; i < TABLE_CHUNK_IDS; i++) {
      const at = i * TABLE_ID_WORDS;
      if (words[at] === 0) continue;
      const id = chunk * TABLE_CHUNK_IDS + i;
      if (id === 0 || id >= this.#nextId) throw corrupt(`the map's table has page ${id} of ${this.#nextId}`);
      const hole = words[at + 1] === 0;
      this.place0[id] = words[at]!;
      this.place1[id] = words[at + 1]!;
      this.base0[id] = words[at + 2]!;
      this.base1[id] = words[at + 3]!;
      this.birth[id] = words[at + 4]!;
      this.number[id] = words[at + 5]! & ((1 << TABLE_NUMBER_BITS) - 1);
      this.entries[id] = hole ? 0 : (words[at + 5]! >>> TABLE_NUMBER_BITS) + 1;
      this.#count(this.place0[id]!, this.place1[id]!, 1);
      this.#count(this.base0[id]!, this.base1[id]!, 1);
      this.#used++;
      if (hole) this.#state[id] = HOLE;
      else if ((this.place0[id]! & TABLE_DETACHED) === 0) this.#state[id] = PAGE;
      else {
        this.#state[id] = DETACHED;
        this.#detached.push(id);
      }
    }
  }

  /** Chains are not stored: births order them. */
  #chain(): void {
    const ids = new Uint32Array(this.#used - this.#detached.length);
    let count = 0;
    for (let id = 1; id < this.#nextId; id++)
      if (this.#state[id] === PAGE || this.#state[id] === HOLE) ids[count++] = id;
    for (const id of sortedBy(this.birth, ids)) {
      const number = this.number[id]!;
      const below = this.head(number);
      if (below !== 0 && this.birth[below] === this.birth[id])
        throw corrupt(`the map's table has two versions of page ${number} of one birth`);
      this.older[id] = below;
      if (below !== 0) this.newer[below] = id;
      this.#setHead(number, id);
    }
  }

  /** A clone begins: what a snapshot of this birth sees is the live volume, `others` is told every other version, none in a chain. */
  keepOnly(birth: number, others: (id: number) => void): void {
    const seen: number[] = [];
    const rest: number[] = [];
    for (let id = 1; id < this.#nextId; id++) {
      if (this.#state[id] !== PAGE && this.#state[id] !== HOLE) continue;
      const newer = this.newer[id]!;
      const sees = this.birth[id]! <= birth && (newer === 0 || this.birth[newer]! > birth);
      (sees && this.#state[id] === PAGE ? seen : rest).push(id);
    }
    this.#heads.length = 0;
    this.older.fill(0);
    this.newer.fill(0);
    for (const id of seen) this.#setHead(this.number[id]!, id);
    for (const id of rest) others(id);
  }

  /** A snapshot went: calls `exclusive` for each version that only it saw. `before` and `after` are its neighbours' births. */
  betweenOnly(before: number, birth: number, after: number, exclusive: (id: number) => void): void {
    const { birth: births, newer } = this;
    for (let id = 1; id < this.#nextId; id++) {
      const born = births[id]!;
      if (born <= before || born > birth || (this.#state[id] !== PAGE && this.#state[id] !== HOLE)) continue;
      const next = newer[id]!;
      if (next !== 0 && births[next]! <= after) exclusive(id);
    }
  }

  /** Calls `fn` for each page version whose place or base lies in a segment slot. */
  storedIn(slot: number, fn: (id: number) => void): void {
    for (let id = 1; id < this.#nextId; id++) {
      if (this.#state[id] !== PAGE) continue;
      const there =
        (this.place1[id] !== 0 && placeSlot(this.place0[id]!) === slot) ||
        (this.base1[id] !== 0 && placeSlot(this.base0[id]!) === slot);
      if (there) fn(id);
    }
  }
}

/** Ids in ascending order of their key: two passes of 16 bits, since there may be millions. */
function sortedBy(keys: Uint32Array, ids: Uint32Array): Uint32Array {
  let from = ids;
  for (const shift of [0, 16]) {
    const starts = new Uint32Array(65_537);
    for (const id of from) starts[((keys[id]! >>> shift) & 0xffff) + 1]!++;
    for (let i = 0; i < 65_536; i++) starts[i + 1] = starts[i + 1]! + starts[i]!;
    const to = new Uint32Array(from.length);
    for (const id of from) to[starts[(keys[id]! >>> shift) & 0xffff]!++] = id;
    from = to;
  }
  return from;
}
