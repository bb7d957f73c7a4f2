// Reads the records that one burst of moves needs, and verifies each. Owner: the mover; one burst at a time.
//
// From the nearest replica all at once, records that lie side by side as one range. What that one has not, or not intact, is taken from
// the others, as any reader of the log does. The bytes lie in memory that is used again: copies of them go into frames in the turn in which
// the burst goes out.

import { HoldfastError } from '../base/index.js';
import {
  decodeEntry,
  entryKind,
  placeIndex,
  placeLength,
  placeOffset,
  placeSlot,
  readRecordHeader,
} from '../format/index.js';
import { MOVE_BURST_BYTES, MOVE_READ_BYTES } from './limits.js';
import type { LogReader } from './log-reader.js';
import { NOT_READ, type PieceList } from './record-list.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** Pieces some[first..end) of a burst, which lie side by side. */
interface Range {
  readonly segment: TableEntry;
  readonly offset: number;
  length: number;
  /** Where it is read to. */
  readonly at: number;
  readonly first: number;
  end: number;
}

/** Told of segments of which no replica has everything intact. */
export type Damaged = (segment: TableEntry, error: HoldfastError) => void;

/** Kept by the thread for the next burst of any volume: fresh memory costs a page fault for each 4 KiB. */
let spare: Buffer | undefined;
const SPARE_BYTES = MOVE_BURST_BYTES + MOVE_READ_BYTES;

const nothing: Buffer = Buffer.alloc(0);

export class PieceReader {
  readonly #reader: LogReader;
  readonly #table: SegmentTable;
  /** In which PieceList.at says where each piece's record is. */
  bytes: Buffer = nothing;

  constructor(reader: LogReader, table: SegmentTable) {
    this.#reader = reader;
    this.#table = table;
  }

  /** Nothing of a burst is needed any more. */
  clear(): void {
    if (this.bytes.length === SPARE_BYTES) spare = this.bytes;
    this.bytes = nothing;
  }

  /** Reads the records of these pieces. Those of which no replica has an intact copy stay as not read. */
  async read(pieces: PieceList, some: Uint32Array, damaged: Damaged): Promise<void> {
    const ranges = this.#ranges(pieces, some);
    const last = ranges[ranges.length - 1];
    if (last === undefined) return;
    this.#take(last.at + last.length);
    let from = 0;
    while (from < ranges.length) {
      const start = ranges[from]!.at;
      let to = from;
      while (to < ranges.length && to - from < RANGES_AT_ONCE && ranges[to]!.at - start < MOVE_READ_BYTES) to++;
      await this.#fill(ranges.slice(from, to), pieces, some, damaged);
      from = to;
    }
  }

  #take(bytes: number): void {
    if (bytes > SPARE_BYTES) this.bytes = Buffer.allocUnsafeSlow(bytes);
    else {
      this.bytes = spare ?? Buffer.allocUnsafeSlow(SPARE_BYTES);
      spare = undefined;
    }
  }

  #ranges(pieces: PieceList, some: Uint32Array): Range[] {
    const ranges: Range[] = [];
    let last: Range | undefined;
    let bytes = 0;
    for (let n = 0; n < some.length; n++) {
      const i = some[n]!;
      const slot = placeSlot(pieces.word0[i]!);
      const offset = placeOffset(pieces.word1[i]!);
      const end = offset + placeLength(pieces.word1[i]!);
      if (last === undefined || last.segment.slot !== slot || !adjoins(last, offset, end)) {
        const segment = this.#table.bySlot(slot);
        if (segment === undefined) continue;
        last = { segment, offset, length: 0, at: bytes, first: n, end: n };
        ranges.push(last);
      }
      last.length = Math.max(last.length, end - last.offset);
      last.end = n + 1;
      bytes = last.at + last.length;
      pieces.at[i] = last.at + offset - last.offset;
    }
    return ranges;
  }

  async #fill(ranges: readonly Range[], pieces: PieceList, some: Uint32Array, damaged: Damaged): Promise<void> {
    const { bytes } = this;
    const filled = await this.#reader.fill(
      ranges.map(({ segment, offset, length, at }) => ({ segment, offset, into: bytes.subarray(at, at + length) })),
    );
    for (const range of ranges) {
      if (filled && faultIn(bytes, range.at, range, pieces, some) === null) continue;
      const { segment, offset, length, at } = range;
      try {
        const intact = await this.#reader.read(segment, offset, length, (found) =>
          faultIn(found, 0, range, pieces, some),
        );
        intact.copy(bytes, at);
      } catch (error) {
        if (!(error instanceof HoldfastError) || error.code !== 'DATA_LOSS') throw error;
        for (let n = range.first; n < range.end; n++) pieces.at[some[n]!] = NOT_READ;
        damaged(segment, error);
      }
    }
  }
}

/** A port takes no more in one call, whatever their length. */
const RANGES_AT_ONCE = 512;

/** What lies apart is not read along: a call for each range costs less than the bytes between them. */
function adjoins(range: Range, offset: number, end: number): boolean {
  return offset >= range.offset && offset <= range.offset + range.length && end - range.offset <= MOVE_READ_BYTES;
}

/** What is wrong with the records of a range that was read to byte `start`; null: nothing. */
function faultIn(bytes: Buffer, start: number, range: Range, pieces: PieceList, some: Uint32Array): string | null {
  for (let n = range.first; n < range.end; n++) {
    const i = some[n]!;
    const fault = recordFault(bytes, start + pieces.at[i]! - range.at, pieces, i);
    if (fault !== null) return fault;
  }
  return null;
}

function recordFault(bytes: Buffer, at: number, pieces: PieceList, i: number): string | null {
  const index = placeIndex(pieces.word0[i]!);
  const block = pieces.blocks[i]! - index;
  const head = decodeEntry(bytes, at, at + placeLength(pieces.word1[i]!));
  if (typeof head === 'string') return `record of block ${block}: ${head}`;
  if (head.kind !== entryKind.record) return `an entry of kind ${head.kind} where a record of block ${block} was`;
  const found = readRecordHeader(bytes, at);
  const run = pieces.runs[i]!;
  if (found?.block !== block || (pieces.isPart(i) ? found.run < index + run : found.run !== run))
    return `another record where that of block ${block} was`;
  return null;
}
