// Reads of files that begin together: columns, a row for each read, used again and again.

import type { SegmentName } from '../format/index.js';
import type { DiskFile } from './disk.js';

/** Bytes of a log, and where they go: the whole of `into` is filled. */
export interface LogRange {
  readonly segment: SegmentName;
  readonly offset: number;
  readonly into: Uint8Array;
}

/**
 * Told of rows that ended, all with the same error or none: as soon as they did, each once. `rows` null: all of them, and it is the
 * only call. Calls may come before the reading function returns.
 */
export type RowsEnded = (error: Error | null, rows: readonly number[] | null) => void;

export class FileReads {
  count = 0;
  readonly files: DiskFile[] = [];
  readonly positions: number[] = [];
  /** The bytes into[at .. at + length) are filled. */
  readonly into: Uint8Array[] = [];
  readonly at: number[] = [];
  readonly lengths: number[] = [];

  add(file: DiskFile, position: number, into: Uint8Array, at: number, length: number): void {
    const i = this.count++;
    this.files[i] = file;
    this.positions[i] = position;
    this.into[i] = into;
    this.at[i] = at;
    this.lengths[i] = length;
  }

  /** Lets go of files and memory. */
  clear(): void {
    this.count = 0;
    this.files.length = 0;
    this.into.length = 0;
  }
}
