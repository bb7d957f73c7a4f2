// Makes, replaces, reads and deletes small files, each change durable before the next: work for a filesystem's journal. What
// was acknowledged by fsync of file and folder must be there, under its name, whole.

import { constants } from 'node:fs';
import { mkdir, open, readdir, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { Contents, seededRandom } from './contents.js';
import type { Pace } from './range-writer.js';

const unitBytes = 512;
const slots = 64;
const unitsMax = 64;
const writer = 1_000;

export class FileWriter {
  readonly #folder: string;
  readonly #seed: number;
  readonly #contents: Contents;
  /** By slot: what its file holds; absent without a file. */
  readonly #files = new Map<number, { readonly serial: number; readonly units: number }>();
  #next = 1;

  constructor(folder: string, seed: number) {
    this.#folder = folder;
    this.#seed = seed;
    this.#contents = new Contents(unitBytes, seed + 7);
  }

  get count(): number {
    return this.#files.size;
  }

  async run(pace: Pace, round: number): Promise<void> {
    const random = seededRandom(this.#seed * 77 + round);
    await mkdir(this.#folder, { recursive: true });
    while (!pace.stopped) {
      const slot = Math.floor(random() * slots);
      const what = random();
      if (what < 0.25) await this.#check(slot);
      else if (what < 0.35) await this.#delete(slot);
      else await this.#replace(slot, Math.ceil(random() * unitsMax), pace);
      pace.answered(what < 0.25 ? 'read' : 'write');
    }
  }

  #path(slot: number): string {
    return join(this.#folder, `file-${slot}`);
  }

  async #syncFolder(): Promise<void> {
    const handle = await open(this.#folder, constants.O_RDONLY);
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }

  async #replace(slot: number, units: number, pace: Pace): Promise<void> {
    await pace.take(units * unitBytes);
    const serial = this.#next++;
    const bytes = Buffer.alloc(units * unitBytes);
    for (let i = 0; i < units; i++) this.#contents.fill(bytes, i * unitBytes, slot * unitsMax + i, { writer, serial });
    const temporary = `${this.#path(slot)}.new`;
    const handle = await open(temporary, 'w', 0o600);
    try {
      await handle.write(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, this.#path(slot));
    await this.#syncFolder();
    this.#files.set(slot, { serial, units });
  }

  async #delete(slot: number): Promise<void> {
    if (!this.#files.has(slot)) return;
    await unlink(this.#path(slot));
    await this.#syncFolder();
    this.#files.delete(slot);
  }

  async #check(slot: number): Promise<void> {
    const file = this.#files.get(slot);
    if (!file) return;
    const handle = await open(this.#path(slot), 'r');
    try {
      const bytes = await handle.readFile();
      if (bytes.length !== file.units * unitBytes) {
        throw new Error(`${this.#path(slot)} has ${bytes.length} bytes, ${file.units * unitBytes} were synced`);
      }
      for (let i = 0; i < file.units; i++) {
        const expected = { writer, serial: file.serial };
        const wrong = this.#contents.check(bytes, i * unitBytes, slot * unitsMax + i, expected);
        if (wrong !== null) throw new Error(`wrong bytes in ${this.#path(slot)}: ${wrong}`);
      }
    } finally {
      await handle.close();
    }
  }

  /** All files, and that there are no others. */
  async verify(): Promise<number> {
    const found = (await readdir(this.#folder)).filter((name) => !name.endsWith('.new'));
    const expected = [...this.#files.keys()].map((slot) => `file-${slot}`);
    if (found.sort().join() !== expected.sort().join()) {
      throw new Error(`${this.#folder} holds ${found.join(' ')}; ${expected.join(' ')} were synced`);
    }
    for (const slot of this.#files.keys()) await this.#check(slot);
    return this.#files.size;
  }
}
