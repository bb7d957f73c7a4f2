// Reads: map lookup, one port call for all records of a batch, open, reply. Zeroes need no I/O. A record that one replica
// gives damaged is taken from another, which LogReader does one by one; the fast path is the intact local copy.

import { BLOCK_SIZE, type Clock, corrupt, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { placeIndex, placeLength, placeOffset, placeSlot, segmentFileName } from '../format/index.js';
import { type BlockMap, type Kernel, type KeyRing, kernel, type MapRoot } from '../hotpath/index.js';
import type { BlockError, BlockRequest } from './block-device.js';
import { READ_BATCH_BYTES, RECONNECT_MS } from './limits.js';
import type { LogReader } from './log-reader.js';
import type { ReadRange, ReplicaPort } from './replica-port.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** One record to fetch and what to take out of it. */
interface Fetch {
  readonly segment: TableEntry;
  readonly offset: number;
  readonly length: number;
  /** First block wanted and how many. */
  block: number;
  count: number;
  readonly into: Uint8Array;
  readonly intoAt: number;
  bytes: Buffer;
  bytesAt: number;
}

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
  /** Nearest first. */
  readonly sources: () => readonly ReplicaPort[];
  /** No more reads will be answered. */
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class ReadPath {
  readonly #parts: ReadParts;
  readonly #kernel: Kernel = kernel;
  /** Reads under way since the last settled(); whoever called it waits for those that were under way before. */
  #underWay: UnderWay = { reads: 0, drained: null };
  #settled: Promise<void> = Promise.resolve();

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

  /** Reads of one batch; `done` is called for each request, with the data in place. */
  read(requests: readonly BlockRequest[], done: (request: BlockRequest, error: BlockError | null) => void): void {
    let from = 0;
    while (from < requests.length) {
      let bytes = 0;
      let to = from;
      while (to < requests.length && (to === from || bytes + requests[to]!.length <= READ_BATCH_BYTES))
        bytes += requests[to++]!.length;
      this.#readSome(requests.slice(from, to), done);
      from = to;
    }
  }

  #readSome(requests: readonly BlockRequest[], done: (request: BlockRequest, error: BlockError | null) => void): void {
    const fetches: Fetch[] = [];
    const edges: (() => void)[] = [];
    try {
      for (const request of requests)
        this.#plan(request.offset, request.length, request.data!, this.#parts.map.root, fetches, edges);
    } catch (error) {
      this.#parts.logger.error({ error: messageOf(error) }, 'read failed');
      return this.#failed(requests, done);
    }
    const group = this.#begin();
    this.#fetch(fetches, (error) => {
      for (const edge of edges) edge();
      if (error !== null) this.#failed(requests, done);
      else for (const request of requests) done(request, null);
      ended(group);
    });
  }

  /** One bad record is no reason to fail those that came with it: of several each is tried by itself. */
  #failed(requests: readonly BlockRequest[], done: (request: BlockRequest, error: BlockError | null) => void): void {
    if (requests.length === 1) done(requests[0]!, 'EIO');
    else for (const request of requests) this.#readSome([request], done);
  }

  /** Reads whole blocks for the engine itself (read-modify-write). */
  blocks(block: number, count: number, into: Buffer): Promise<void> {
    const fetches: Fetch[] = [];
    this.#plan(block * BLOCK_SIZE, count * BLOCK_SIZE, into, this.#parts.map.root, fetches, []);
    const group = this.#begin();
    return new Promise((resolve, reject) => {
      this.#fetch(fetches, (error) => {
        ended(group);
        if (error === null) resolve();
        else reject(error);
      });
    });
  }

  #begin(): UnderWay {
    this.#underWay.reads++;
    return this.#underWay;
  }

  /** Splits a byte range into records and zeroes. A partial block goes through a block-sized buffer, copied by an `edge`. */
  #plan(
    offset: number,
    length: number,
    into: Uint8Array,
    root: MapRoot,
    fetches: Fetch[],
    edges: (() => void)[],
  ): void {
    const end = offset + length;
    let at = offset;
    while (at < end) {
      const block = Math.floor(at / BLOCK_SIZE);
      const within = at - block * BLOCK_SIZE;
      const take = Math.min(BLOCK_SIZE - within, end - at);
      if (take === BLOCK_SIZE) {
        const whole = Math.floor((end - at) / BLOCK_SIZE);
        this.#planBlocks(block, whole, into, at - offset, root, fetches);
        at += whole * BLOCK_SIZE;
        continue;
      }
      const scratch = Buffer.alloc(BLOCK_SIZE);
      const target = at - offset;
      this.#planBlocks(block, 1, scratch, 0, root, fetches);
      edges.push(() => into.set(scratch.subarray(within, within + take), target));
      at += take;
    }
  }

  #planBlocks(block: number, count: number, into: Uint8Array, intoAt: number, root: MapRoot, fetches: Fetch[]): void {
    const { map, table } = this.#parts;
    let last: Fetch | undefined;
    for (let i = 0; i < count; i++) {
      const current = block + i;
      const page = map.page(current, root);
      const word = (current % 1024) * 2;
      const word1 = page === undefined ? 0 : page.words[word + 1]!;
      const at = intoAt + i * BLOCK_SIZE;
      if (word1 === 0) {
        into.fill(0, at, at + BLOCK_SIZE);
        last = undefined;
        continue;
      }
      const word0 = page!.words[word]!;
      const offset = placeOffset(word1);
      const slot = placeSlot(word0);
      if (last !== undefined && last.segment.slot === slot && last.offset === offset && placeIndex(word0) > 0) {
        last.count++;
        continue;
      }
      const segment = table.bySlot(slot);
      if (segment === undefined)
        throw corrupt(`block ${current} lies in segment ${table.fileOf(slot)}, which no replica has`);
      last = {
        segment,
        offset,
        length: placeLength(word1),
        block: current,
        count: 1,
        into,
        intoAt: at,
        bytes: empty,
        bytesAt: 0,
      };
      fetches.push(last);
    }
  }

  #fetch(fetches: Fetch[], done: (error: Error | null) => void): void {
    if (fetches.length === 0) return done(null);
    const port = this.#parts.sources()[0];
    if (port === undefined) return void this.#slow(fetches, done);
    port.read(ranges(fetches), (error) => {
      if (error !== null) return void this.#slow(fetches, done);
      const bad = fetches.filter((fetch) => this.#open(fetch) !== null);
      if (bad.length === 0) done(null);
      else void this.#slow(bad, done);
    });
  }

  #open(fetch: Fetch): string | null {
    return this.#kernel.open(
      this.#parts.keys,
      fetch.bytes,
      fetch.bytesAt,
      fetch.length,
      fetch.block,
      fetch.count,
      fetch.into,
      fetch.intoAt,
    );
  }

  /** Record by record, from whichever replica has it. */
  async #slow(fetches: readonly Fetch[], done: (error: Error | null) => void): Promise<void> {
    try {
      for (const fetch of fetches) await this.#fromAny(fetch);
    } catch (error) {
      this.#parts.logger.error(
        { segment: segmentFileName(fetches[0]!.segment), error: messageOf(error) },
        'read failed',
      );
      return done(error instanceof Error ? error : new Error(String(error)));
    }
    done(null);
  }

  /** While no replica can be asked the read waits, as writes do: that is a pause for the client and no error. */
  async #fromAny(fetch: Fetch): Promise<void> {
    const { reader, clock, closed, logger } = this.#parts;
    for (let wait = RECONNECT_MS.first; ; wait = Math.min(wait * 2, RECONNECT_MS.most)) {
      try {
        await reader.read(fetch.segment, fetch.offset, fetch.length, (bytes) => {
          fetch.bytes = bytes;
          fetch.bytesAt = 0;
          const fault = this.#open(fetch);
          return fault === null ? null : `record of block ${fetch.block}: ${fault}`;
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

const empty = Buffer.alloc(0);

/** Port ranges for the fetches; records that follow each other in a segment become one range. */
function ranges(fetches: Fetch[]): ReadRange[] {
  const result: ReadRange[] = [];
  let first = 0;
  while (first < fetches.length) {
    const start = fetches[first]!;
    let end = start.offset + start.length;
    let next = first + 1;
    while (next < fetches.length && fetches[next]!.segment === start.segment && fetches[next]!.offset === end)
      end += fetches[next++]!.length;
    const into = Buffer.allocUnsafe(end - start.offset);
    for (let i = first; i < next; i++) {
      fetches[i]!.bytes = into;
      fetches[i]!.bytesAt = fetches[i]!.offset - start.offset;
    }
    result.push({ segment: start.segment, offset: start.offset, into });
    first = next;
  }
  return result;
}
