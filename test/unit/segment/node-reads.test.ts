// Reads of many ranges of real files, through io_uring, through threads, and without the native crate.

import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError } from '../../../src/base/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { FileReads, NodeDisk, readOneByOne } from '../../../src/segment/index.js';
import { NodeReads } from '../../../src/segment/node-reads.js';

const native = nativeBinding();
const ways: Record<string, { read: typeof readOneByOne }> = {
  'one by one': { read: readOneByOne },
  ...(native === null ? {} : { ring: new NodeReads(native, true), threads: new NodeReads(native, false) }),
};
const MiB = 1024 * 1024;

const disk = new NodeDisk();
let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'node-reads-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

/** A file of which every 4 bytes say where they are. */
function made(name: string, bytes: number): string {
  const path = join(directory, name);
  const words = new Uint32Array(bytes / 4);
  for (let i = 0; i < words.length; i++) words[i] = i * 4;
  writeFileSync(path, words);
  return path;
}

/** Has the kernel forget what it holds of a file. */
function forget(path: string): void {
  const fd = openSync(path, 'r+');
  fsyncSync(fd);
  closeSync(fd);
  execFileSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
}

interface Told {
  readonly errors: (Error | null)[];
  /** Rows whose end was told before the call returned. */
  readonly atOnce: number;
  readonly calls: number;
}

/** Every row is told of exactly once. */
function all(way: { read: typeof readOneByOne }, reads: FileReads): Promise<Told> {
  const errors: (Error | null | undefined)[] = new Array(reads.count).fill(undefined);
  let left = reads.count;
  let calls = 0;
  let atOnce = -1;
  return new Promise((resolve, reject) => {
    const end = () => resolve({ errors: errors as (Error | null)[], atOnce, calls });
    way.read(reads, (error, rows) => {
      calls++;
      for (const row of rows ?? errors.keys()) {
        if (errors[row] !== undefined) reject(new Error(`row ${row} was told of twice`));
        errors[row] = error;
        left--;
      }
      if (left === 0 && atOnce >= 0) end();
    });
    atOnce = errors.length - left;
    if (left === 0) end();
  });
}

function check(into: Buffer, at: number, length: number, position: number): void {
  for (let i = 0; i < length; i += 4)
    if (into.readUInt32LE(at + i) !== position + i)
      throw new Error(`byte ${position + i} is not what was written there`);
}

describe.each(Object.entries(ways))('reads %s', (name, way) => {
  it('what is in memory at once, with one call', async () => {
    const file = disk.openFile(made('a', MiB), 'read');
    const reads = new FileReads();
    const into = Buffer.alloc(40 * 2000);
    for (let i = 0; i < 40; i++) reads.add(file, i * 20_000, into, i * 2000, 2000);
    expect(await all(way, reads)).toEqual({ errors: new Array(40).fill(null), atOnce: 40, calls: 1 });
    expect([reads.count, reads.into.length]).toEqual([0, 0]);
    for (let i = 0; i < 40; i++) check(into, i * 2000, 2000, i * 20_000);
    file.close();
  });

  it('more from disk than may be under way, out of two files into many buffers, that are closed and deleted meanwhile', async () => {
    const paths = [made('a', 12 * MiB), made('b', 12 * MiB)];
    for (const path of paths) forget(path);
    const files = paths.map((path) => disk.openFile(path, 'read'));
    const reads = new FileReads();
    const buffers: Buffer[] = [];
    for (let i = 0; i < 2500; i++) {
      buffers[i] = Buffer.alloc(4096);
      reads.add(files[i % 2]!, ((i * 2741) % 3000) * 4096 + 64, buffers[i]!, 0, 4000);
    }
    const told = all(way, reads);
    for (const file of files) file.close();
    for (const path of paths) unlinkSync(path);
    // A number that was let go of would now name something else.
    const others = Array.from({ length: 8 }, (_, i) => disk.openFile(join(directory, `other${i}`), 'create'));
    const { errors, atOnce } = await told;
    expect(errors.every((error) => error === null)).toBe(true);
    for (let i = 0; i < 2500; i++) check(buffers[i]!, 0, 4000, ((i * 2741) % 3000) * 4096 + 64);
    if (name !== 'one by one') expect(atOnce).toBeLessThan(2500);
    for (const other of others) other.close();
  });

  it('every row by itself: errors, the end of a file, and what is beyond it', async () => {
    const path = made('a', 64 * 1024);
    forget(path);
    truncateSync(path, 60_000);
    const file = disk.openFile(path, 'read');
    const folder = disk.openFile(directory, 'read');
    const reads = new FileReads();
    const into = Buffer.alloc(5 * 4096);
    reads.add(file, 8192, into, 0, 4096);
    reads.add(folder, 0, into, 4096, 4096);
    reads.add(file, 59_000, into, 8192, 4096);
    reads.add(file, 70_000, into, 12_288, 4096);
    reads.add(file, 20_000, into, 16_384, 4096);
    const { errors } = await all(way, reads);
    check(into, 0, 4096, 8192);
    check(into, 16_384, 4096, 20_000);
    check(into, 8192, 1000, 59_000);
    const told = errors.map((error) => (error instanceof HoldfastError ? `${error.code} ${error.message}` : error));
    expect(told).toEqual([
      null,
      `INVALID_ARGUMENT read ${directory}: it is a directory (EISDIR)`,
      `DATA_LOSS ${path} ends at byte 60000, bytes to 63096 were asked for`,
      `DATA_LOSS ${path} ends at byte 70000, bytes to 74096 were asked for`,
      null,
    ]);
    file.close();
    folder.close();
  });
});

it.skipIf(native === null)('begins another read out of the call that tells of one', async () => {
  const path = made('a', 8 * MiB);
  const way = new NodeReads(native!);
  const file = disk.openFile(path, 'read');
  for (let round = 0; round < 5; round++) {
    forget(path);
    let left = 300;
    await new Promise<void>((resolve, reject) => {
      const next = (at: number) => {
        const reads = new FileReads();
        const into = Buffer.alloc(65_536);
        reads.add(file, at, into, 0, 65_536);
        way.read(reads, (error) => {
          if (error !== null) return reject(error);
          check(into, 0, 65_536, at);
          if (--left === 0) resolve();
          else if (left >= 32) next((left * 4096 * 31) % (7 * MiB));
        });
      };
      for (let i = 0; i < 32; i++) next(i * 131_072);
    });
  }
  file.close();
});

it.skipIf(native === null)('a thread may end while its reads are under way', async () => {
  const path = made('a', 16 * MiB);
  const loader = join(import.meta.dirname, '../../../src/hotpath/native/target/release/libholdfast_native.so');
  const code = `
    const { workerData } = require('node:worker_threads');
    const loaded = { exports: {} };
    process.dlopen(loaded, workerData.loader);
    const fd = require('node:fs').openSync(workerData.path, 'r');
    const rows = new Uint8Array(32 * 1000);
    const into = new Uint8Array(4096 * 1000);
    for (let i = 0; i < 1000; i++) {
      new Float64Array(rows.buffer)[i * 4] = i * 16384;
      new Uint32Array(rows.buffer).set([fd, 0, i * 4096, 4096], i * 8 + 2);
    }
    const reader = loaded.exports.openReads(() => {}, new Int32Array(3072), workerData.ring);
    const pending = loaded.exports.readRanges(reader, rows, 1000, [into], 1, 7);
    require('node:worker_threads').parentPort.postMessage(pending);
    process.exit(0);`;
  let underWay = 0;
  for (const ring of [true, false, true, false]) {
    forget(path);
    const worker = new Worker(code, { eval: true, workerData: { loader, path, ring } });
    worker.on('message', (pending: number) => {
      underWay += pending;
    });
    expect(await new Promise((resolve) => worker.on('exit', resolve))).toBe(0);
  }
  expect(underWay).toBeGreaterThan(100);
});

it.skipIf(native === null)('or be ended from outside in the middle of a call', { timeout: 60_000 }, async () => {
  const loader = join(import.meta.dirname, '../../../src/hotpath/native/target/release/libholdfast_native.so');
  // No read of this file ends in the call: the ring's queue is filled while memory is still being held.
  const code = `
    const { parentPort, workerData } = require('node:worker_threads');
    const loaded = { exports: {} };
    process.dlopen(loaded, workerData);
    const { openReads, readRanges } = loaded.exports;
    const fd = require('node:fs').openSync('/proc/version', 'r');
    const rows = new Uint8Array(32 * 32);
    const into = Array.from({ length: 32 }, () => new Uint8Array(64));
    for (let i = 0; i < 32; i++) new Uint32Array(rows.buffer).set([fd, i, 0, 16], i * 8 + 2);
    let left = 0;
    const again = () => (left = readRanges(reader, rows, 32, into, 32, 7));
    const reader = openReads((count) => (left -= count) === 0 && again(), new Int32Array(3072), true);
    again();
    parentPort.postMessage('reads');`;
  for (let i = 0; i < 60; i++) {
    const worker = new Worker(code, { eval: true, workerData: loader });
    await new Promise((resolve) => worker.once('message', resolve));
    await new Promise((resolve) => setTimeout(resolve, (i * 7) % 10));
    const late = new Promise((resolve) => setTimeout(resolve, 5_000, 'it does not end'));
    expect(await Promise.race([worker.terminate(), late])).toBe(1);
  }
});

it.skipIf(native === null)('refuses rows that reach beyond their memory, and begins none of them', () => {
  const told = new Int32Array(3072);
  const reader = native!.openReads(() => {}, told, false);
  const rows = new Uint8Array(64);
  const words = new Uint32Array(rows.buffer);
  const into = new Uint8Array(4096);
  words.set([0, 0, 0, 4097], 2);
  expect(() => native!.readRanges(reader, rows, 1, [into], 1, 1)).toThrow('no room');
  words.set([0, 1, 0, 1], 2);
  expect(() => native!.readRanges(reader, rows, 1, [into], 1, 1)).toThrow('no room');
  expect(() => native!.readRanges(reader, rows, 3, [into], 1, 1)).toThrow('fewer rows');
  expect(() => native!.readRanges(reader, rows, 1, [rows], 1, 1)).toThrow('memory of their own');
  expect(() => native!.readRanges(reader + 1, rows, 1, [into], 1, 1)).toThrow('no such reader');
  expect(() => native!.openReads(() => {}, new Int32Array(10), true)).toThrow('3072');
});
