// Write amplification of the cleaner by simulation: the engine's own policy and heat counters over a log of records without contents,
// so that 64 GiB take a minute. Sizes are those of the format (incompressible 4 KiB blocks, encrypted), and what is not data is
// counted too: headers, indexes, move entries, checkpoints.

import { GiB, MiB } from '../../src/base/index.js';
import { BlockHeat } from '../../src/engine/block-heat.js';
import {
  chooseVictims,
  mostLive,
  movesFor,
  type SegmentState,
  type Urgency,
  urgencyOf,
} from '../../src/engine/cleaning-policy.js';
import { CLEAN_STEP_BYTES, MOVE_BATCH_BYTES, MOVE_BURST_BYTES, VICTIM_QUEUE_BYTES } from '../../src/engine/limits.js';
import { PAGE_ENTRIES, SEGMENT_HEADER_SIZE, SEGMENT_SIZE_DEFAULT } from '../../src/format/index.js';

export interface SimulationOptions {
  /** Of client data: the volume is filled once, then overwritten. */
  readonly gib: number;
  /** Live stored bytes over pool bytes. */
  readonly full: number;
  /** Draws the next block to overwrite. */
  readonly pick: () => number;
  /** How often the whole volume's worth is overwritten; the last half of it counts. */
  readonly rounds: number;
  /** Divides segments, bursts and marks, so that a small volume has the segments of one so many times larger. */
  readonly scale?: number;
}

export interface SimulationResult {
  /** Bytes to the pool over client bytes. */
  readonly amplification: number;
  readonly moved: number;
  readonly checkpoints: number;
}

const BLOCK = 4096;
/** Record header, block and tag fill 65 units of 64 bytes. */
const RECORD = 4160;
const INDEX_ITEM = 16;
const MOVE_ITEM = 8;
/** A frame's header, over the 32 records of a queue of that depth. */
const FRAME_SHARE = 4;
const PAGE = 8256;
const OPEN = 1;
const CLOSED = 2;

/** What the pool keeps for itself. */
function poolReserve(capacity: number): number {
  return Math.min(512 * MiB, Math.max(64 * MiB, capacity / 32));
}

export function simulateCleaning(options: SimulationOptions): SimulationResult {
  return new Simulation(options).run();
}

class Simulation {
  readonly #options: SimulationOptions;
  readonly #scale: number;
  readonly #blocks: number;
  readonly #segmentBytes: number;
  readonly #capacity: number;
  readonly #perSegment: number;
  // By segment.
  readonly #state: Uint8Array;
  readonly #count: Int32Array;
  readonly #live: Int32Array;
  readonly #bytes: Float64Array;
  readonly #openedAt: Float64Array;
  readonly #free: number[] = [];
  /** Block by segment and place in it; place by block. */
  readonly #block: Int32Array;
  readonly #place: Int32Array;
  readonly #heat: BlockHeat;
  #open = -1;
  #used = 0;
  #log = 0;
  #client = 0;
  #moved = 0;
  #checkpointed = 0;
  readonly #dirty: Uint8Array;
  #dirtyPages = 0;
  #checkpointAt = 0;
  #checkpointBefore = 0;
  #written = 0;
  #allowance = 0;
  #queue: number[] = [];

  constructor(options: SimulationOptions) {
    this.#options = options;
    this.#scale = options.scale ?? 1;
    this.#blocks = (options.gib * GiB) / BLOCK;
    const pages = Math.ceil(this.#blocks / PAGE_ENTRIES);
    // A page of the map is two records long: blocks behind the volume's own stand for it.
    const all = this.#blocks + 2 * pages;
    this.#segmentBytes = SEGMENT_SIZE_DEFAULT / this.#scale;
    this.#capacity = (all * RECORD) / options.full;
    this.#perSegment = Math.ceil(this.#segmentBytes / RECORD);
    const segments = Math.ceil((this.#capacity / this.#segmentBytes) * 3) + 4096;
    this.#state = new Uint8Array(segments);
    this.#count = new Int32Array(segments);
    this.#live = new Int32Array(segments);
    this.#bytes = new Float64Array(segments);
    this.#openedAt = new Float64Array(segments);
    for (let i = segments - 1; i >= 0; i--) this.#free.push(i);
    this.#block = new Int32Array(segments * this.#perSegment);
    this.#place = new Int32Array(all).fill(-1);
    this.#dirty = new Uint8Array(pages);
    this.#heat = new BlockHeat(() => this.#blocks);
  }

  run(): SimulationResult {
    for (let block = 0; block < this.#blocks; block++) this.#write(block);
    this.#client = 0;
    const total = this.#options.rounds * this.#blocks;
    for (let i = 0; i < total / 2; i++) this.#write(this.#options.pick());
    const before = { log: this.#log, client: this.#client, moved: this.#moved, checkpointed: this.#checkpointed };
    for (let i = 0; i < total / 2; i++) this.#write(this.#options.pick());
    const client = this.#client - before.client;
    return {
      amplification: (this.#log - before.log) / client,
      moved: (this.#moved - before.moved) / client,
      checkpoints: (this.#checkpointed - before.checkpointed) / client,
    };
  }

  #write(block: number): void {
    this.#heat.wrote(block, 1);
    this.#written += this.#put(block, FRAME_SHARE);
    this.#client += BLOCK;
    if (this.#written * this.#scale < CLEAN_STEP_BYTES) return;
    this.#round();
  }

  /** What the cleaner does for every so many bytes that clients wrote. */
  #round(): void {
    let urgency = this.#urgency();
    const scaled = this.#scale;
    this.#allowance += movesFor(this.#written, urgency);
    this.#written = 0;
    if (this.#checkpointDue()) this.#checkpoint();
    for (let tries = 0; tries < 50; tries++) {
      if (urgency.short) this.#allowance = MOVE_BATCH_BYTES / scaled;
      this.#allowance = Math.min(this.#allowance, MOVE_BATCH_BYTES / scaled);
      if (this.#allowance * scaled < MOVE_BURST_BYTES) return;
      const victims = this.#victims(urgency);
      if (victims.length === 0) this.#checkpoint();
      else this.#allowance -= this.#clean(victims);
      urgency = this.#urgency();
    }
  }

  /** From the queue, which is filled anew when it has run dry, as the cleaner does. */
  #victims(urgency: Urgency): number[] {
    if (this.#queue.length === 0) {
      const budget = VICTIM_QUEUE_BYTES / this.#scale;
      this.#queue = chooseVictims(this.#states(), urgency, mostLive(urgency, false), budget).map(({ slot }) => slot);
    }
    const victims: number[] = [];
    let bytes = 0;
    while (this.#queue.length > 0 && bytes < this.#allowance) {
      const slot = this.#queue.shift()!;
      if (this.#state[slot] !== CLOSED) continue;
      victims.push(slot);
      bytes += this.#live[slot]! * RECORD;
    }
    return victims;
  }

  #urgency(): Urgency {
    const free = this.#capacity * this.#scale - poolReserve(this.#capacity * this.#scale) - this.#used * this.#scale;
    return urgencyOf(free, this.#used * this.#scale);
  }

  *#states(): Generator<SegmentState> {
    for (let slot = 0; slot < this.#state.length; slot++) {
      if (this.#state[slot] !== CLOSED || this.#openedAt[slot]! >= this.#checkpointBefore) continue;
      const bytes = this.#bytes[slot]!;
      yield {
        slot,
        bytes,
        liveShare: this.#live[slot]! / Math.max(1, this.#count[slot]!),
        age: this.#log - this.#openedAt[slot]!,
        shared: false,
      };
    }
  }

  /** Moves what lives in the victims, coldest first, in bursts that are segments of their own. */
  #clean(victims: readonly number[]): number {
    const living: number[] = [];
    for (const slot of victims) {
      const first = slot * this.#perSegment;
      for (let at = first; at < first + this.#count[slot]!; at++)
        if (this.#place[this.#block[at]!] === at) living.push(this.#block[at]!);
    }
    living.sort((a, b) => this.#heat.of(a) - this.#heat.of(b));
    let moved = 0;
    let burst = Number.POSITIVE_INFINITY;
    for (const block of living) {
      if (burst * this.#scale >= MOVE_BURST_BYTES) {
        this.#close();
        burst = 0;
      }
      const bytes = this.#put(block, MOVE_ITEM);
      burst += bytes;
      moved += bytes;
    }
    this.#close();
    this.#moved += moved;
    this.#release(victims);
    return Math.max(moved, MOVE_BURST_BYTES / this.#scale);
  }

  #put(block: number, extra: number): number {
    const size = RECORD + INDEX_ITEM + extra;
    if (this.#open >= 0 && this.#bytes[this.#open]! + size > this.#segmentBytes) this.#close();
    if (this.#open < 0) this.#openSegment();
    const slot = this.#open;
    const old = this.#place[block]!;
    if (old >= 0) this.#live[Math.floor(old / this.#perSegment)]!--;
    const at = slot * this.#perSegment + this.#count[slot]!++;
    this.#block[at] = block;
    this.#place[block] = at;
    this.#live[slot]!++;
    this.#take(slot, size);
    if (block < this.#blocks) this.#touch(Math.floor(block / PAGE_ENTRIES));
    return size;
  }

  #take(slot: number, bytes: number): void {
    this.#bytes[slot]! += bytes;
    this.#used += bytes;
    this.#log += bytes;
  }

  #openSegment(): void {
    const slot = this.#free.pop();
    if (slot === undefined) throw new Error('the simulated pool is full');
    this.#open = slot;
    this.#state[slot] = OPEN;
    this.#count[slot] = 0;
    this.#live[slot] = 0;
    this.#bytes[slot] = 0;
    this.#openedAt[slot] = this.#log;
    this.#take(slot, SEGMENT_HEADER_SIZE / this.#scale);
  }

  #close(): void {
    if (this.#open < 0) return;
    this.#state[this.#open] = CLOSED;
    this.#open = -1;
  }

  #release(slots: Iterable<number>): void {
    for (const slot of slots) {
      if (this.#state[slot] !== CLOSED || this.#live[slot]! > 0 || this.#openedAt[slot]! >= this.#checkpointBefore)
        continue;
      this.#state[slot] = 0;
      this.#used -= this.#bytes[slot]!;
      this.#free.push(slot);
    }
  }

  #touch(page: number): void {
    if (this.#dirty[page] === 1) return;
    this.#dirty[page] = 1;
    this.#dirtyPages++;
  }

  /** Once changed pages are at most 4 % of the log since the last one. */
  #checkpointDue(): boolean {
    const since = this.#log - this.#checkpointAt;
    return since * this.#scale >= 64 * MiB && this.#dirtyPages * PAGE <= 0.04 * since;
  }

  #checkpoint(): void {
    const before = this.#log;
    for (let page = 0; page < this.#dirty.length; page++) {
      if (this.#dirty[page] === 0) continue;
      this.#dirty[page] = 0;
      this.#put(this.#blocks + 2 * page, 0);
      this.#put(this.#blocks + 2 * page + 1, 0);
    }
    this.#dirtyPages = 0;
    this.#checkpointed += this.#log - before;
    this.#checkpointBefore = this.#checkpointAt;
    this.#checkpointAt = this.#log;
    this.#release(this.#state.keys());
  }
}
