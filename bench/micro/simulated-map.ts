// A volume whose map says that every block of it is written, though hardly any is: what a full volume of any size costs to attach
// and to keep open, without its data. Pages, their table, the checkpoints in the log and their reading back are the engine's own;
// only the records that the entries name are all one and the same.
//
//   simulated-map.js build DIR SIZE_BYTES          makes it in a pool below DIR; prints {"pages", "dirtyPages"}
//   simulated-map.js open DIR SIZE_BYTES SECONDS   opens it and writes at random for so long; prints {"openMs", "allocatedBytes",
//                                                  "openedRss", "workedRss", "writes"}

import { readFileSync } from 'node:fs';
import { BLOCK_SIZE, messageOf, realClock } from '../../src/base/index.js';
import type { BlockRequest, Engine } from '../../src/engine/index.js';
import { PAGE_ENTRIES } from '../../src/format/index.js';
import { BlockMap } from '../../src/hotpath/index.js';
import { openOnPools, type PoolVolume } from './pool-rig.js';
import { sampleBlocks, seeded } from './sample-data.js';

const RUN = 8;
/** Pages that are filled between two looks at what waits to be written. */
const PAGES_BETWEEN = 256;
/** More than an engine lets wait before it writes a checkpoint; and when there is room again. */
const DIRTY_MOST = 18_000;
const DIRTY_SHARE = 0.8;
const DIRTY_LEFT = 4_000;
const DIRTY_AT_END = 64;
const CHUNK = 128 * 1024;
/** Written between two looks: a checkpoint lets 64 MiB of log pass. */
const LAST_CHUNKS = 64;
const POLL_MS = 20;
const WAIT_MS = 120_000;
const DEPTH = 32;

function volumeOf(sizeBytes: number, epoch: number): PoolVolume {
  // A plain one: keys have no part in what is measured here.
  return { replicas: 1, sizeBytes, encrypted: false, compression: 'lz4', epoch };
}

function write(engine: Engine, offset: number, data: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const complete = (error: string | null) => (error === null ? resolve() : reject(new Error(`write: ${error}`)));
    const { length } = data;
    const request: BlockRequest = {
      op: 'write',
      offset,
      length,
      fua: false,
      data,
      dataAt: 0,
      cancelled: false,
      complete,
    };
    engine.submit([request]);
  });
}

interface Captured {
  readonly map: BlockMap;
  readonly word0: number;
  readonly word1: number;
}

/** The engine's own map, and a place that is real: both are seen when the first block is written. */
async function capture(engine: Engine): Promise<Captured> {
  const original = BlockMap.prototype.setRun;
  let captured: Captured | undefined;
  BlockMap.prototype.setRun = function (this: BlockMap, block: number, run: number, word0: number, word1: number) {
    captured = { map: this, word0, word1 };
    original.call(this, block, run, word0, word1);
  };
  try {
    await write(engine, 0, sampleBlocks(1, 0));
  } finally {
    BlockMap.prototype.setRun = original;
  }
  if (captured === undefined) throw new Error('a write did not reach the map');
  return captured;
}

/** Writes some of the log from time to time: a commit looks whether a checkpoint is due. */
async function until(engine: Engine, test: () => boolean, what: string, chunks: number): Promise<void> {
  const deadline = realClock.monotonicMs() + WAIT_MS;
  const chunk = sampleBlocks(CHUNK / BLOCK_SIZE, 0);
  while (!test()) {
    for (let i = 0; i < chunks; i++) await write(engine, i * CHUNK, chunk);
    if (realClock.monotonicMs() > deadline) throw new Error(`not within ${WAIT_MS / 1000} s: ${what}`);
    await realClock.sleep(POLL_MS);
  }
}

async function build(directory: string, sizeBytes: number): Promise<object> {
  const { engine, close } = await openOnPools(directory, volumeOf(sizeBytes, 1));
  const { map, word0, word1 } = await capture(engine);
  const pages = sizeBytes / BLOCK_SIZE / PAGE_ENTRIES;
  const slot = (word0 & 0xffffff) >>> 0;
  for (let page = 0; page < pages; page++) {
    for (let at = 0; at < PAGE_ENTRIES; at += RUN) map.setRun(page * PAGE_ENTRIES + at, RUN, word0, word1);
    map.stored(slot, PAGE_ENTRIES / RUN, PAGE_ENTRIES);
    if (page % PAGES_BETWEEN !== 0) continue;
    await write(engine, 0, sampleBlocks(1, 0));
    if (map.dirtyPages > DIRTY_MOST || map.dirtyShare > DIRTY_SHARE)
      await until(engine, () => map.dirtyPages < DIRTY_LEFT, 'pages of the map are written', 1);
  }
  // A checkpoint is due when so much log lies behind the one before, wherever that lay.
  await until(engine, () => map.dirtyPages <= DIRTY_AT_END, 'the last pages of the map are written', LAST_CHUNKS);
  const { dirtyPages } = map;
  await close();
  return { pages, dirtyPages };
}

function memory(field: 'VmRSS' | 'VmHWM'): number {
  const text = readFileSync('/proc/self/status', 'utf8');
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1] ?? 0) * 1024;
}

async function open(directory: string, sizeBytes: number, seconds: number): Promise<object> {
  const startMs = realClock.monotonicMs();
  const { engine, close } = await openOnPools(directory, volumeOf(sizeBytes, 2));
  const openMs = realClock.monotonicMs() - startMs;
  const { allocatedBytes } = engine.status();
  const openedRss = memory('VmRSS');
  const next = seeded(3);
  const blocks = sizeBytes / BLOCK_SIZE;
  const endMs = realClock.monotonicMs() + seconds * 1000;
  let writes = 0;
  const writer = async () => {
    while (realClock.monotonicMs() < endMs) {
      await write(engine, (next() % blocks) * BLOCK_SIZE, sampleBlocks(1, 50));
      writes++;
    }
  };
  await Promise.all(Array.from({ length: DEPTH }, writer));
  const workedRss = memory('VmHWM');
  await close();
  return { openMs, allocatedBytes, openedRss, workedRss, writes };
}

const [what, directory, size, seconds] = process.argv.slice(2);
if (directory === undefined || size === undefined || (what !== 'build' && what !== 'open')) {
  process.stderr.write('usage: simulated-map.js build DIR SIZE_BYTES | open DIR SIZE_BYTES SECONDS\n');
  process.exit(2);
}
try {
  const result =
    what === 'build' ? await build(directory, Number(size)) : await open(directory, Number(size), Number(seconds ?? 1));
  process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n`, () => process.exit(1));
}
