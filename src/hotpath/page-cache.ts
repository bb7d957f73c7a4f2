// The pages of all maps of a thread that are in memory, under one budget. Clean pages that nobody pins go first, the least
// recently used ones by the clock algorithm; a page that was changed stays until a checkpoint has written it.
//
// Owner: the thread. Invariant: frames[page.frame] is the page, and its map knows that frame. A page is thrown out only by
// insert(), so a page that was looked up stays good until something is loaded.

import { PAGE_ENTRIES } from '../format/index.js';

/** Bytes that a resident page takes: its words, its bits of change, the objects around them. */
export const PAGE_BYTES = PAGE_ENTRIES * 8 + 320;

/** Pages looked at for one that is taken in: with most of them dirty the hand finds a clean one after some ten. */
const EVICT_LOOKS = 1024;

/** What the cache asks the map of a page. */
export interface PageOwner {
  /** A request under way needs it, or it will be written by the checkpoint under way. */
  holds(page: MapPage): boolean;
  /** It is no longer in memory. */
  evicted(page: MapPage): void;
}

/** A page as it was when a checkpoint began, until that has written it. */
export interface PageCut {
  readonly page: MapPage;
  readonly words: Uint32Array;
  readonly changed: Uint32Array | null;
  readonly based: boolean;
  readonly spent: number;
  readonly entries: number;
}

export class MapPage {
  readonly owner: PageOwner;
  readonly id: number;
  /** Which 4 MiB of the address space it maps. */
  readonly number: number;
  words: Uint32Array;
  /** Entries that are mapped. */
  entries = 0;
  /** The log holds a base page from which it differs by `changed` (null: by nothing). */
  based = false;
  changed: Uint32Array | null = null;
  /** Bytes that deltas over the base have cost. */
  spent = 0;
  dirty = false;
  cut: PageCut | null = null;
  /** Written by a checkpoint in frames that not every replica has acknowledged yet: it can't be read back. */
  settling = false;
  /** Used since the clock's hand last came by. */
  used = true;
  frame = -1;

  constructor(owner: PageOwner, id: number, number: number, words: Uint32Array) {
    this.owner = owner;
    this.id = id;
    this.number = number;
    this.words = words;
  }

  /** Entry `index` will differ from the base's. */
  mark(index: number): void {
    this.changed ??= new Uint32Array(PAGE_ENTRIES / 32);
    this.changed[index >>> 5] = (this.changed[index >>> 5]! | (1 << (index & 31))) >>> 0;
  }
}

export class PageCache {
  readonly #frames: (MapPage | undefined)[] = [];
  #free: number[] = [];
  #spare: Uint32Array[] = [];
  #hand = 0;
  #resident = 0;
  #most = 0;
  /** Pages that only a checkpoint can make evictable, of all maps. */
  dirty = 0;

  constructor(bytes: number) {
    this.limit(bytes);
  }
  /** Sets the budget. What is pinned or dirty stays beyond it. */
  limit(bytes: number): void {
    this.#most = Math.max(1, Math.floor(bytes / PAGE_BYTES));
  }
  /** Pages that fit. */
  get most(): number {
    return this.#most;
  }
  get resident(): number {
    return this.#resident;
  }

  page(frame: number): MapPage {
    const page = this.#frames[frame]!;
    page.used = true;
    return page;
  }

  /** A zeroed page's worth of words. */
  words(): Uint32Array {
    const spare = this.#spare.pop();
    if (spare === undefined) return new Uint32Array(PAGE_ENTRIES * 2);
    spare.fill(0);
    return spare;
  }

  /** Takes a page in and makes room for it. Returns its frame. */
  insert(page: MapPage): number {
    if (this.#resident >= this.#most) this.#evict();
    const frame = this.#free.pop() ?? this.#frames.length;
    this.#frames[frame] = page;
    page.frame = frame;
    this.#resident++;
    return frame;
  }

  /** Takes a page out that its map has no use for any more. */
  remove(page: MapPage): void {
    this.#frames[page.frame] = undefined;
    this.#free.push(page.frame);
    page.frame = -1;
    this.#resident--;
  }

  /** Clean pages go until one fits, or nothing when some looks find none: dirty and pinned pages are bounded elsewhere. */
  #evict(): void {
    const frames = this.#frames;
    for (let looks = EVICT_LOOKS; looks > 0 && this.#resident >= this.#most; looks--) {
      if (++this.#hand >= frames.length) this.#hand = 0;
      const page = frames[this.#hand];
      if (page === undefined || page.dirty || page.settling || page.cut !== null) continue;
      if (page.used) page.used = false;
      else if (!page.owner.holds(page)) {
        page.owner.evicted(page);
        this.remove(page);
        if (this.#spare.length < 64) this.#spare.push(page.words);
      }
    }
  }

  /** Everything of one map goes: its volume was closed. */
  drop(owner: PageOwner): void {
    for (const page of this.#frames) if (page?.owner === owner) this.remove(page);
  }
}

/**
 * 192 MiB map 92 GiB of hot data (one page for 4 MiB); 64 GiB may be changed all over between two checkpoints. A daemon of
 * several workers divides it among them.
 */
export const MAP_CACHE_BYTES = 192 * 1024 * 1024;

/** That of this thread. */
export const pageCache = new PageCache(MAP_CACHE_BYTES);
