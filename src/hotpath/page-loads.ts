// Brings pages into memory: each once, however many wait for it. Owner: the block map. What a load brings is taken in only if the
// id still stands for the place that was read: it may have been given up, or written elsewhere, meanwhile.

import { MapPage, type PageCache, type PageOwner } from './page-cache.js';
import type { PageTable } from './page-table.js';

/** One page to be read: the reader fills the fields after `base1`, and `words` if they are given. */
export interface PageRead {
  readonly id: number;
  readonly number: number;
  readonly place0: number;
  readonly place1: number;
  /** [0, 0] when the place holds the whole page. */
  readonly base0: number;
  readonly base1: number;
  readonly words: Uint32Array;
  changed: Uint32Array | null;
  spent: number;
}

/** Reads pages from the log; `done` may be called before it returns. An error says that at least one is not to be had. */
export type ReadPages = (reads: readonly PageRead[], done: (error: Error | null) => void) => void;

type Done = (error: Error | null) => void;

/** Pages asked for at once: half a MiB. */
export const LOAD_PAGES = 64;

export class PageLoads {
  readonly #table: PageTable;
  readonly #cache: PageCache;
  readonly #owner: PageOwner;
  readonly #loading = new Map<number, Done[]>();
  read: ReadPages = (_, done) => done(new Error('the map has no log to read from'));
  /** What is read from now on is of no use. */
  closed = false;
  /** Pages read since the start. */
  loaded = 0;

  constructor(table: PageTable, cache: PageCache, owner: PageOwner) {
    this.#table = table;
    this.#cache = cache;
    this.#owner = owner;
  }

  /** Calls back when all of these pages have been in memory; whoever needs them to stay pins their numbers before. */
  load(ids: readonly number[], done: Done): void {
    const missing = ids.filter((id) => this.#table.isPage(id) && this.#table.frame[id] === 0);
    if (missing.length === 0) return done(null);
    let left = 1;
    let failure: Error | null = null;
    const ended: Done = (error) => {
      failure ??= error;
      if (--left === 0) done(failure);
    };
    const fresh: number[] = [];
    for (const id of missing) {
      const waiting = this.#loading.get(id);
      left++;
      if (waiting !== undefined) waiting.push(ended);
      else {
        this.#loading.set(id, [ended]);
        fresh.push(id);
      }
    }
    for (let at = 0; at < fresh.length; at += LOAD_PAGES) this.#start(fresh.slice(at, at + LOAD_PAGES));
    ended(null);
  }

  #start(ids: readonly number[]): void {
    const reads = ids.map((id) => this.readOf(id));
    this.read(reads, (error) => {
      // One bad page is no reason to fail those that were asked for with it.
      if (error !== null && ids.length > 1) {
        for (const id of ids) this.#start([id]);
        return;
      }
      if (error === null) for (const read of reads) this.#install(read);
      for (const id of ids) {
        const waiting = this.#loading.get(id)!;
        this.#loading.delete(id);
        for (const done of waiting) done(error);
      }
    });
  }

  readOf(id: number): PageRead {
    const { number, place0, place1, base0, base1 } = this.#table;
    return {
      id,
      number: number[id]!,
      place0: place0[id]!,
      place1: place1[id]!,
      base0: base0[id]!,
      base1: base1[id]!,
      words: this.#cache.words(),
      changed: null,
      spent: 0,
    };
  }

  #install(read: PageRead): void {
    const table = this.#table;
    const { id } = read;
    if (this.closed || !table.isPage(id) || table.frame[id] !== 0) return;
    if (table.place0[id] !== read.place0 || table.place1[id] !== read.place1) return;
    const page = new MapPage(this.#owner, id, read.number, read.words);
    page.entries = table.entries[id]!;
    page.based = true;
    page.changed = read.changed;
    page.spent = read.spent;
    table.frame[id] = this.#cache.insert(page) + 1;
    this.loaded++;
  }
}
