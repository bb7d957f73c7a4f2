// Writes, trims and zeroes: admission, splitting into records, read-modify-write of partial blocks, range entries.
//
// Admission: a write waits while too much is in flight or not synced yet, while fewer replicas than minReplicas are in sync (for as long as
// that lasts), or while a replica's pool has no room (for a bounded time, then ENOSPC). Nothing that waits has a seq.
//
// Partial blocks: all blocks of the request are locked, everything already sequenced is committed, the old content of the
// partial ones is read, and the merged whole blocks are written; requests that touch a locked block wait until it is free. The
// whole blocks in between are locked too: another request's merge of one of them must not read it before they are sequenced.

import { BLOCK_SIZE, type Clock, type Logger, messageOf, type TimerHandle } from '../base/index.js';
import { PAGE_ENTRIES } from '../format/index.js';
import { type BlockMap, recordSizeMax, SealBatch } from '../hotpath/index.js';
import type { BlockError, BlockRequest } from './block-device.js';
import { DATA_FRAME_MAX, IN_FLIGHT_MAX, RANGE_BLOCKS_MAX, SPACE_RESERVE, SPACE_WAIT_MS } from './limits.js';
import type { LogWriter } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { ReadPath } from './read-path.js';
import type { ReplicaSet } from './replica-set.js';
import type { UnsyncedBound } from './unsynced-bound.js';

/**
 * Adjacent blocks sealed as one record; the format allows 8. A record is read whole, for one block of it, too. Measured with the native
 * kernel, CPU us on one pool with 1, 2, 4 and 8: random 4 KiB read of what was written in 128 KiB pieces 3.8, 4.9, 7.0 and 13; 128 KiB
 * read 48, 45, 44 and 46; 128 KiB write alike within the noise. Records of one block take more room for headers and padding, 4 % of
 * data compressed by half, and find less to compress.
 */
const RUN_BLOCKS = 2;

export interface WriteParts {
  readonly map: BlockMap;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly reads: ReadPath;
  readonly set: ReplicaSet;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly unsynced: UnsyncedBound;
  readonly minReplicas: () => number;
  readonly clearRange: (block: number, count: number) => void;
  /** Too much of the map waits for a checkpoint, which was asked for. */
  readonly mapFull: () => boolean;
}

type RangeOp = 'trim' | 'zero';

interface Waiting {
  readonly request: BlockRequest;
  /** When it was first found to lack space: what else it waited for gives no reason for ENOSPC. */
  shortSinceMs: number | null;
}

/** Blocks of a request that is being merged, both ends included. */
interface BlockRange {
  readonly first: number;
  readonly last: number;
}

function pageOf(block: number): number {
  return Math.floor(block / PAGE_ENTRIES);
}

export class WritePath {
  readonly #parts: WriteParts;
  readonly #batch = new SealBatch();
  /** Requests whose last part is in the batch. */
  #finishing: BlockRequest[] = [];
  #batchBytes = 0;
  /** What the fullest counting replica has room for, as of the start of this call of submit() or retry(). */
  #roomBytes = 0;
  #waiting: Waiting[] = [];
  #spaceTimer: TimerHandle | undefined;
  readonly #locked = new Set<BlockRange>();
  #lockWaiters: BlockRequest[] = [];
  /** Large trims and zeroes of which a part is still to come. */
  readonly #ranging = new Set<BlockRequest>();
  /** Further parts of large ranges that a merge under way touches. */
  #rangeWaiters: (() => void)[] = [];
  #closed = false;

  constructor(parts: WriteParts) {
    this.#parts = parts;
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  /** Admits a batch of writes, trims and zeroes. */
  submit(requests: readonly BlockRequest[]): void {
    this.#roomBytes = this.#parts.set.freeBytes();
    for (let i = 0; i < requests.length; i++) this.#admit(requests[i]!, false);
    this.#send();
  }

  /** Something that writes wait for has changed: tries again, in order. */
  retry(): void {
    if (this.#waiting.length === 0 || this.#closed) return;
    this.#roomBytes = this.#parts.set.freeBytes();
    const waiting = this.#waiting;
    this.#waiting = [];
    for (let i = 0; i < waiting.length; i++) {
      const item = waiting[i]!;
      if (item.request.cancelled) {
        item.request.complete('ESHUTDOWN');
        continue;
      }
      const obstacle = this.#obstacle(item.request);
      if (obstacle === null) {
        this.#start(item.request);
      } else if (obstacle === 'space' && this.#isShort(item)) {
        item.request.complete('ENOSPC');
      } else {
        this.#waiting.push(item);
      }
    }
    this.#send();
    this.#watchSpace();
  }

  /** Whether it has lacked space for so long that it is told. */
  #isShort(item: Waiting): boolean {
    const now = this.#parts.clock.monotonicMs();
    item.shortSinceMs ??= now;
    return now - item.shortSinceMs >= SPACE_WAIT_MS;
  }

  #send(): void {
    this.#seal();
    this.#parts.pipeline.transmit();
  }

  #admit(request: BlockRequest, again: boolean): void {
    if (this.#closed || request.cancelled) return request.complete('ESHUTDOWN');
    const obstacle = this.#waiting.length > 0 && !again ? 'order' : this.#obstacle(request);
    if (obstacle === null) return this.#start(request);
    const item: Waiting = { request, shortSinceMs: null };
    if (obstacle === 'space') this.#isShort(item);
    this.#waiting.push(item);
    if (obstacle === 'space') this.#watchSpace();
  }

  /** What keeps a request from being sequenced now. */
  #obstacle(request: BlockRequest): 'replicas' | 'in-flight' | 'map' | 'unsynced' | 'space' | null {
    const { set, pipeline, minReplicas } = this.#parts;
    if (set.inSyncCount < minReplicas()) return 'replicas';
    const pending = pipeline.bytesInFlight + this.#batchBytes;
    if (pending > IN_FLIGHT_MAX) return 'in-flight';
    if (this.#parts.mapFull()) return 'map';
    // Worst case: nothing compresses, every block is a record of its own, and a segment is opened for it.
    const worst = request.op === 'write' ? request.length * 1.02 + 16 * 1024 : 0;
    if (worst > 0 && this.#parts.unsynced.exceeded) return 'unsynced';
    if (worst > 0 && this.#roomBytes - pending - worst < SPACE_RESERVE) return 'space';
    return null;
  }

  #watchSpace(): void {
    if (this.#spaceTimer !== undefined || this.#waiting.length === 0 || this.#closed) return;
    this.#spaceTimer = this.#parts.clock.after(SPACE_WAIT_MS / 4, () => {
      this.#spaceTimer = undefined;
      this.retry();
      this.#watchSpace();
    });
  }

  /** Where the blocks of a write, trim or zero are looked at for the first time. */
  #start(request: BlockRequest): void {
    const { offset, length } = request;
    const end = offset + length;
    const first = Math.floor(offset / BLOCK_SIZE);
    const last = Math.floor((end - 1) / BLOCK_SIZE);
    if (this.#locked.size > 0 && this.#touchesLocked(first, last)) {
      this.#lockWaiters.push(request);
      return;
    }
    const whole = offset === first * BLOCK_SIZE && end === (last + 1) * BLOCK_SIZE;
    const { map } = this.#parts;
    if (request.op === 'write' ? map.absent(first, last - first + 1) : map.absent(first, 1) || map.absent(last, 1))
      return this.#load(request, first, last);
    if (whole) {
      if (request.op === 'write') this.#write(first, last - first + 1, request.data!, request.dataAt, request);
      else this.#range(request.op as RangeOp, first, last - first + 1, request);
    } else if (request.op === 'trim') {
      // Unaligned ends of a trim are left alone.
      const from = Math.ceil(offset / BLOCK_SIZE);
      const to = Math.floor(end / BLOCK_SIZE);
      if (to > from) this.#range('trim', from, to - from, request);
      else request.complete(null);
    } else {
      void this.#mergePartial(request, first, last);
    }
  }

  /** A trim or zero looks into the pages at its ends at most; what lies between is dropped whole. */
  #pagesOf(request: BlockRequest, first: number, last: number): number[] {
    if (request.op !== 'write') return [...new Set([pageOf(first), pageOf(last)])];
    const numbers: number[] = [];
    for (let number = pageOf(first); number <= pageOf(last); number++) numbers.push(number);
    return numbers;
  }

  /** Parts of the map are read first, then the request begins anew. Nearly always they are there before this returns. */
  #load(request: BlockRequest, first: number, last: number): void {
    const { map, logger } = this.#parts;
    let now = true;
    map.loadLive(this.#pagesOf(request, first, last), (error) => {
      if (error === null) this.#admit(request, true);
      else {
        if (!this.#closed) logger.error({ block: first, error: messageOf(error) }, 'the map is not to be had');
        request.complete(this.#closed ? 'ESHUTDOWN' : 'EIO');
      }
      if (!now && !this.#closed) this.#send();
    });
    now = false;
  }

  #touchesLocked(first: number, last: number): boolean {
    for (const range of this.#locked) if (range.first <= last && range.last >= first) return true;
    return false;
  }

  /** Gives whole blocks their place in the order; `request` (if any) is answered with the last of them. */
  #write(block: number, count: number, data: Uint8Array, dataAt: number, request: BlockRequest | null): void {
    for (let i = 0; i < count; i += RUN_BLOCKS) {
      const run = Math.min(RUN_BLOCKS, count - i);
      const size = recordSizeMax(run);
      if (this.#batchBytes + size > DATA_FRAME_MAX) this.#seal();
      this.#parts.map.pin(block + i, run);
      this.#batch.add(block + i, run, data, dataAt + i * BLOCK_SIZE);
      this.#batchBytes += size;
    }
    if (request !== null) this.#finishing.push(request);
  }

  /** The same for a range that is to read as zeroes; a large one goes on when its first part is committed. */
  #range(why: RangeOp, block: number, count: number, request: BlockRequest): void {
    this.#seal();
    const { map, writer, pipeline, clearRange, clock } = this.#parts;
    const part = Math.min(count, RANGE_BLOCKS_MAX - (block % RANGE_BLOCKS_MAX));
    const item = pipeline.newest(writer.writeControl({ kind: 'range', why, block, count: part }));
    map.pinEnds(block, part);
    item.apply = () => {
      clearRange(block, part);
      map.unpinEnds(block, part);
    };
    if (part === count) {
      item.requests = [request];
      this.#ranging.delete(request);
    } else {
      this.#ranging.add(request);
      item.committed = () => void clock.after(0, () => this.#restOfRange(why, block + part, count - part, request));
    }
  }

  #restOfRange(why: RangeOp, block: number, count: number, request: BlockRequest): void {
    const { map, logger } = this.#parts;
    map.loadEnds(block, count, (error) => {
      if (!this.#ranging.has(request)) return;
      if (error !== null) {
        logger.error({ block, error: messageOf(error) }, 'the map is not to be had');
        this.#ranging.delete(request);
        return request.complete('EIO');
      }
      // A merge that has read one of these blocks must be sequenced first, else it would bring back what this clears.
      if (this.#touchesLocked(block, block + count - 1)) {
        this.#rangeWaiters.push(() => this.#restOfRange(why, block, count, request));
        return;
      }
      this.#range(why, block, count, request);
      this.#send();
    });
  }

  /** Turns what was gathered into a frame. From here on the payloads are needed no longer. */
  #seal(): void {
    if (this.#batch.count === 0) return;
    const { writer, pipeline } = this.#parts;
    const item = pipeline.newest(writer.writeRecords(this.#batch));
    const finished = this.#finishing;
    if (finished.length > 0) {
      for (let i = 0; i < finished.length; i++) finished[i]!.data = null;
      item.requests = finished;
      this.#finishing = [];
    }
    this.#batch.clear();
    this.#batchBytes = 0;
  }

  async #mergePartial(request: BlockRequest, first: number, last: number): Promise<void> {
    const { pipeline, reads, writer } = this.#parts;
    const headPartial = request.offset % BLOCK_SIZE !== 0;
    const tailPartial = (request.offset + request.length) % BLOCK_SIZE !== 0;
    const partial = first === last ? [first] : [...(headPartial ? [first] : []), ...(tailPartial ? [last] : [])];
    const lock: BlockRange = { first, last };
    this.#locked.add(lock);
    const pages = this.#pagesOf(request, first, last);
    this.#parts.map.pinNumbers(pages);
    let failure: BlockError | null = null;
    const merged = request.op === 'write' ? Buffer.allocUnsafe((last - first + 1) * BLOCK_SIZE) : undefined;
    const edges = new Map<number, Buffer>();
    try {
      this.#seal();
      pipeline.transmit();
      await this.#allCommitted(writer.lastSeq);
      for (const block of partial) {
        const bytes = Buffer.allocUnsafe(BLOCK_SIZE);
        await reads.blocks(block, 1, bytes);
        edges.set(block, bytes);
      }
    } catch (error) {
      this.#parts.logger.error({ error: messageOf(error) }, 'a partial block could not be read');
      failure = 'EIO';
    }
    this.#locked.delete(lock);
    // From here to #release nothing is awaited: no other request can slip between the content that was read and its successor.
    if (this.#closed || failure !== null) request.complete(this.#closed ? 'ESHUTDOWN' : failure);
    else if (merged !== undefined) this.#writeMerged(request, first, last, merged, edges);
    else this.#zeroMerged(request, first, last, edges);
    this.#parts.map.unpinNumbers(pages);
    this.#release();
  }

  #writeMerged(request: BlockRequest, first: number, last: number, merged: Buffer, edges: Map<number, Buffer>): void {
    for (const [block, bytes] of edges) bytes.copy(merged, (block - first) * BLOCK_SIZE);
    const { data, dataAt, length, offset } = request;
    merged.set(data!.subarray(dataAt, dataAt + length), offset - first * BLOCK_SIZE);
    this.#write(first, last - first + 1, merged, 0, request);
  }

  #zeroMerged(request: BlockRequest, first: number, last: number, edges: Map<number, Buffer>): void {
    const end = request.offset + request.length;
    for (const [block, bytes] of edges) {
      const at = block * BLOCK_SIZE;
      bytes.fill(0, Math.max(0, request.offset - at), Math.min(BLOCK_SIZE, end - at));
    }
    const blocks = [...edges.keys()];
    const from = edges.has(first) ? first + 1 : first;
    const to = edges.has(last) ? last : last + 1;
    const inner = to > from;
    blocks.forEach((block, i) => {
      const isLast = i === blocks.length - 1 && !inner;
      this.#write(block, 1, edges.get(block)!, 0, isLast ? request : null);
    });
    if (inner) this.#range('zero', from, to - from, request);
  }

  #release(): void {
    const ranges = this.#rangeWaiters;
    this.#rangeWaiters = [];
    for (const goOn of ranges) goOn();
    const waiting = this.#lockWaiters;
    this.#lockWaiters = [];
    this.#roomBytes = this.#parts.set.freeBytes();
    for (const request of waiting) this.#admit(request, true);
    this.#seal();
    if (!this.#closed) this.#parts.pipeline.transmit();
  }

  #allCommitted(seq: number): Promise<void> {
    const { set, pipeline } = this.#parts;
    if (set.committed >= seq || pipeline.oldest === undefined) return Promise.resolve();
    return new Promise((resolve) => this.#commitWaiters.push({ seq, resolve }));
  }
  #commitWaiters: { seq: number; resolve: () => void }[] = [];

  /** Told by the engine after each commit. */
  committed(seq: number): void {
    if (this.#commitWaiters.length > 0) {
      const ready = this.#commitWaiters.filter((waiter) => waiter.seq <= seq);
      this.#commitWaiters = this.#commitWaiters.filter((waiter) => waiter.seq > seq);
      for (const waiter of ready) waiter.resolve();
    }
    this.retry();
  }

  /** Fails what waits. */
  close(): void {
    this.#closed = true;
    this.#spaceTimer?.cancel();
    const waiting = [...this.#waiting.map((item) => item.request), ...this.#lockWaiters, ...this.#ranging];
    this.#ranging.clear();
    this.#rangeWaiters = [];
    this.#waiting = [];
    this.#lockWaiters = [];
    for (const request of waiting) request.complete('ESHUTDOWN');
    for (const waiter of this.#commitWaiters.splice(0)) waiter.resolve();
  }
}
