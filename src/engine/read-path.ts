// Reads: map lookup, one port call for all records of a batch, open, answer. Zeroes need no I/O. A record that one replica
// gives damaged is taken from another, which LogReader does one by one; the fast path is the intact local copy.

import { BLOCK_SIZE, type Clock, corrupt, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { PAGE_ENTRIES, placeLength, placeOffset, placeSlot, segmentFileName } from '../format/index.js';
import { type BlockMap, type Kernel, type KeyRing, kernel, OpenBatch } from '../hotpath/index.js';
import type { BlockRequest } from './block-device.js';
import { READ_JOB_BYTES, READ_SCRATCH_BYTES, READ_SPREAD_BYTES, RECONNECT_MS } from './limits.js';
import type { LogReader } from './log-reader.js';
import { ReadBatch, type ReadRow } from './read-batch.js';
import type { ReplicaPort } from './replica-port.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** Requests that are answered together. */
interface Job {
  readonly requests: readonly BlockRequest[];
  readonly answer: ReadAnswer;
  readonly group: UnderWay;
  /** Batches under way, and one while batches are being made. */
  open: number;
  /** Requests that can't be answered, by index. */
  failed: Set<number> | null;
  /** Partial blocks, to be copied out of blocks of their own. */
  edges: Edge[] | null;
}

interface Edge {
  readonly block: Buffer;
  readonly from: number;
  readonly to: number;
  readonly into: Uint8Array;
  readonly intoAt: number;
}

/** All data is in place but that of `failed`. */
export type ReadAnswer = (requests: readonly BlockRequest[], failed: ReadonlySet<number> | null) => void;

/** Reads that began between two calls of settled(). */
interface UnderWay {
  reads: number;
  drained: (() => void) | null;
}

function ended(group: UnderWay): void {
  if (--group.reads === 0) group.drained?.();
}

export interface ReadParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly keys: KeyRing;
  readonly reader: LogReader;
  /** What the next batch is read from. */
  readonly source: () => ReplicaPort | undefined;
  /** No more reads will be answered. */
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Buffers and batches kept for the next reads: a local replica answers within the call and needs one of each. */
const SPARE_MAX = 4;

export class ReadPath {
  readonly #parts: ReadParts;
  readonly #kernel: Kernel = kernel;
  readonly #opening = new OpenBatch();
  /** Reads under way since the last settled(); whoever called it waits for those that were under way before. */
  #underWay: UnderWay = { reads: 0, drained: null };
  #settled: Promise<void> = Promise.resolve();
  readonly #spareBatches: ReadBatch[] = [];
  readonly #spareScratch: Buffer[] = [];
  /** The batch being filled. */
  #batch = new ReadBatch();
  /** What one batch may take, judged by where the one before it was read. */
  #batchBytesMax = READ_SPREAD_BYTES;
  /** The segment looked up last: most records of a batch lie in few. */
  #segment: TableEntry | undefined;

  constructor(parts: ReadParts) {
    this.#parts = parts;
  }

  /** Resolves when every read that is under way now has ended, whatever came since: then nobody refers to a segment by an old place. */
  settled(): Promise<void> {
    const before = this.#underWay;
    this.#underWay = { reads: 0, drained: null };
    const drained = new Promise<void>((resolve) => {
      if (before.reads === 0) resolve();
      else before.drained = resolve;
    });
    this.#settled = this.#settled.then(() => drained);
    return this.#settled;
  }

  /** Reads of one batch. `answer` is called for each group of requests that end together. */
  read(requests: readonly BlockRequest[], answer: ReadAnswer): void {
    let from = 0;
    while (from < requests.length) {
      let bytes = 0;
      let to = from;
      while (to < requests.length && (to === from || bytes + requests[to]!.length <= READ_JOB_BYTES))
        bytes += requests[to++]!.length;
      this.#readSome(from === 0 && to === requests.length ? requests : requests.slice(from, to), answer);
      from = to;
    }
  }

  #readSome(requests: readonly BlockRequest[], answer: ReadAnswer): void {
    const group = this.#underWay;
    group.reads++;
    const job: Job = { requests, answer, group, open: 1, failed: null, edges: null };
    const { map } = this.#parts;
    for (let i = 0; i < requests.length; i++) {
      const { offset, length } = requests[i]!;
      const block = Math.floor(offset / BLOCK_SIZE);
      const count = Math.ceil((offset + length) / BLOCK_SIZE) - block;
      if (map.absent(block, count)) this.#load(job, i, block, count);
      else this.#tryPlan(job, i);
    }
    this.#run(job);
    this.#ended(job);
  }

  /** Parts of the map are read first. Nearly always they are there before this returns. */
  #load(job: Job, index: number, block: number, count: number): void {
    let now = true;
    job.open++;
    this.#parts.map.load(block, count, (error) => {
      if (error === null) this.#tryPlan(job, index);
      else {
        this.#parts.logger.error({ block, error: messageOf(error) }, 'read failed: the map is not to be had');
        fail(job, index);
      }
      if (!now) this.#run(job);
      this.#ended(job);
    });
    now = false;
  }

  #tryPlan(job: Job, index: number): void {
    try {
      this.#plan(job, index);
    } catch (error) {
      this.#parts.logger.error({ error: messageOf(error) }, 'read failed');
      fail(job, index);
    }
  }

  /** Reads whole blocks for the engine itself (read-modify-write). */
  blocks(block: number, count: number, into: Buffer): Promise<void> {
    const length = count * BLOCK_SIZE;
    return new Promise((resolve, reject) => {
      const complete = () => {};
      const offset = block * BLOCK_SIZE;
      const request: BlockRequest = {
        ...{ op: 'read', offset, length, fua: false, data: into, dataAt: 0, cancelled: false, complete },
      };
      this.read([request], (_, failed) =>
        failed === null ? resolve() : reject(corrupt(`blocks ${block} to ${block + count} could not be read`)),
      );
    });
  }

  /** Where a read's blocks are looked up. A partial block goes through a block of its own. */
  #plan(job: Job, index: number): void {
    const { offset, length, data, dataAt } = job.requests[index]!;
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const block = Math.floor(at / BLOCK_SIZE);
      const within = at - block * BLOCK_SIZE;
      const take = Math.min(BLOCK_SIZE - within, end - at);
      const intoAt = dataAt + at - offset;
      if (take === BLOCK_SIZE) {
        const whole = Math.floor((end - at) / BLOCK_SIZE);
        this.#planBlocks(job, index, block, whole, data!, intoAt);
        at += whole * BLOCK_SIZE;
      } else {
        const aside = Buffer.allocUnsafe(BLOCK_SIZE);
        job.edges ??= [];
        job.edges.push({ block: aside, from: within, to: within + take, into: data!, intoAt });
        this.#planBlocks(job, index, block, 1, aside, 0);
        at += take;
      }
    }
  }

  #planBlocks(job: Job, index: number, block: number, count: number, into: Uint8Array, intoAt: number): void {
    const { map } = this.#parts;
    let at = intoAt;
    let current = block;
    const end = block + count;
    while (current < end) {
      const within = current % PAGE_ENTRIES;
      const here = Math.min(end - current, PAGE_ENTRIES - within);
      const words = map.page(current)?.words;
      if (words === undefined) {
        into.fill(0, at, at + here * BLOCK_SIZE);
        at += here * BLOCK_SIZE;
        current += here;
        continue;
      }
      let word = within * 2;
      const wordEnd = word + here * 2;
      while (word < wordEnd) {
        const word0 = words[word]!;
        const word1 = words[word + 1]!;
        // Neighbours of the same record: the same place, and the next index in its run.
        let same = 1;
        const step = word1 === 0 ? 0 : 0x100_0000;
        while (
          word + same * 2 < wordEnd &&
          words[word + same * 2 + 1] === word1 &&
          words[word + same * 2] === word0 + same * step
        )
          same++;
        if (word1 === 0) into.fill(0, at, at + same * BLOCK_SIZE);
        else this.#fetch(job, index, word0, word1, current, same, into, at);
        word += same * 2;
        at += same * BLOCK_SIZE;
        current += same;
      }
    }
  }

  #fetch(
    job: Job,
    index: number,
    word0: number,
    word1: number,
    block: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
  ): void {
    const slot = placeSlot(word0);
    let segment = this.#segment;
    if (segment === undefined || segment.slot !== slot) {
      const { table } = this.#parts;
      segment = table.bySlot(slot);
      if (segment === undefined)
        throw corrupt(`block ${block} lies in segment ${table.fileOf(slot)}, which no replica has`);
      this.#segment = segment;
    }
    const length = placeLength(word1);
    if (this.#batch.bytes + length > this.#batchBytesMax) this.#run(job);
    this.#batch.add(segment, placeOffset(word1), length, block, count, into, intoAt, index);
  }

  /** Sends the batch that was filled. */
  #run(job: Job): void {
    const batch = this.#batch;
    this.#segment = undefined;
    if (batch.count === 0) return;
    this.#batch = this.#spareBatches.pop() ?? new ReadBatch();
    job.open++;
    const port = this.#parts.source();
    if (port === undefined) return void this.#slow(job, batch, null);
    this.#batchBytesMax = port.local ? READ_SCRATCH_BYTES : READ_SPREAD_BYTES;
    const scratch = this.#scratchFor(port, batch.bytes);
    port.read(batch.ranges(scratch), (error) => {
      const bad = error === null ? this.#open(batch, scratch) : null;
      if (scratch.length === READ_SCRATCH_BYTES && this.#spareScratch.length < SPARE_MAX)
        this.#spareScratch.push(scratch);
      if (error === null && bad === null) this.#batchEnded(job, batch);
      else void this.#slow(job, batch, bad);
    });
  }

  /** Many reads may wait for a remote replica at once, each holding what it needs and no more. */
  #scratchFor(port: ReplicaPort, bytes: number): Buffer {
    if (!port.local && bytes * 2 < READ_SCRATCH_BYTES) return Buffer.allocUnsafe(bytes);
    return this.#spareScratch.pop() ?? Buffer.allocUnsafeSlow(READ_SCRATCH_BYTES);
  }

  /** Opens all records; the rows of those that can't be, or null. */
  #open(batch: ReadBatch, scratch: Buffer): number[] | null {
    const opening = this.#opening;
    const { at, lengths, blocks, counts, into, intoAt } = batch;
    for (let i = 0; i < batch.count; i++)
      opening.add(scratch, at[i]!, lengths[i]!, blocks[i]!, counts[i]!, into[i]!, intoAt[i]!);
    let bad: number[] | null = null;
    if (this.#kernel.open(this.#parts.keys, opening) > 0) {
      bad = [];
      for (let i = 0; i < opening.count; i++) if (opening.fault(i) !== null) bad.push(i);
    }
    opening.clear();
    return bad;
  }

  #batchEnded(job: Job, batch: ReadBatch): void {
    batch.clear();
    if (this.#spareBatches.length < SPARE_MAX) this.#spareBatches.push(batch);
    this.#ended(job);
  }

  #ended(job: Job): void {
    if (--job.open > 0) return;
    if (job.edges !== null)
      for (const edge of job.edges) edge.into.set(edge.block.subarray(edge.from, edge.to), edge.intoAt);
    job.answer(job.requests, job.failed);
    ended(job.group);
  }

  /** Record by record, from whichever replica has it; `rows` null: all of them. One that nobody has fails its request alone. */
  async #slow(job: Job, batch: ReadBatch, rows: readonly number[] | null): Promise<void> {
    const count = rows === null ? batch.count : rows.length;
    for (let i = 0; i < count; i++) {
      const row = batch.row(rows === null ? i : rows[i]!);
      try {
        await this.#fromAny(row);
      } catch (error) {
        const facts = { segment: segmentFileName(row.segment), error: messageOf(error) };
        this.#parts.logger.error(facts, 'read failed');
        fail(job, row.request);
      }
    }
    this.#batchEnded(job, batch);
  }

  /** While no replica can be asked the read waits, as writes do: that is a pause for the client and no error. */
  async #fromAny(row: ReadRow): Promise<void> {
    const { reader, clock, closed, logger, keys } = this.#parts;
    const { segment, offset, length, block, count, into, intoAt } = row;
    for (let wait = RECONNECT_MS.first; ; wait = Math.min(wait * 2, RECONNECT_MS.most)) {
      try {
        await reader.read(segment, offset, length, (bytes) => {
          const opening = this.#opening;
          opening.add(bytes, 0, length, block, count, into, intoAt);
          this.#kernel.open(keys, opening);
          const fault = opening.fault(0);
          opening.clear();
          return fault === null ? null : `record of block ${block}: ${fault}`;
        });
        return;
      } catch (error) {
        if (!(error instanceof HoldfastError && error.code === 'UNAVAILABLE') || closed()) throw error;
        logger.warn({ error: error.message }, 'a read waits for a replica');
      }
      await clock.sleep(wait);
    }
  }
}

function fail(job: Job, request: number): void {
  job.failed ??= new Set();
  job.failed.add(request);
}
