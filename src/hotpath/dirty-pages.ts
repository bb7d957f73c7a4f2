// Pages of one map that differ from what the log holds, and what of them a checkpoint under way has still to write. Owner: the block map.
//
// A page is clean, dirty, or cut; a cut one that is changed again is split: the cut keeps the words it had, the page goes on with a copy
// and is dirty, too. Bits of `changed` tell a page from its base in the log; after a split they tell it from its cut, until that is
// written and the two sets are joined, or the page has a new base.

import { assert } from '../base/index.js';
import { deltaSize, PAGE_ENTRIES } from '../format/index.js';
import type { MapPage, PageCache, PageCut } from './page-cache.js';

export class DirtyPages {
  readonly #cache: PageCache;
  #dirty: MapPage[] = [];
  #dirtyCount = 0;
  #cutLeft = 0;
  #settling: MapPage[] = [];
  #closed = false;

  constructor(cache: PageCache) {
    this.#cache = cache;
  }

  /** Pages that stay in memory until a checkpoint has written them and every replica has what it wrote. */
  get count(): number {
    return this.#dirtyCount + this.#cutLeft + this.#settling.length;
  }
  close(): void {
    this.#closed = true;
    this.#cache.dirty -= this.count;
  }

  /** The page is about to differ from what the log holds. */
  add(page: MapPage): void {
    if (page.dirty) return;
    if (page.cut !== null && page.words === page.cut.words) {
      page.words = this.#cache.words();
      page.words.set(page.cut.words);
      page.changed = page.based ? new Uint32Array(PAGE_ENTRIES / 32) : null;
    }
    page.dirty = true;
    this.#dirty.push(page);
    this.#dirtyCount++;
    this.#cache.dirty++;
  }

  /** Nobody needs the page as it is now; a cut of it is still written. */
  remove(page: MapPage): void {
    if (!page.dirty) return;
    page.dirty = false;
    this.#dirtyCount--;
    this.#cache.dirty--;
  }

  /** What is to be written to a copy's log: as for the page it was made from. */
  copyBits(from: MapPage, to: MapPage): void {
    to.changed = from.changed?.slice() ?? null;
    // Split from what the checkpoint under way writes: the base is still the old one for both.
    if (from.cut !== null && from.cut.words !== from.words) addBits(to, from.cut.changed);
  }

  /** A checkpoint begins: dirty pages as they are now. */
  cut(): PageCut[] {
    assert(this.#cutLeft === 0, 'one checkpoint is written at a time');
    const pages: PageCut[] = [];
    for (const page of this.#dirty) {
      if (!page.dirty) continue;
      const { words, changed, based, spent, entries } = page;
      page.cut = { page, words, changed, based, spent, entries };
      page.dirty = false;
      pages.push(page.cut);
    }
    this.#dirty = [];
    this.#cutLeft = pages.length;
    this.#dirtyCount = 0;
    return pages;
  }

  /** A cut was written, whole or as a delta of which `spent` is the sum so far. */
  wrote(cut: PageCut, delta: boolean, spent: number): void {
    if (this.#closed) return;
    const { page } = cut;
    const split = page.words !== cut.words;
    page.cut = null;
    page.settling = true;
    this.#settling.push(page);
    page.spent = spent;
    if (delta) {
      if (split) addBits(page, cut.changed);
    } else {
      page.based = true;
      page.changed = split ? differences(page.words, cut.words) : null;
    }
    this.#cutLeft--;
  }

  /** Everything written so far can be read back. */
  settled(): void {
    if (this.#closed) return;
    this.#cache.dirty -= this.#settling.length;
    for (const page of this.#settling) page.settling = false;
    this.#settling = [];
  }
}

/** What deltas will have cost when this page is written as one; 0: it is to be written whole, since they would cost more than that. */
export function deltaPays(cut: PageCut): number {
  let count = 0;
  if (cut.changed !== null)
    for (const bits of cut.changed) for (let left = bits; left !== 0; left = (left & (left - 1)) >>> 0) count++;
  return deltaSpent(cut.based, cut.spent, count);
}

/** The same by numbers: whether the log has a base, what deltas over it have cost so far, and in how many entries the page differs from it. */
export function deltaSpent(based: boolean, spent: number, changes: number): number {
  if (!based) return 0;
  const sum = spent + deltaSize(changes);
  return sum <= PAGE_ENTRIES * 8 ? sum : 0;
}

function addBits(page: MapPage, bits: Uint32Array | null): void {
  if (bits === null) return;
  page.changed ??= new Uint32Array(PAGE_ENTRIES / 32);
  for (let i = 0; i < bits.length; i++) page.changed[i] = (page.changed[i]! | bits[i]!) >>> 0;
}

/** Bits of the entries in which two pages differ. */
function differences(words: Uint32Array, other: Uint32Array): Uint32Array {
  const bits = new Uint32Array(PAGE_ENTRIES / 32);
  for (let i = 0; i < PAGE_ENTRIES; i++) {
    if (words[i * 2] !== other[i * 2] || words[i * 2 + 1] !== other[i * 2 + 1])
      bits[i >>> 5] = (bits[i >>> 5]! | (1 << (i & 31))) >>> 0;
  }
  return bits;
}
