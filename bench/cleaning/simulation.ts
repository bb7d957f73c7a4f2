// Write amplification of the cleaner by simulation: the engine's own policy and heat counters over a log of records without contents,
// so that 64 GiB take minutes. Sizes are those of the format (incompressible 4 KiB blocks, encrypted), and what is not data is
// counted too: headers, indexes, move entries, checkpoints.

import { GiB, MiB } from '../../src/base/index.js';
import { BlockHeat } from '../../src/engine/block-heat.js';
import { isLongLog } from '../../src/engine/checkpoint-policy.js';
import {
  chooseVictims,
  endsBurst,
  liveShareOf,
  mostLive,
  movesFor,
  releaseWorth,
  type SegmentState,
  type Urgency,
  urgencyOf,
} from '../../src/engine/cleaning-policy.js';
import {
  CHECKPOINT_FRAME_MAX,
  CLEAN_STEP_BYTES,
  DATA_FRAME_MAX,
  HELD_BYTES,
  HELD_LOOK_BYTES,
  HELD_LOOK_SHARE,
  MOVE_BATCH_BYTES,
  MOVE_BURST_BYTES,
  VICTIM_QUEUE_BYTES,
} from '../../src/engine/limits.js';
import {
  FRAME_HEADER_SIZE,
  indexEntrySize,
  moveEntrySize,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_DEFAULT,
} from '../../src/format/index.js';
import { SimulatedMap } from './simulated-map.js';
import { noCounts, resultOf, type SimulationResult } from './tally.js';

export interface SimulationOptions {
  /** Of client data: the volume is filled once, then overwritten. */
  readonly gib: number;
  /** Live stored bytes over pool bytes. */
  readonly full: number;
  /** Draws the next block to overwrite. */
  readonly pick: () => number;
  /** How often the whole volume's worth is overwritten; the last half of it counts. */
  readonly rounds: number;
  /** Divides segments, bursts, marks and memory, so that a small volume has the segments of one so many times larger. */
  readonly scale?: number;
}

const BLOCK = 4096;
/** Record header, block and tag fill 65 units of 64 bytes. */
const RECORD = 4160;
const INDEX_ITEM = (indexEntrySize(8000) - indexEntrySize(4000)) / 4000;
const MOVE_ITEM = (moveEntrySize(8000) - moveEntrySize(4000)) / 4000;
/** A frame's header, over the 32 records of a queue of that depth; over those of a frame of moves. */
const FRAME_SHARE = FRAME_HEADER_SIZE / 32;
const MOVE_FRAME_SHARE = (FRAME_HEADER_SIZE * RECORD) / DATA_FRAME_MAX;
const CHECKPOINT_FRAME_SHARE = FRAME_HEADER_SIZE / CHECKPOINT_FRAME_MAX;
const OPEN = 1;
const CLOSED = 2;
const GENERATIONS = 3;
/** Bytes of log, over the scale, between two looks at what a checkpoint would release; the engine looks more often. */
/** Bytes that clients write while so many of a checkpoint go out: its frames and theirs take turns. */
const BESIDE_CHECKPOINT = 1;
const RELEASE_LOOK = 64 * MiB;

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
  readonly #content = { bytes: 0, blocks: 0, live: 0, pieces: 0, mapBytes: 0, mapEntries: 0 };
  readonly #mapBytes: Float64Array;
  readonly #mapEntries: Int32Array;
  readonly #openedAt: Float64Array;
  readonly #free: number[] = [];
  /** Block by segment and place in it; place by block. */
  readonly #block: Int32Array;
  readonly #place: Int32Array;
  /** How often a block was moved since it was written. */
  readonly #generation: Uint8Array;
  readonly #heat: BlockHeat;
  readonly #map: SimulatedMap;
  readonly #counts = noCounts();
  #open = -1;
  #filled = false;
  #used = 0;
  #inUse = 0;
  /** Slots below it have been used. */
  #slots = 0;
  #recordsAt = 0;
  #checkpointAt = 0;
  #checkpointBefore = 0;
  #lookedAt = 0;
  #releaseLookedAt = 0;
  #written = 0;
  #allowance = 0;
  #queue: number[] = [];

  constructor(options: SimulationOptions) {
    this.#options = options;
    this.#scale = options.scale ?? 1;
    this.#blocks = (options.gib * GiB) / BLOCK;
    this.#segmentBytes = SEGMENT_SIZE_DEFAULT / this.#scale;
    // Pages of the map are live, too: two records of a page's length for each.
    this.#capacity = (this.#blocks * RECORD * (1 + 2 / 1024)) / options.full;
    this.#perSegment = Math.ceil(this.#segmentBytes / RECORD);
    const segments = Math.ceil((this.#capacity / this.#segmentBytes) * 3) + 4096;
    this.#state = new Uint8Array(segments);
    this.#count = new Int32Array(segments);
    this.#live = new Int32Array(segments);
    this.#bytes = new Float64Array(segments);
    this.#mapBytes = new Float64Array(segments);
    this.#mapEntries = new Int32Array(segments);
    this.#openedAt = new Float64Array(segments);
    for (let i = segments - 1; i >= 0; i--) this.#free.push(i);
    this.#block = new Int32Array(segments * this.#perSegment);
    this.#place = new Int32Array(this.#blocks).fill(-1);
    this.#generation = new Uint8Array(this.#blocks);
    this.#heat = new BlockHeat(() => this.#blocks);
    this.#map = new SimulatedMap(this.#blocks, segments, this.#scale);
  }

  run(): SimulationResult {
    for (let block = 0; block < this.#blocks; block++) this.#write(block);
    this.#filled = true;
    const total = this.#options.rounds * this.#blocks;
    while (this.#counts.client < (this.#blocks + total / 2) * BLOCK) this.#write(this.#options.pick());
    const before = { ...this.#counts };
    while (this.#counts.client < (this.#blocks + total) * BLOCK) this.#write(this.#options.pick());
    return resultOf(before, this.#counts, this.#capacity, this.#scale);
  }

  #append(block: number): number {
    this.#heat.wrote(block, 1);
    this.#generation[block] = 0;
    const size = this.#put(block, FRAME_SHARE);
    this.#written += size;
    this.#counts.written += size;
    this.#counts.client += BLOCK;
    return size;
  }

  #write(block: number): void {
    this.#append(block);
    if (this.#map.pressing) this.#checkpoint();
    if (this.#written * this.#scale < CLEAN_STEP_BYTES) return;
    this.#round();
  }

  /** What the maintenance turn and the cleaner do for every so many bytes that clients wrote. */
  #round(): void {
    let urgency = this.#urgency();
    const scaled = this.#scale;
    this.#counts.free += this.#capacity - this.#used;
    this.#counts.looks++;
    this.#allowance += movesFor(this.#written, urgency);
    this.#written = 0;
    if (this.#checkpointDue()) this.#checkpoint();
    if (urgency.pressure > 0) this.#releaseByCheckpoint();
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
      bytes += this.#bytes[slot]! * this.#liveShare(slot);
    }
    return victims;
  }

  #urgency(): Urgency {
    const free = this.#capacity * this.#scale - poolReserve(this.#capacity * this.#scale) - this.#used * this.#scale;
    return urgencyOf(free, this.#used * this.#scale);
  }

  /** Asked of each segment again and again: the record is used anew each time, and made in one piece. */
  #liveShare(slot: number): number {
    const content = this.#content;
    content.bytes = this.#bytes[slot]!;
    content.blocks = this.#count[slot]!;
    content.live = this.#live[slot]!;
    content.pieces = this.#map.pieces(slot);
    content.mapBytes = this.#mapBytes[slot]!;
    content.mapEntries = this.#mapEntries[slot]!;
    return liveShareOf(content);
  }

  #isBehind(slot: number): boolean {
    return this.#state[slot] === CLOSED && this.#openedAt[slot]! < this.#checkpointBefore;
  }

  *#states(): Generator<SegmentState> {
    for (let slot = 0; slot < this.#slots; slot++) {
      if (!this.#isBehind(slot) || this.#live[slot] === 0) continue;
      const age = this.#counts.log - this.#openedAt[slot]!;
      yield { slot, bytes: this.#bytes[slot]!, liveShare: this.#liveShare(slot), age, shared: false };
    }
  }

  /** Moves what lives in the victims, coldest first, in bursts that are segments of their own. */
  #clean(victims: readonly number[]): number {
    const living: number[] = [];
    for (const slot of victims) {
      const first = slot * this.#perSegment;
      for (let at = first; at < first + this.#count[slot]!; at++)
        if (this.#place[this.#block[at]!] === at) living.push(this.#block[at]!);
      this.#map.evacuate(slot);
      this.#counts.cleaned += this.#bytes[slot]!;
      this.#counts.cleanedLive += this.#live[slot]! * RECORD;
    }
    living.sort((a, b) => this.#heat.of(a) - this.#heat.of(b));
    let moved = 0;
    let burst = Number.POSITIVE_INFINITY;
    let before = 0;
    for (const block of living) {
      const heat = this.#heat.of(block);
      if (burst * this.#scale >= MOVE_BURST_BYTES || endsBurst(burst * this.#scale, before, heat)) {
        this.#close();
        burst = 0;
      }
      before = heat;
      const generation = this.#generation[block]!;
      if (generation < GENERATIONS - 1) this.#generation[block]!++;
      const bytes = this.#put(block, MOVE_ITEM + MOVE_FRAME_SHARE);
      this.#counts[`moves${generation as 0 | 1 | 2}`] += bytes;
      burst += bytes;
      moved += bytes;
    }
    this.#close();
    if (this.#map.pressing) this.#checkpoint();
    for (const slot of victims) this.#release(slot);
    return Math.max(moved, MOVE_BURST_BYTES / this.#scale);
  }

  #put(block: number, extra: number): number {
    const size = RECORD + INDEX_ITEM + extra;
    const slot = this.#room(size);
    const old = this.#place[block]!;
    if (old >= 0) this.#live[Math.floor(old / this.#perSegment)]!--;
    const at = slot * this.#perSegment + this.#count[slot]!++;
    this.#block[at] = block;
    this.#place[block] = at;
    this.#live[slot]!++;
    this.#take(slot, size);
    this.#counts.records++;
    this.#map.touch(block);
    return size;
  }

  #room(size: number): number {
    if (this.#open >= 0 && this.#bytes[this.#open]! + size > this.#segmentBytes) this.#close();
    if (this.#open < 0) this.#openSegment();
    return this.#open;
  }

  #take(slot: number, bytes: number): void {
    this.#bytes[slot]! += bytes;
    this.#used += bytes;
    this.#counts.log += bytes;
  }

  #openSegment(): void {
    const slot = this.#free.pop();
    if (slot === undefined) throw new Error('the simulated pool is full');
    this.#open = slot;
    this.#state[slot] = OPEN;
    this.#count[slot] = 0;
    this.#live[slot] = 0;
    this.#bytes[slot] = 0;
    this.#mapBytes[slot] = 0;
    this.#mapEntries[slot] = 0;
    this.#openedAt[slot] = this.#counts.log;
    this.#inUse++;
    this.#slots = Math.max(this.#slots, slot + 1);
    // Its header, and the index that ends it: header, frame and trailer, without items.
    this.#take(slot, (SEGMENT_HEADER_SIZE + FRAME_HEADER_SIZE + indexEntrySize(0)) / this.#scale);
  }

  #close(): void {
    if (this.#open < 0) return;
    this.#state[this.#open] = CLOSED;
    this.#open = -1;
  }

  #release(slot: number): void {
    if (!this.#isBehind(slot) || this.#live[slot]! > 0 || this.#map.pieces(slot) > 0) return;
    this.#state[slot] = 0;
    this.#used -= this.#bytes[slot]!;
    this.#free.push(slot);
    this.#inUse--;
  }

  /** The log has grown long, or much is dead that replay may still need. */
  #checkpointDue(): boolean {
    const logBytes = (this.#counts.log - this.#checkpointAt) * this.#scale;
    const records = (this.#counts.records - this.#recordsAt) * this.#scale;
    const stored = this.#used * this.#scale;
    return isLongLog(logBytes, records, stored) || this.#holdsMuch(stored);
  }

  #holdsMuch(stored: number): boolean {
    const step = Math.max(HELD_LOOK_BYTES, stored * HELD_LOOK_SHARE) / this.#scale;
    if (this.#counts.log - this.#lookedAt < step) return false;
    this.#lookedAt = this.#counts.log;
    let bytes = 0;
    for (let slot = 0; slot < this.#slots; slot++)
      if (
        this.#state[slot] === CLOSED &&
        this.#live[slot] === 0 &&
        this.#map.pieces(slot) === 0 &&
        !this.#isBehind(slot)
      )
        bytes += this.#bytes[slot]!;
    return bytes * this.#scale >= HELD_BYTES;
  }

  /** As the cleaner does with what is dead but young, and where pieces of checkpoints alone are left. */
  #releaseByCheckpoint(): void {
    if (this.#counts.log - this.#releaseLookedAt < RELEASE_LOOK / this.#scale) return;
    this.#releaseLookedAt = this.#counts.log;
    let held = 0;
    let behind = 0;
    const emptied: number[] = [];
    for (let slot = 0; slot < this.#slots; slot++) {
      if (this.#state[slot] !== CLOSED) continue;
      const won = this.#bytes[slot]! * (1 - this.#liveShare(slot));
      if (this.#isBehind(slot) && this.#live[slot]! > 0) behind += won;
      else held += won;
      if (this.#isBehind(slot) && this.#live[slot] === 0) emptied.push(slot);
    }
    if (held * this.#scale < releaseWorth(this.#used * this.#scale, behind * this.#scale)) return;
    for (const slot of emptied) this.#map.evacuate(slot);
    this.#checkpoint();
  }

  #checkpoint(): void {
    const before = { log: this.#counts.log, written: this.#counts.written };
    let owed = 0;
    const startedAt = this.#counts.log;
    const replayFrom = this.#open < 0 ? startedAt : this.#openedAt[this.#open]!;
    const { whole, deltas, lists } = this.#map.checkpoint(this.#inUse, (bytes) => {
      const size = bytes * (1 + CHECKPOINT_FRAME_SHARE) + INDEX_ITEM;
      const slot = this.#room(size);
      this.#take(slot, size);
      this.#mapBytes[slot]! += size;
      this.#mapEntries[slot]!++;
      if (this.#filled)
        for (owed += size * BESIDE_CHECKPOINT; owed >= RECORD; ) owed -= this.#append(this.#options.pick());
      return slot;
    });
    // Frames, indexes and segments of it count for the pages.
    const rest = this.#counts.log - before.log - (this.#counts.written - before.written) - whole - deltas - lists;
    this.#counts.whole += whole;
    this.#counts.deltas += deltas + rest;
    this.#counts.lists += lists;
    this.#counts.checkpoints++;
    this.#checkpointBefore = this.#checkpointAt;
    this.#checkpointAt = replayFrom;
    this.#recordsAt = this.#counts.records;
    for (let slot = 0; slot < this.#slots; slot++) this.#release(slot);
  }
}
