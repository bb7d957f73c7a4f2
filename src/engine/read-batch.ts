// What one port call fetches: columns, one row for each record; no object per record. Owner: ReadPath. Records that follow each
// other in a segment lie side by side in the scratch buffer, too, so they become one range.

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

  /** The port ranges of all rows, into `scratch` (at least `bytes` long). */
  ranges(scratch: Buffer): ReadRange[] {
    const result: ReadRange[] = [];
    const { count, segments, offsets, lengths, at } = this;
    let first = 0;
    while (first < count) {
      const segment = segments[first]!;
      const offset = offsets[first]!;
      let end = offset + lengths[first]!;
      let next = first + 1;
      while (next < count && segments[next] === segment && offsets[next] === end) end += lengths[next++]!;
      const from = at[first]!;
      result.push({ segment, offset, into: scratch.subarray(from, from + end - offset) });
      first = next;
    }
    return result;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
    // Destinations belong to replies, which must not be kept alive by an idle batch.
    this.into.length = 0;
  }
}
