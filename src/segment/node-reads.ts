// Reads of many ranges at once: by the native crate, else one after the other on this thread.
//
// Owner: the thread; one NodeReads does for all disks of it. Invariants: a file that is read is not closed before its reads have ended;
// every row is told of once. May fail: each row by itself.

import { getSystemErrorName } from 'node:util';
import { assert, corrupt } from '../base/index.js';
import type { NativeReads } from '../hotpath/index.js';
import type { DiskFile } from './disk.js';
import { diskError } from './disk-error.js';
import type { FileReads, RowsEnded } from './file-reads.js';

/** What this needs of a file of the disk. */
export interface ReadableFile extends DiskFile {
  readonly descriptor: number;
  /** Keeps the descriptor open, also if close() comes meanwhile. */
  hold(): void;
  release(): void;
}

const ROW_WORDS = 8;
/** In place of a result: the native crate will tell. */
const PENDING = -(2 ** 31);
/** Reads under way at once, and numbers told of each. */
const TOLD = 1024 * 3;

/** Rows that were not there at once. */
interface Batch {
  readonly rows: Map<number, Row>;
  readonly ended: RowsEnded;
}

interface Row {
  readonly file: ReadableFile;
  readonly position: number;
  readonly length: number;
}

export class NodeReads {
  readonly #native: NativeReads;
  readonly #reader: number;
  readonly #told = new Int32Array(TOLD);
  #bytes = new Uint8Array(64 * ROW_WORDS * 4);
  #numbers = new Float64Array(this.#bytes.buffer);
  #words = new Int32Array(this.#bytes.buffer);
  readonly #buffers: Uint8Array[] = [];
  readonly #batches = new Map<number, Batch>();
  #next = 1;

  /** `ring` false: by threads also where io_uring is to be had. */
  constructor(native: NativeReads, ring = true) {
    this.#native = native;
    this.#reader = native.openReads((count) => this.#come(count), this.#told, ring);
  }

  get byRing(): boolean {
    return this.#native.readsByRing(this.#reader);
  }

  /** See Disk.readAll(). */
  read(reads: FileReads, ended: RowsEnded): void {
    const { count } = reads;
    const buffers = this.#fill(reads);
    const pending = this.#native.readRanges(this.#reader, this.#bytes, count, this.#buffers, buffers, this.#next);
    let whole = pending === 0;
    for (let i = 0; i < count && whole; i++) whole = this.#words[i * ROW_WORDS + 6] === reads.lengths[i];
    for (let i = 0; i < buffers; i++) this.#buffers[i] = nothing;
    if (whole) {
      reads.clear();
      ended(null, null);
    } else this.#part(reads, ended);
  }

  /** Returns the number of different buffers. */
  #fill(reads: FileReads): number {
    const { count, files, positions, into, at, lengths } = reads;
    if (this.#bytes.length < count * ROW_WORDS * 4) this.#grow(count);
    const numbers = this.#numbers;
    const words = this.#words;
    const buffers = this.#buffers;
    let last = 0;
    for (let i = 0; i < count; i++) {
      if (last === 0 || buffers[last - 1] !== into[i]) buffers[last++] = into[i]!;
      const word = i * ROW_WORDS;
      numbers[i * 4] = positions[i]!;
      words[word + 2] = (files[i] as ReadableFile).descriptor;
      words[word + 3] = last - 1;
      words[word + 4] = at[i]!;
      words[word + 5] = lengths[i]!;
    }
    return last;
  }

  #grow(count: number): void {
    this.#bytes = new Uint8Array(count * 2 * ROW_WORDS * 4);
    this.#numbers = new Float64Array(this.#bytes.buffer);
    this.#words = new Int32Array(this.#bytes.buffer);
  }

  /** Some rows have failed, or are still to come. */
  #part(reads: FileReads, ended: RowsEnded): void {
    const batch: Batch = { rows: new Map(), ended };
    const results: (readonly [number, number])[] = [];
    for (let i = 0; i < reads.count; i++) {
      const file = reads.files[i] as ReadableFile;
      batch.rows.set(i, { file, position: reads.positions[i]!, length: reads.lengths[i]! });
      file.hold();
      const result = this.#words[i * ROW_WORDS + 6]!;
      if (result !== PENDING) results.push([i, result]);
    }
    reads.clear();
    if (results.length < batch.rows.size) {
      this.#batches.set(this.#next, batch);
      // Numbers come around after two billion batches that had to wait; none is that old.
      this.#next = (this.#next % 0x7fff_ffff) + 1;
    }
    tell(batch, results);
  }

  #come(count: number): void {
    const told = this.#told;
    const results = new Map<number, (readonly [number, number])[]>();
    for (let i = 0; i < count * 3; i += 3) {
      const batch = results.get(told[i]!);
      const result = [told[i + 1]!, told[i + 2]!] as const;
      if (batch === undefined) results.set(told[i]!, [result]);
      else batch.push(result);
    }
    for (const [id, rows] of results) {
      const batch = this.#batches.get(id);
      assert(batch !== undefined, 'a read is told of that was not begun');
      if (batch.rows.size === rows.length) this.#batches.delete(id);
      tell(batch, rows);
    }
  }
}

const nothing = new Uint8Array(0);

/** Those that succeeded together, the others one by one. */
function tell(batch: Batch, results: readonly (readonly [number, number])[]): void {
  const good: number[] = [];
  const failed: [number, Error][] = [];
  for (const [i, result] of results) {
    const row = batch.rows.get(i)!;
    batch.rows.delete(i);
    row.file.release();
    if (result === row.length) good.push(i);
    else failed.push([i, failure(row, result)]);
  }
  if (good.length > 0) batch.ended(null, good);
  for (const [i, error] of failed) batch.ended(error, [i]);
}

function failure({ file, position, length }: Row, result: number): Error {
  if (result >= 0) return endsTooSoon(file, position, length, result);
  const cause = Object.assign(new Error('read failed'), { code: getSystemErrorName(result) });
  return diskError(cause, 'read', file.path);
}

function endsTooSoon(file: DiskFile, position: number, length: number, count: number): Error {
  return corrupt(`${file.path} ends at byte ${position + count}, bytes to ${position + length} were asked for`);
}

/** Without the native crate: one after the other, each waited for. */
export function readOneByOne(reads: FileReads, ended: RowsEnded): void {
  const good: number[] = [];
  const failed: [number, Error][] = [];
  const { count } = reads;
  for (let i = 0; i < count; i++) {
    const [file, position, length] = [reads.files[i]!, reads.positions[i]!, reads.lengths[i]!];
    const at = reads.at[i]!;
    try {
      const read = file.read(reads.into[i]!.subarray(at, at + length), position);
      if (read === length) good.push(i);
      else failed.push([i, endsTooSoon(file, position, length, read)]);
    } catch (error) {
      failed.push([i, diskError(error, 'read', file.path)]);
    }
  }
  reads.clear();
  if (good.length === count) return ended(null, null);
  if (good.length > 0) ended(null, good);
  for (const [i, error] of failed) ended(error, [i]);
}
