// The engine without NBD: batches handed to submit() as the NBD server would, replicas in pools on disk, all but the first
// over loopback TCP, and everything in this process. So the figure is what a request costs all nodes together.

import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { BLOCK_SIZE } from '../../src/base/index.js';
import type { BlockRequest, Engine } from '../../src/engine/index.js';
import { median } from '../statistics.js';
import { newVolume, openOnPools } from './pool-rig.js';
import type { PrimitiveResult } from './primitives.js';
import { sampleBlocks, seeded } from './sample-data.js';

const VOLUME_BLOCKS = 16 * 1024;
const SAMPLES = 7;
const TURNS_BETWEEN = 8;

interface EngineCase {
  readonly name: string;
  readonly replicas: number;
  readonly op: 'read' | 'write';
  /** Requests handed over together; the next batch follows when all are done. */
  readonly batch: number;
  readonly blocks: number;
}

export const cases: readonly EngineCase[] = [
  { name: 'engine write 4 KiB, one at a time', replicas: 1, op: 'write', batch: 1, blocks: 1 },
  { name: 'engine write 4 KiB, batches of 32', replicas: 1, op: 'write', batch: 32, blocks: 1 },
  { name: 'engine write 4 KiB, batches of 32, 3 replicas', replicas: 3, op: 'write', batch: 32, blocks: 1 },
  { name: 'engine write 4 KiB, one at a time, 3 replicas', replicas: 3, op: 'write', batch: 1, blocks: 1 },
  { name: 'engine write 128 KiB, batches of 8', replicas: 1, op: 'write', batch: 8, blocks: 32 },
  { name: 'engine write 128 KiB, batches of 8, 3 replicas', replicas: 3, op: 'write', batch: 8, blocks: 32 },
  { name: 'engine read 4 KiB, one at a time', replicas: 1, op: 'read', batch: 1, blocks: 1 },
  { name: 'engine read 4 KiB, batches of 32', replicas: 1, op: 'read', batch: 32, blocks: 1 },
  { name: 'engine read 128 KiB, batches of 8', replicas: 1, op: 'read', batch: 8, blocks: 32 },
];

/** Hands over `batch` requests and resolves when all are complete. */
function turn(engine: Engine, what: EngineCase, data: Buffer, next: () => number): Promise<void> {
  const length = what.blocks * BLOCK_SIZE;
  return new Promise((resolve, reject) => {
    let left = what.batch;
    const requests: BlockRequest[] = [];
    for (let i = 0; i < what.batch; i++) {
      const first = (next() % (VOLUME_BLOCKS / what.blocks)) * what.blocks;
      requests.push({
        op: what.op,
        offset: first * BLOCK_SIZE,
        length,
        fua: false,
        data,
        dataAt: i * length,
        cancelled: false,
        complete(error) {
          if (error !== null) reject(new Error(`${what.op} failed: ${error}`));
          else if (--left === 0) resolve();
        },
      });
    }
    engine.submit(requests);
  });
}

export async function measureCase(what: EngineCase, directory: string, budgetMs: number): Promise<PrimitiveResult> {
  const place = mkdtempSync(join(directory, 'engine-'));
  const { engine, close } = await openOnPools(place, newVolume(what.replicas, VOLUME_BLOCKS * BLOCK_SIZE));
  const next = seeded(5);
  const data = sampleBlocks(what.batch * what.blocks, 50);
  const fill = { ...what, op: 'write' as const, batch: 1, blocks: VOLUME_BLOCKS / 64 };
  const pages = sampleBlocks(fill.blocks, 50);
  for (let i = 0; i < 64; i++) await turn(engine, fill, pages, () => i);
  const cpuUs = () => {
    const { user, system } = process.cpuUsage();
    return user + system;
  };
  const spend = async (ms: number): Promise<number> => {
    const start = cpuUs();
    let turns = 0;
    do {
      // Asking for the time costs a system call, which one small request must not carry.
      for (let i = 0; i < TURNS_BETWEEN; i++) await turn(engine, what, data, next);
      turns += TURNS_BETWEEN;
    } while (cpuUs() - start < ms * 1000);
    return (cpuUs() - start) / turns / what.batch;
  };
  await spend(budgetMs / 2);
  const samples: number[] = [];
  for (let i = 0; i < SAMPLES; i++) samples.push(await spend(budgetMs / SAMPLES));
  await close();
  rmSync(place, { recursive: true, force: true });
  const bytes = what.blocks * BLOCK_SIZE;
  const middle = median(samples);
  return {
    name: what.name,
    unit: 'request',
    cpuUs: [middle, Math.min(...samples), Math.max(...samples)],
    mbPerSecond: bytes / middle,
  };
}

export async function measureEngine(directory: string, budgetMs: number): Promise<PrimitiveResult[]> {
  const results: PrimitiveResult[] = [];
  for (const what of cases) results.push(await measureCase(what, directory, budgetMs));
  return results;
}
