// Reads: map lookup, one port call for all records of a batch, open, answer. Zeroes need no I/O. A record that one replica
// gives damaged is taken from another, which LogReader does one by one; the fast path is the intact local copy in memory.
//
// Nobody waits for what others asked for: requests that came together are answered together as far as everything is there
// within the call, which is the rule; each of the others when the last of its own parts has come.

import { BLOCK_SIZE, type Clock, corrupt, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { PAGE_ENTRIES, placeLength, placeOffset, placeSlot, segmentFileName } from '../format/index.js';
import { type BlockMap, type Kernel, type KeyRing, kernel, OpenBatch } from '../hotpath/index.js';
import type { BlockRequest } from './block-device.js';
import { READ_JOB_BYTES, READ_SCRATCH_BYTES, READ_SPREAD_BYTES, RECONNECT_MS } from './limits.js';
import type { LogReader } from './log-reader.js';
import { ReadBatch, type ReadRow } from './read-batch.js';
import { ReadScratch } from './read-scratch.js';
import type { ReplicaPort } from './replica-port.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** Requests that came together. */
interface Job {
  readonly requests: readonly BlockRequest[];
  readonly answer: ReadAnswer;
  readonly group: UnderWay;
  /** Until every request was looked at none is answered. */
  planning: boolean;
  unanswered: number;
  /** Parts of each request, by index, that were not there at once and have not come yet; null while there is nothing such. */
  late: number[] | null;
  /** Requests whose last part has come, to be answered together before the call returns. */
  ready: number[];
  /** Requests that can't be answered, by index. */
  failed: Set<number> | null;
  /** Partial blocks, to be copied out of blocks of their own. */
  edges: Edge[] | null;
}

interface Edge {
  readonly request: number;
  readonly block: Buffer;
  readonly from: number;
  readonly to: number;
  readonly into: Uint8Array;
  readonly intoAt: number;
}

/** All data is in place but that of `failed`, which are indexes of `requests`. */
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

/** Batches kept for the next reads: one is enough while everything is in memory. */
const SPARE_MAX = 4;

export class ReadPath {
  readonly #parts: ReadParts;
  readonly #kernel: Kernel = kernel;
  readonly #opening = new OpenBatch();
  /** Reads under way since the last settled(); whoever called it waits for those that were under way before. */
  #underWay: UnderWay = { reads: 0, drained: null };
  #settled: Promise<void> = Promise.resolve();
  readonly #spareBatches: ReadBatch[] = [];
  readonly #scratch = new ReadScratch();
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
    const unanswered = requests.length;
    const lists = { late: null, ready: [], failed: null, edges: null };
    const job: Job = { requests, answer, group, planning: true, unanswered, ...lists };
    const { map } = this.#parts;
    for (let i = 0; i < requests.length; i++) {
      const { offset, length } = requests[i]!;
      const block = Math.floor(offset / BLOCK_SIZE);
      const count = Math.ceil((offset + length) / BLOCK_SIZE) - block;
      if (map.absent(block, count)) this.#load(job, i, block, count);
      else this.#tryPlan(job, i);
    }
    this.#run(job);
    job.planning = false;
    if (job.late === null) this.#answerAll(job);
    else this.#answerSome(job, job.late);
  }

  /** Parts of the map are read first. Often they are there before this returns. */
  #load(job: Job, index: number, block: number, count: number): void {
    let now = true;
    let ended = false;
    this.#parts.map.load(block, count, (error) => {
      ended = true;
      if (error === null) this.#tryPlan(job, index);
      else {
        this.#parts.logger.error({ block, error: messageOf(error) }, 'read failed: the map is not to be had');
        fail(job, index);
      }
      if (now) return;
      this.#run(job);
      came(job, index);
      this.#answerReady(job);
    });
    now = false;
    if (!ended) late(job, index);
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
        job.edges.push({ request: index, block: aside, from: within, to: within + take, into: data!, intoAt });
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
    batch.open = batch.count;
    const port = this.#parts.source();
    if (port === undefined) void this.#slow(job, batch, null);
    else {
      this.#batchBytesMax = port.local ? READ_SCRATCH_BYTES : READ_SPREAD_BYTES;
      const ranges = batch.ranges(this.#scratch.take(batch.bytes));
      if (port.readParts === undefined) port.read(ranges, (error) => this.#fetched(job, batch, error, null));
      else port.readParts(ranges, (error, which) => this.#fetched(job, batch, error, which));
    }
    if (batch.open > 0) this.#goesOn(job, batch);
  }

  /** What is still to come of a batch is answered when it comes. */
  #goesOn(job: Job, batch: ReadBatch): void {
    batch.late = true;
    for (let i = 0; i < batch.count; i++) if (!batch.hasEnded(i)) late(job, batch.requests[i]!);
  }

  /** The replica gave these ranges, or all of them. */
  #fetched(job: Job, batch: ReadBatch, error: Error | null, ranges: readonly number[] | null): void {
    const rows = ranges === null ? null : batch.rowsOf(ranges);
    const bad = error === null ? this.#open(batch, rows) : rows;
    batch.fetching -= ranges === null ? batch.fetching : ranges.length;
    if (batch.fetching === 0 && batch.slab !== null) {
      this.#scratch.release(batch.slab);
      batch.slab = null;
    }
    if (error === null && bad === null && rows === null && !batch.late) {
      batch.open = 0;
      return this.#batchEnded(batch);
    }
    const good = error !== null ? [] : without(rows ?? batch.rowsOf(), bad);
    this.#rowsEnded(job, batch, good);
    if (error !== null || bad !== null) void this.#slow(job, batch, bad);
  }

  /** Opens records, all of them or `rows`; those that can't be, or null. */
  #open(batch: ReadBatch, rows: readonly number[] | null): number[] | null {
    const opening = this.#opening;
    const { at, from, lengths, blocks, counts, into, intoAt } = batch;
    const { bytes } = batch.slab!;
    const count = rows === null ? batch.count : rows.length;
    for (let n = 0; n < count; n++) {
      const i = rows === null ? n : rows[n]!;
      opening.add(bytes, from + at[i]!, lengths[i]!, blocks[i]!, counts[i]!, into[i]!, intoAt[i]!);
    }
    let bad: number[] | null = null;
    if (this.#kernel.open(this.#parts.keys, opening) > 0) {
      bad = [];
      for (let n = 0; n < count; n++) if (opening.fault(n) !== null) bad.push(rows === null ? n : rows[n]!);
    }
    opening.clear();
    return bad;
  }

  /** Rows of a batch of which others have not ended, or that is answered late. */
  #rowsEnded(job: Job, batch: ReadBatch, rows: readonly number[]): void {
    for (const row of rows) {
      batch.rowEnded(row);
      if (batch.late) came(job, batch.requests[row]!);
    }
    if (batch.open === 0) this.#batchEnded(batch);
    this.#answerReady(job);
  }

  #batchEnded(batch: ReadBatch): void {
    batch.clear();
    if (this.#spareBatches.length < SPARE_MAX) this.#spareBatches.push(batch);
  }

  // --- Answers

  #answerAll(job: Job): void {
    if (job.edges !== null) for (const edge of job.edges) copyEdge(edge);
    job.answer(job.requests, job.failed);
    ended(job.group);
  }

  /** Everything of the job that is not late. */
  #answerSome(job: Job, parts: readonly number[]): void {
    job.ready.length = 0;
    for (let i = 0; i < job.requests.length; i++) if ((parts[i] ?? 0) === 0) job.ready.push(i);
    this.#answerReady(job);
  }

  #answerReady(job: Job): void {
    if (job.planning || job.ready.length === 0) return;
    const { ready, requests, edges } = job;
    job.ready = [];
    const answered = ready.map((index) => requests[index]!);
    let failed: Set<number> | null = null;
    for (let i = 0; i < ready.length; i++) {
      if (!job.failed?.has(ready[i]!)) continue;
      failed ??= new Set();
      failed.add(i);
    }
    if (edges !== null) for (const edge of edges) if (ready.includes(edge.request)) copyEdge(edge);
    job.answer(answered, failed);
    job.unanswered -= answered.length;
    if (job.unanswered === 0) ended(job.group);
  }

  /** Record by record, from whichever replica has it; `rows` null: all of them. One that nobody has fails its request alone. */
  async #slow(job: Job, batch: ReadBatch, rows: readonly number[] | null): Promise<void> {
    for (const i of rows ?? batch.rowsOf()) {
      const row = batch.row(i);
      try {
        await this.#fromAny(row);
      } catch (error) {
        const facts = { segment: segmentFileName(row.segment), error: messageOf(error) };
        this.#parts.logger.error(facts, 'read failed');
        fail(job, row.request);
      }
      this.#rowsEnded(job, batch, [i]);
    }
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

/** A part of the request is still to come. */
function late(job: Job, request: number): void {
  job.late ??= [];
  job.late[request] = (job.late[request] ?? 0) + 1;
}

/** It has come. */
function came(job: Job, request: number): void {
  const { late } = job;
  if (late !== null && --late[request]! === 0) job.ready.push(request);
}

/** `rows` but for those in `bad`, which are some of them in the same order. */
function without(rows: readonly number[], bad: readonly number[] | null): readonly number[] {
  if (bad === null) return rows;
  const left = new Set(bad);
  return rows.filter((row) => !left.has(row));
}

function copyEdge(edge: Edge): void {
  edge.into.set(edge.block.subarray(edge.from, edge.to), edge.intoAt);
}

function fail(job: Job, request: number): void {
  job.failed ??= new Set();
  job.failed.add(request);
}
