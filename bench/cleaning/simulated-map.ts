// What the checkpoints of a map write, without its contents: in how many entries each page differs from its base in the log, where page
// and base lie, which segments that holds. When pages press for a checkpoint, which of them go as a delta and which whole, and how long
// each entry is, the engine's own functions say.

import { isPressing } from '../../src/engine/checkpoint-policy.js';
import { CHECKPOINT_DIRTY_PAGES } from '../../src/engine/limits.js';
import {
  encodePage,
  encodeRoot,
  encodeSegmentSlots,
  encodeTable,
  PAGE_ENTRIES,
  SEGMENTS_PER_CHUNK,
  type SegmentSlot,
  TABLE_CHUNK_IDS,
  TABLE_ID_WORDS,
} from '../../src/format/index.js';
import { deltaSpent, MAP_CACHE_BYTES, PageCache } from '../../src/hotpath/index.js';

const PAGE_SIZE = encodePage(1, 0, new Uint32Array(PAGE_ENTRIES * 2)).length;
const TABLE_CHUNK_SIZE = encodeTable(0, new Uint32Array(TABLE_CHUNK_IDS * TABLE_ID_WORDS)).length;
const aSlot: SegmentSlot = { slot: 1, epoch: 1, ordinal: 1, firstSeq: 1, live: 1, blocks: 1 };
const SEGMENT_CHUNK_SIZE = encodeSegmentSlots(0, new Array<SegmentSlot>(SEGMENTS_PER_CHUNK).fill(aSlot)).length;
const NOWHERE = -1;
const CLEAN = 0;
const DIRTY = 1;
const CUT = 2;

/** Appends an entry of a checkpoint to the log; returns the segment it went to. */
export type PutEntry = (bytes: number) => number;

export interface CheckpointBytes {
  readonly whole: number;
  readonly deltas: number;
  /** The tables of pages and of segments, and the root. */
  readonly lists: number;
}

export class SimulatedMap {
  readonly #scale: number;
  readonly #pages: number;
  /** A bit for each block that differs from its page's base; how many of a page do. */
  readonly #changed: Uint32Array;
  readonly #changes: Uint16Array;
  readonly #dirty: Uint8Array;
  /** What deltas over the base have cost; NOWHERE when the page is to be written whole. */
  readonly #spent: Int32Array;
  readonly #baseAt: Int32Array;
  readonly #deltaAt: Int32Array;
  /** Entries of checkpoints that are still named, by segment. */
  readonly #pieces: Int32Array;
  readonly #cacheMost = new PageCache(MAP_CACHE_BYTES).most;
  #dirtyCount = 0;
  /** Segments of places that the next checkpoint names no more, and of those that the newest doesn't. */
  #superseded: number[] = [];
  #before: number[] = [];

  constructor(blocks: number, segments: number, scale: number) {
    this.#scale = scale;
    this.#pages = Math.ceil(blocks / PAGE_ENTRIES);
    this.#changed = new Uint32Array((this.#pages * PAGE_ENTRIES) / 32);
    this.#changes = new Uint16Array(this.#pages);
    this.#dirty = new Uint8Array(this.#pages);
    this.#spent = new Int32Array(this.#pages).fill(NOWHERE);
    this.#baseAt = new Int32Array(this.#pages).fill(NOWHERE);
    this.#deltaAt = new Int32Array(this.#pages).fill(NOWHERE);
    this.#pieces = new Int32Array(segments);
  }

  /** Entries of checkpoints in the segment that the newest one or the one before it names. */
  pieces(segment: number): number {
    return this.#pieces[segment]!;
  }

  /** A daemon with one worker gives all of its memory for pages to one volume. */
  get pressing(): boolean {
    const dirty = this.#dirtyCount * this.#scale;
    return isPressing(dirty, dirty / this.#cacheMost);
  }

  /** The block is somewhere else now. */
  touch(block: number): void {
    const page = Math.floor(block / PAGE_ENTRIES);
    if (this.#dirty[page] === CLEAN || this.#dirty[page] === CUT) {
      this.#dirty[page]! += DIRTY;
      this.#dirtyCount++;
    }
    if (this.#spent[page] === NOWHERE) return;
    const bit = 1 << (block & 31);
    const bits = this.#changed[block >>> 5]!;
    if (bits & bit) return;
    this.#changed[block >>> 5] = bits | bit;
    this.#changes[page]!++;
  }

  /** The next checkpoint writes whole what lies in the segment, or has its base there, as far as few pages wait for one. */
  evacuate(segment: number): void {
    if (this.#pieces[segment] === 0) return;
    for (let page = 0; page < this.#pages; page++) {
      if (this.#dirtyCount * this.#scale >= CHECKPOINT_DIRTY_PAGES / 2) return;
      if (this.#baseAt[page] !== segment && this.#deltaAt[page] !== segment) continue;
      if (this.#dirty[page] === CLEAN) this.#dirtyCount++;
      this.#dirty[page] = DIRTY;
      this.#spent[page] = NOWHERE;
    }
  }

  /** Writes one. What only the checkpoint before the last named holds its segments no more. */
  checkpoint(segmentsInUse: number, put: PutEntry): CheckpointBytes {
    const superseded = this.#superseded;
    this.#superseded = [];
    const bytes = this.#writePages(put, superseded);
    const lists = this.#writeLists(segmentsInUse, put);
    for (const segment of this.#before) this.#pieces[segment]!--;
    this.#before = superseded;
    return { ...bytes, lists };
  }

  #writePages(put: PutEntry, superseded: number[]): { whole: number; deltas: number } {
    const bytes = { whole: 0, deltas: 0 };
    // Blocks are written while it goes on: their pages are dirty again, and the next one's.
    for (let page = 0; page < this.#pages; page++) if (this.#dirty[page] === DIRTY) this.#dirty[page] = CUT;
    this.#dirtyCount = 0;
    for (let page = 0; page < this.#pages; page++) {
      if (this.#dirty[page]! < CUT) continue;
      this.#dirty[page]! -= CUT;
      const former = this.#spent[page]!;
      const spent = deltaSpent(former !== NOWHERE, former, this.#changes[page]!);
      if (this.#deltaAt[page] !== NOWHERE) superseded.push(this.#deltaAt[page]!);
      if (spent > 0) {
        this.#deltaAt[page] = this.#put(put, spent - former);
        bytes.deltas += spent - former;
      } else {
        if (this.#baseAt[page] !== NOWHERE) superseded.push(this.#baseAt[page]!);
        this.#baseAt[page] = this.#put(put, PAGE_SIZE);
        this.#deltaAt[page] = NOWHERE;
        bytes.whole += PAGE_SIZE;
        this.#changed.fill(0, (page * PAGE_ENTRIES) / 32, ((page + 1) * PAGE_ENTRIES) / 32);
        this.#changes[page] = 0;
      }
      this.#spent[page] = spent;
    }
    return bytes;
  }

  /** All of the lists: pages all over the table have another place, and most segments are a little emptier. */
  #writeLists(segmentsInUse: number, put: PutEntry): number {
    const tableChunks = Math.ceil((this.#pages * this.#scale) / TABLE_CHUNK_IDS);
    const segmentChunks = Math.ceil(segmentsInUse / SEGMENTS_PER_CHUNK);
    const root = rootSize(tableChunks, segmentChunks);
    const all = tableChunks * TABLE_CHUNK_SIZE + segmentChunks * SEGMENT_CHUNK_SIZE + root;
    const bytes = all / this.#scale;
    // Named until the next one replaces it.
    this.#superseded.push(this.#put(put, bytes));
    return bytes;
  }

  #put(put: PutEntry, bytes: number): number {
    const segment = put(bytes);
    this.#pieces[segment]!++;
    return segment;
  }
}

function rootSize(tableChunks: number, segmentChunks: number): number {
  const places = (count: number) => Array.from({ length: count }, () => [1, 1] as const);
  return encodeRoot({
    coveredThrough: 1,
    sizeBytes: 1,
    nextId: 1,
    birth: 1,
    nextOrdinal: 1,
    reigns: [],
    tablePlaces: places(tableChunks),
    segmentPlaces: places(segmentChunks),
    snapshotPlaces: [],
  }).length;
}
