// Writes ranges of one file at random, and knows at every moment what each unit of it must hold. Extents belong to writers in
// turn, and a writer has one request under way: so what was acknowledged last is what must be read, without exception.

import { constants } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { alignedBuffer } from '../../../src/platform/mount/aligned.js';
import { Contents, seededRandom } from './contents.js';
import type { LoadOptions } from './protocol.js';

const extentUnits = 64;
const readShare = 0.3;
const flushShare = 0.06;
const verifyBytes = 1 << 20;

export interface Pace {
  /** Resolves when so many bytes more may be written. */
  take(bytes: number): Promise<void>;
  answered(kind: 'write' | 'read' | 'flush'): void;
  readonly stopped: boolean;
}

/** A write under way. */
interface Pending {
  readonly first: number;
  readonly count: number;
  readonly serial: number;
}

export class RangeWriters {
  readonly #options: LoadOptions;
  readonly #contents: Contents;
  readonly #units: number;
  /** By unit: the serial of its last acknowledged write. */
  readonly #serials: Uint32Array;
  readonly #next: number[];
  readonly #pending: (Pending | undefined)[];
  /** By unit: the serial of a write that may or may not have happened. */
  readonly #uncertain = new Map<number, number>();
  /** By unit: the serial of such a write that was found not to have happened. */
  readonly #refuted = new Map<number, number>();
  #path: string;
  #write: FileHandle | undefined;
  #read: FileHandle | undefined;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#contents = new Contents(options.unitBytes, options.seed);
    this.#units = Math.floor(options.bytes / options.unitBytes / extentUnits) * extentUnits;
    this.#serials = new Uint32Array(this.#units);
    this.#next = Array.from({ length: options.writers }, () => 1);
    this.#pending = this.#next.map(() => undefined);
    this.#path = options.path;
  }

  #owner(unit: number): number {
    return Math.floor(unit / extentUnits) % this.#options.writers;
  }

  async open(): Promise<void> {
    const direct = this.#options.direct ? constants.O_DIRECT : 0;
    this.#write = await open(this.#path, constants.O_RDWR | constants.O_CREAT | direct, 0o600);
    this.#read = await open(this.#path, constants.O_RDONLY | constants.O_DIRECT);
    // A regular file has its full length at once, so that its holes read as zeroes.
    if ((await this.#write.stat()).isFile()) await this.#write.truncate(this.#units * this.#options.unitBytes);
  }

  async close(): Promise<void> {
    await this.#write?.close();
    await this.#read?.close();
    this.#write = undefined;
    this.#read = undefined;
  }

  /** What is under way at the old path may have happened or not. Its files are closed once `ended` resolves. */
  move(path: string, ended: Promise<unknown>): void {
    for (const pending of this.#pending) {
      for (let i = 0; i < (pending?.count ?? 0); i++) this.#uncertain.set(pending!.first + i, pending!.serial);
    }
    this.#pending.fill(undefined);
    this.#path = path;
    const former = [this.#write, this.#read];
    // A device that failed says so once more.
    void ended.then(() => Promise.allSettled(former.map((file) => file?.close())));
    this.#write = undefined;
    this.#read = undefined;
  }

  /** One writer, until the pace says stop. */
  async run(writer: number, pace: Pace, round: number): Promise<void> {
    const { requestUnits, unitBytes, writers, seed } = this.#options;
    const random = seededRandom(seed * 1_000 + writer * 100 + round);
    const buffer = alignedBuffer(requestUnits * unitBytes + 2 * 4096);
    const extents = Math.floor(this.#units / extentUnits / writers);
    while (!pace.stopped) {
      const extent = Math.floor(random() * extents) * writers + writer;
      // Small requests are the most frequent, and every length occurs.
      const count = Math.max(1, Math.ceil(requestUnits * random() ** 6));
      const first = extent * extentUnits + Math.floor(random() * (extentUnits - count + 1));
      if (random() < readShare) {
        await this.#checkRange(first, count, buffer);
        pace.answered('read');
        continue;
      }
      await pace.take(count * unitBytes);
      if (pace.stopped) return;
      const serial = this.#next[writer]!++;
      for (let i = 0; i < count; i++) this.#contents.fill(buffer, i * unitBytes, first + i, { writer, serial });
      this.#pending[writer] = { first, count, serial };
      const { bytesWritten } = await this.#write!.write(buffer, 0, count * unitBytes, first * unitBytes);
      if (bytesWritten !== count * unitBytes)
        throw new Error(`a write of ${count * unitBytes} bytes took ${bytesWritten}`);
      pace.answered('write');
      // After a move the place may be taken by a write at the new path.
      if (this.#pending[writer]?.serial !== serial) return this.#lateSuccess({ first, count, serial });
      this.#pending[writer] = undefined;
      this.#serials.fill(serial, first, first + count);
      if (random() < flushShare) {
        await this.#write!.datasync();
        pace.answered('flush');
      }
    }
  }

  /** Reads whole 4 KiB blocks around the range, as O_DIRECT wants it, and checks the range. */
  async #checkRange(first: number, count: number, buffer: Buffer): Promise<void> {
    const { unitBytes } = this.#options;
    const path = this.#path;
    const asked = this.#serials.slice(first, first + count);
    const from = Math.floor((first * unitBytes) / 4096) * 4096;
    const to = Math.ceil(((first + count) * unitBytes) / 4096) * 4096;
    const { bytesRead } = await this.#read!.read(buffer, 0, to - from, from);
    if (bytesRead !== to - from)
      throw new Error(`a read of ${to - from} bytes at ${from} of ${path} brought ${bytesRead}`);
    for (let unit = first; unit < first + count; unit++) {
      const at = unit * unitBytes - from;
      // A read at the old path that is answered after the move shows what stood there when it was asked.
      const late = this.#path !== path;
      if (!late) this.#decide(unit, buffer, at);
      const serial = (late ? asked[unit - first] : this.#serials[unit])!;
      const wrong = this.#contents.check(buffer, at, unit, { writer: this.#owner(unit), serial });
      if (wrong !== null) throw new Error(`wrong bytes in ${path}: ${wrong}`);
    }
  }

  /** The first look after a move settles whether an unanswered write happened. */
  #decide(unit: number, buffer: Buffer, at: number): void {
    const serial = this.#uncertain.get(unit);
    if (serial === undefined) return;
    const happened = this.#contents.check(buffer, at, unit, { writer: this.#owner(unit), serial }) === null;
    if (happened) this.#serials[unit] = serial;
    else this.#refuted.set(unit, serial);
    this.#uncertain.delete(unit);
  }

  /** A write at the old path was answered with success after the move. */
  #lateSuccess({ first, count, serial }: Pending): void {
    for (let unit = first; unit < first + count; unit++) {
      if (this.#refuted.get(unit) === serial) {
        throw new Error(
          `write ${serial} of unit ${unit} was acknowledged late, but had not been found at the new path`,
        );
      }
      if (this.#uncertain.get(unit) !== serial) continue;
      this.#serials[unit] = serial;
      this.#uncertain.delete(unit);
    }
  }

  /** Everything, also what was never written. Returns the bytes that were checked. */
  async verify(): Promise<number> {
    const perRead = Math.floor(verifyBytes / this.#options.unitBytes);
    const buffer = alignedBuffer(verifyBytes + 2 * 4096);
    for (let unit = 0; unit < this.#units; unit += perRead) {
      await this.#checkRange(unit, Math.min(perRead, this.#units - unit), buffer);
    }
    return this.#units * this.#options.unitBytes;
  }
}
