// What the machine itself can do right now, on one file beside the data: measured anew in every round, since ratios between
// systems mean little when the ground moved under them.

import { closeSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Processes } from '../processes.js';
import { movement } from '../statistics.js';
import { bufferSettings, runFio } from './fio.js';

export interface FloorItem {
  readonly name: string;
  readonly title: string;
  readonly settings: Readonly<Record<string, string | number>>;
}

const direct = { ioengine: 'libaio', direct: 1, bs: 4096, norandommap: 1, randrepeat: 0 };

export const floorItems: readonly FloorItem[] = [
  // One block, over and over: no allocation, no journal, the device's own sync.
  {
    name: 'sync',
    title: 'fdatasync of 4 KiB',
    settings: { ioengine: 'psync', rw: 'write', bs: 4096, size: 4096, fdatasync: 1 },
  },
  { name: 'write-q1', title: 'O_DIRECT 4 KiB write, QD 1', settings: { ...direct, rw: 'randwrite', iodepth: 1 } },
  { name: 'write-q32', title: 'O_DIRECT 4 KiB write, QD 32', settings: { ...direct, rw: 'randwrite', iodepth: 32 } },
  { name: 'read-q1', title: 'O_DIRECT 4 KiB read, QD 1', settings: { ...direct, rw: 'randread', iodepth: 1 } },
  { name: 'read-q32', title: 'O_DIRECT 4 KiB read, QD 32', settings: { ...direct, rw: 'randread', iodepth: 32 } },
];

/** More than this between rounds, and the ratios of the run are not to be published. */
export const MOVEMENT_MAX = 0.2;

export class Floor {
  readonly #processes: Processes;
  readonly #directory: string;
  readonly #sizeBytes: number;
  readonly #file: string;
  /** Operations per second by item, one a round. */
  readonly rates = new Map<string, number[]>();

  constructor(processes: Processes, directory: string, sizeBytes: number) {
    this.#processes = processes;
    this.#directory = directory;
    this.#sizeBytes = sizeBytes;
    this.#file = join(directory, 'floor.img');
  }

  /** Writes the file in full. Throws when its filesystem has no O_DIRECT (tmpfs): choose another --dir then. */
  async prepare(): Promise<void> {
    closeSync(openSync(this.#file, 'w'));
    const settings = {
      ...bufferSettings,
      ioengine: 'libaio',
      direct: 1,
      rw: 'write',
      bs: 1 << 20,
      iodepth: 4,
      end_fsync: 1,
    };
    await this.#run('fill', { ...settings, size: this.#sizeBytes }, 30);
  }

  async measure(seconds: number): Promise<void> {
    for (const { name, settings } of floorItems) {
      const timed = { size: this.#sizeBytes, ...settings, runtime: seconds, time_based: 1 };
      const result = await this.#run(name, timed, seconds);
      const rates = this.rates.get(name) ?? [];
      this.rates.set(name, [...rates, result.iops]);
    }
  }

  #run(name: string, settings: Readonly<Record<string, string | number>>, seconds: number) {
    return runFio(this.#processes, this.#directory, {
      name: `floor-${name}`,
      settings: { filename: this.#file, ...settings },
      seconds,
    });
  }

  remove(): void {
    rmSync(this.#file, { force: true });
  }
}

export function moved(rates: ReadonlyMap<string, readonly number[]>): { item: FloorItem; by: number }[] {
  return floorItems
    .map((item) => ({ item, by: movement(rates.get(item.name) ?? []) }))
    .filter(({ by }) => by > MOVEMENT_MAX);
}
