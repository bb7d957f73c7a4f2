// Records of the log, or adjacent blocks of one, as columns: thousands of them pass through the cleaner for each MiB that it wins, and an
// object for each would cost more than moving it does.

import { PAGE_ENTRIES } from '../format/index.js';

export class RecordList {
  count = 0;
  blocks = new Float64Array(FIRST_ROOM);
  runs = new Uint8Array(FIRST_ROOM);
  /** The map entry of the first block. */
  word0 = new Uint32Array(FIRST_ROOM);
  word1 = new Uint32Array(FIRST_ROOM);

  add(block: number, run: number, word0: number, word1: number): void {
    if (this.count === this.blocks.length) this.grow(this.count * 2);
    const i = this.count++;
    this.blocks[i] = block;
    this.runs[i] = run;
    this.word0[i] = word0;
    this.word1[i] = word1;
  }

  /** Of the map, that has the record's first block; lastPage() its last. */
  firstPage(i: number): number {
    return Math.floor(this.blocks[i]! / PAGE_ENTRIES);
  }
  lastPage(i: number): number {
    return Math.floor((this.blocks[i]! + this.runs[i]! - 1) / PAGE_ENTRIES);
  }

  protected grow(room: number): void {
    this.blocks = enlarged(this.blocks, new Float64Array(room));
    this.runs = enlarged(this.runs, new Uint8Array(room));
    this.word0 = enlarged(this.word0, new Uint32Array(room));
    this.word1 = enlarged(this.word1, new Uint32Array(room));
  }
}

/** What is to be moved: whole records, or the living blocks of one that is partly dead. */
export class PieceList extends RecordList {
  /** Where the record was read to, or NOT_READ. */
  at = new Int32Array(FIRST_ROOM);
  #heats = new Uint8Array(FIRST_ROOM);
  /** 1: to be opened and sealed anew, 0: the record is copied as it is. */
  #parts = new Uint8Array(FIRST_ROOM);

  /** `heat`: 0 to 15. */
  addPiece(block: number, run: number, word0: number, word1: number, heat: number, part: boolean): void {
    this.add(block, run, word0, word1);
    this.at[this.count - 1] = NOT_READ;
    this.#heats[this.count - 1] = heat;
    this.#parts[this.count - 1] = part ? 1 : 0;
  }
  /** 0 to 15. */
  heat(i: number): number {
    return this.#heats[i]!;
  }
  isPart(i: number): boolean {
    return this.#parts[i] === 1;
  }

  /** Indexes, coldest first. Those of one heat stay in their order: neighbours lie together for reads ahead, and are read together. */
  byHeat(): Uint32Array {
    const heats = this.#heats;
    const starts = new Uint32Array(HEATS + 1);
    for (let i = 0; i < this.count; i++) starts[heats[i]! + 1]!++;
    for (let heat = 0; heat < HEATS; heat++) starts[heat + 1]! += starts[heat]!;
    const order = new Uint32Array(this.count);
    for (let i = 0; i < this.count; i++) order[starts[heats[i]!]!++] = i;
    return order;
  }

  protected override grow(room: number): void {
    super.grow(room);
    this.at = enlarged(this.at, new Int32Array(room));
    this.#heats = enlarged(this.#heats, new Uint8Array(room));
    this.#parts = enlarged(this.#parts, new Uint8Array(room));
  }
}

export const NOT_READ = -1;

const FIRST_ROOM = 2048;
const HEATS = 16;

function enlarged<T extends Uint8Array | Int32Array | Uint32Array | Float64Array>(old: T, larger: T): T {
  larger.set(old);
  return larger;
}
