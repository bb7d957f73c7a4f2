// Pages that nobody sees any more are read in the background and their entries taken off the counts. Owner: the block map.

import { LOAD_PAGES, type PageLoads, type PageRead } from './page-loads.js';
import type { PageTable } from './page-table.js';

type Done = (error: Error | null) => void;

export class PageSweep {
  readonly #table: PageTable;
  readonly #loads: PageLoads;
  readonly #takeOff: (words: Uint32Array) => void;
  #reading = 0;

  constructor(table: PageTable, loads: PageLoads, takeOff: (words: Uint32Array) => void) {
    this.#table = table;
    this.#loads = loads;
    this.#takeOff = takeOff;
  }

  get left(): number {
    return this.#table.detachedCount + this.#reading;
  }

  /** Takes some. `done` gets an error when one could not be read: that one comes last from now on. */
  sweep(done: Done): void {
    const ids = this.#table.takeDetached(LOAD_PAGES);
    if (ids.length === 0) return done(null);
    this.#reading += ids.length;
    this.#some(ids, done);
  }

  #some(ids: readonly number[], done: Done): void {
    const reads: PageRead[] = ids.map((id) => this.#loads.readOf(id));
    this.#loads.read(reads, (error) => {
      if (error !== null && ids.length > 1) return this.#each(ids, done);
      this.#reading -= ids.length;
      if (error !== null) for (const id of ids) this.#table.putBack(id);
      else
        for (const read of reads) {
          this.#takeOff(read.words);
          this.#table.release(read.id);
        }
      done(error);
    });
  }

  #each(ids: readonly number[], done: Done): void {
    let left = ids.length;
    let failure: Error | null = null;
    for (const id of ids)
      this.#some([id], (error) => {
        failure ??= error;
        if (--left === 0) done(failure);
      });
  }
}
