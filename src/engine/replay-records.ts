// Records on their way from the log into the map: gathered, so that the pages they need are read many at a time.

import { corrupt } from '../base/index.js';
import { placeWord0, placeWord1 } from '../format/index.js';
import { type BlockMap, blocksOf } from '../hotpath/index.js';
import type { TableEntry } from './segment-table.js';

/** Records applied in one go. Their pages are in memory together: 8 MiB at most. */
const RECORDS = 1024;

export class ReplayRecords {
  readonly #map: BlockMap;
  #segments: TableEntry[] = [];
  /** Block, run, word 1 of each. */
  #fields: number[] = [];

  constructor(map: BlockMap) {
    this.#map = map;
  }

  /** True when flush() is due. */
  get full(): boolean {
    return this.#segments.length >= RECORDS;
  }

  add(segment: TableEntry, block: number, run: number, offset: number, stored: number): void {
    if (block + run > blocksOf(this.#map.sizeBytes))
      throw corrupt(`a record of block ${block} lies beyond the volume's end`);
    this.#segments.push(segment);
    this.#fields.push(block, run, placeWord1(offset, stored));
  }

  /** Applies what was gathered, in order. */
  async flush(): Promise<void> {
    if (this.#segments.length === 0) return;
    const map = this.#map;
    const fields = this.#fields;
    // All of them, since those in memory now could go while others come.
    const numbers = new Set<number>();
    for (let i = 0; i < fields.length; i += 3)
      numbers.add(fields[i]! >>> 10).add((fields[i]! + fields[i + 1]! - 1) >>> 10);
    await new Promise<void>((resolve, reject) => {
      map.loadLive([...numbers], (error) => {
        if (error !== null) return reject(error);
        this.#apply();
        resolve();
      });
    });
    this.#segments = [];
    this.#fields = [];
  }

  #apply(): void {
    const fields = this.#fields;
    for (let i = 0; i < this.#segments.length; i++) {
      const { slot } = this.#segments[i]!;
      const block = fields[i * 3]!;
      const run = fields[i * 3 + 1]!;
      this.#map.setRun(block, run, placeWord0(slot, 0), fields[i * 3 + 2]!);
      this.#map.stored(slot, 1, run);
    }
  }
}

/** The records of one frame of moved ones. They apply where the map still has the place that each was moved from. */
export class ReplayMoves {
  readonly #map: BlockMap;
  readonly #segment: TableEntry;
  readonly #from: readonly number[];
  /** Block, run, word 1 of each that was met. */
  readonly #fields: number[] = [];

  constructor(map: BlockMap, segment: TableEntry, from: readonly number[]) {
    this.#map = map;
    this.#segment = segment;
    this.#from = from;
  }

  get complete(): boolean {
    return this.#fields.length / 3 === this.#from.length / 2;
  }

  add(block: number, run: number, offset: number, stored: number): void {
    if (this.complete) throw corrupt(`segment slot ${this.#segment.slot}: more moved records than a move entry names`);
    this.#fields.push(block, run, placeWord1(offset, stored));
  }

  async apply(): Promise<void> {
    if (!this.complete)
      throw corrupt(`segment slot ${this.#segment.slot}: fewer moved records than a move entry names`);
    const map = this.#map;
    const fields = this.#fields;
    const numbers = new Set<number>();
    for (let i = 0; i < fields.length; i += 3)
      numbers.add(fields[i]! >>> 10).add((fields[i]! + fields[i + 1]! - 1) >>> 10);
    const pinned = [...numbers];
    await new Promise<void>((resolve, reject) => {
      map.loadVersions(pinned, (error) => (error === null ? resolve() : reject(error)));
    });
    const { slot } = this.#segment;
    for (let i = 0; i < fields.length / 3; i++) {
      const run = fields[i * 3 + 1]!;
      const [from0, from1] = [this.#from[i * 2]!, this.#from[i * 2 + 1]!];
      map.move(fields[i * 3]!, run, from0, from1, placeWord0(slot, 0), fields[i * 3 + 2]!);
      map.stored(slot, 1, run);
    }
    map.unpinVersions(pinned);
  }
}
