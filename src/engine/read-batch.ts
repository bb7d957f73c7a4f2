// What one port call fetches: columns, one row for each record; no object per record. Owner: ReadPath. Records that follow each
// other in a segment lie side by side in the scratch buffer, too, so they become one range. Nearly always all rows end within the
// call; else the batch notes which have ended.

import type { Slab } from './read-scratch.js';
import type { ReadRange } from './replica-port.js';
import type { TableEntry } from './segment-table.js';

/** Everything about one row, for the ways on which cost does not count. */
export interface ReadRow {
  readonly segment: TableEntry;
  readonly offset: number;
  readonly length: number;
  readonly block: number;
  readonly count: number;
  readonly into: Uint8Array;
  readonly intoAt: number;
  readonly request: number;
}

export class ReadBatch {
  count = 0;
  /** Bytes of scratch that its records take. */
  bytes = 0;
  readonly segments: TableEntry[] = [];
  readonly offsets: number[] = [];
  /** Stored lengths, as the map says. */
  readonly lengths: number[] = [];
  /** First block wanted of each record, and how many. */
  readonly blocks: number[] = [];
  readonly counts: number[] = [];
  /** Where they go. */
  readonly into: Uint8Array[] = [];
  readonly intoAt: number[] = [];
  /** Where each record lies in the scratch buffer. */
  readonly at: number[] = [];
  /** Index of the request that asked for it. */
  readonly requests: number[] = [];
  /** Where the rows are read into, from byte `from` on, while ranges are under way. */
  slab: Slab | null = null;
  from = 0;
  /** Ranges and rows that have not ended. A row has when it was opened, or nobody could give it. */
  fetching = 0;
  open = 0;
  /** The call has returned before all rows ended: their requests are answered as they end. */
  late = false;
  /** First row of each range. */
  readonly #firsts: number[] = [];
  /** Rows that ended while others had not; empty otherwise. */
  readonly #ended: boolean[] = [];

  add(
    segment: TableEntry,
    offset: number,
    length: number,
    block: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
    request: number,
  ): void {
    const i = this.count++;
    this.segments[i] = segment;
    this.offsets[i] = offset;
    this.lengths[i] = length;
    this.blocks[i] = block;
    this.counts[i] = count;
    this.into[i] = into;
    this.intoAt[i] = intoAt;
    this.at[i] = this.bytes;
    this.requests[i] = request;
    this.bytes += length;
  }

  row(i: number): ReadRow {
    return {
      segment: this.segments[i]!,
      offset: this.offsets[i]!,
      length: this.lengths[i]!,
      block: this.blocks[i]!,
      count: this.counts[i]!,
      into: this.into[i]!,
      intoAt: this.intoAt[i]!,
      request: this.requests[i]!,
    };
  }

  /** The port ranges of all rows, which begin to be read into `slab`. */
  ranges(slab: Slab): ReadRange[] {
    const result: ReadRange[] = [];
    const { count, segments, offsets, lengths, at } = this;
    const base = slab.end - this.bytes;
    this.slab = slab;
    this.from = base;
    let first = 0;
    while (first < count) {
      const segment = segments[first]!;
      const offset = offsets[first]!;
      let end = offset + lengths[first]!;
      let next = first + 1;
      while (next < count && segments[next] === segment && offsets[next] === end) end += lengths[next++]!;
      const from = base + at[first]!;
      this.#firsts[result.length] = first;
      result.push({ segment, offset, into: slab.bytes.subarray(from, from + end - offset) });
      first = next;
    }
    this.fetching = result.length;
    return result;
  }

  /** The rows of some of the ranges; of all of them, when none are named. */
  rowsOf(ranges?: readonly number[]): number[] {
    const rows: number[] = [];
    if (ranges === undefined) for (let row = 0; row < this.count; row++) rows.push(row);
    else this.#rowsIn(ranges, rows);
    return rows;
  }

  #rowsIn(ranges: readonly number[], rows: number[]): void {
    for (const range of ranges) {
      const end = this.#firsts[range + 1] ?? this.count;
      for (let row = this.#firsts[range]!; row < end; row++) rows.push(row);
    }
  }

  /** A row ended before others. */
  rowEnded(i: number): void {
    this.#ended[i] = true;
    this.open--;
  }

  hasEnded(i: number): boolean {
    return this.#ended[i] === true;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
    this.late = false;
    this.#firsts.length = 0;
    this.#ended.length = 0;
    // Destinations belong to replies, which must not be kept alive by an idle batch.
    this.into.length = 0;
  }
}
