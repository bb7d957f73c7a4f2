// What the machine itself can do right now, on files beside the data: measured anew in every round, since ratios between
// systems mean little when the ground moved under them.

import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import type { Processes } from '../processes.js';
import { spreadOf } from '../statistics.js';
import { bufferSettings, COMPRESSIBLE_PERCENT, runFio } from './fio.js';

type Settings = Readonly<Record<string, string | number>>;

export interface FloorItem {
  readonly name: string;
  readonly title: string;
  /** Files that are written in parallel; the rate is that of one of them. */
  readonly files: number;
  readonly settings: Settings;
}

const direct = { ioengine: 'libaio', direct: 1, bs: 4096, norandommap: 1, randrepeat: 0 };
/** 4 KiB behind 4 KiB in files that were written in full before: no allocation, no journal; what a log can do at best. */
const synced = { ioengine: 'psync', rw: 'write', bs: 4096, size: 16 * MiB, fdatasync: 1 };

export const floorItems: readonly FloorItem[] = [
  { name: 'sync', title: 'write and fdatasync of 4 KiB, one file', files: 1, settings: synced },
  { name: 'sync-3', title: 'the same, three files in parallel, each', files: 3, settings: synced },
  {
    name: 'write-q1',
    title: 'O_DIRECT 4 KiB random write, QD 1',
    files: 1,
    settings: { ...direct, rw: 'randwrite', iodepth: 1 },
  },
  {
    name: 'write-q32',
    title: 'O_DIRECT 4 KiB random write, QD 32',
    files: 1,
    settings: { ...direct, rw: 'randwrite', iodepth: 32 },
  },
  {
    name: 'read-q1',
    title: 'O_DIRECT 4 KiB random read, QD 1',
    files: 1,
    settings: { ...direct, rw: 'randread', iodepth: 1 },
  },
  {
    name: 'read-q32',
    title: 'O_DIRECT 4 KiB random read, QD 32',
    files: 1,
    settings: { ...direct, rw: 'randread', iodepth: 32 },
  },
];

/** Further than this from the median in any round, and the machine was not steady. */
export const MOVEMENT_MAX = 0.2;

const FILES = 3;
const RUNS = 3;
const RUN_MS = 500;

export class Floor {
  readonly #processes: Processes;
  readonly #directory: string;
  readonly #sizeBytes: number;
  /** Operations per second by item, one a round. */
  readonly rates = new Map<string, number[]>();

  constructor(processes: Processes, directory: string, sizeBytes: number) {
    this.#processes = processes;
    this.#directory = directory;
    this.#sizeBytes = sizeBytes;
  }

  #path(index: number): string {
    return join(this.#directory, `floor.${index}`);
  }

  /** Writes the files in full. Throws when their filesystem has no O_DIRECT (tmpfs): choose another --dir then. */
  async prepare(): Promise<void> {
    const data = bufferSettings(COMPRESSIBLE_PERCENT);
    for (let file = 0; file < FILES; file++) {
      closeSync(openSync(this.#path(file), 'w'));
      const size = file === 0 ? this.#sizeBytes : synced.size;
      const fill = { ...data, ioengine: 'libaio', direct: 1, rw: 'write', bs: 1 << 20, iodepth: 4, end_fsync: 1, size };
      await this.#run(`fill-${file}`, { ...fill, filename: this.#path(file) }, 30);
    }
  }

  /** A few short runs of each item; the best one counts: what disturbs one of them is not the machine's floor. */
  async measure(): Promise<void> {
    for (const { name, files, settings } of floorItems) {
      const place: Settings =
        files === 1
          ? { filename: this.#path(0) }
          : {
              directory: this.#directory,
              filename_format: 'floor.$jobnum',
              numjobs: files,
              group_reporting: 1,
            };
      const timed = { size: this.#sizeBytes, ...settings, ...place, runtime: `${RUN_MS}ms`, time_based: 1 };
      let best = 0;
      for (let run = 0; run < RUNS; run++) {
        const { iops } = await this.#run(name, timed, RUN_MS / 1000);
        best = Math.max(best, iops / files);
      }
      const rates = this.rates.get(name) ?? [];
      this.rates.set(name, [...rates, best]);
    }
  }

  #run(name: string, settings: Settings, seconds: number) {
    return runFio(this.#processes, this.#directory, { name: `floor-${name}`, settings, seconds });
  }

  remove(): void {
    for (let file = 0; file < FILES; file++) rmSync(this.#path(file), { force: true });
  }
}

/** The farthest that any round lay from the median, as a fraction of it. */
export function movementOf(rates: readonly number[]): number {
  const spread = spreadOf(rates);
  if (spread === undefined || spread.median === 0) return 0;
  return Math.max(spread.most - spread.median, spread.median - spread.least) / spread.median;
}

export interface Movement {
  readonly item: FloorItem;
  /** As a fraction of the median. */
  readonly by: number;
}

export function movements(rates: ReadonlyMap<string, readonly number[]>): Movement[] {
  return floorItems.map((item) => ({ item, by: movementOf(rates.get(item.name) ?? []) }));
}

export function moved(rates: ReadonlyMap<string, readonly number[]>): Movement[] {
  return movements(rates).filter(({ by }) => by > MOVEMENT_MAX);
}

/** A sentence about the machine during a run whose floor was measured. */
export function steadiness(rates: ReadonlyMap<string, readonly number[]>): string {
  const farthest = movements(rates).reduce((a, b) => (b.by > a.by ? b : a));
  const text = `floor moved by ${Math.round(farthest.by * 100)} % (${farthest.item.title})`;
  if (farthest.by <= MOVEMENT_MAX) return `steady machine: ${text}`;
  const bound = `${Math.round(MOVEMENT_MAX * 100)} % is the most of a steady one`;
  return `unsteady machine: ${text}; ${bound}: go by ratios and CPU time, and by their spread`;
}
