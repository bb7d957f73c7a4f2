// A write load that checks itself, and two watchers beside it: how long a write had to wait at most, and which replicas
// the engine counts as in sync.

import { createHash, randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { BLOCK_SIZE, type Clock, HoldfastError, KiB, MiB, type VolumeId } from '../../base/index.js';
import type { Exec } from '../../platform/index.js';
import type { Cluster } from './cluster.js';
import type { VolumeView } from './view.js';

export interface LoadResult {
  readonly bytes: number;
  readonly description: string;
}

const fioBytes = 24 * MiB;
const fioBytesPerSecond = 4 * MiB;
const fioTimeoutMs = 180_000;

/** Random writes at a fixed rate with direct I/O, then everything is read back and its checksums compared. */
export async function runFio(exec: Exec, directory: string): Promise<LoadResult> {
  const file = join(directory, 'fio.bin');
  const job = {
    name: 'demo',
    filename: file,
    ioengine: 'psync',
    direct: 1,
    rw: 'randwrite',
    bs: '16k',
    size: fioBytes,
    rate: fioBytesPerSecond,
    fsync: 64,
    verify: 'crc32c',
    verify_fatal: 1,
    do_verify: 1,
    'output-format': 'json',
  };
  const args = Object.entries(job).map(([key, value]) => `--${key}=${value}`);
  await exec.run('fio', args, { timeoutMs: fioTimeoutMs });
  return { bytes: fioBytes, description: 'fio: random 16 KiB writes, then a read of all with crc32c' };
}

const copyBytes = 256 * KiB;
const copyNames = 64;
const copyPauseMs = 25;

/** The same without fio: one file after the other is written anew, for `durationMs`; then all are read back. */
export async function runCopies(
  view: VolumeView,
  durationMs: number,
  clock: Clock,
  signal: AbortSignal,
): Promise<LoadResult> {
  const endMs = clock.monotonicMs() + durationMs;
  const expected = new Map<string, string>();
  let bytes = 0;
  for (let turn = 0; clock.monotonicMs() < endMs; turn++) {
    signal.throwIfAborted();
    const data = randomBytes(copyBytes);
    const name = `load/${turn % copyNames}`;
    await view.put(name, data, { durable: turn % 8 === 0 });
    expected.set(name, createHash('sha256').update(data).digest('hex'));
    bytes += data.length;
    await clock.sleep(copyPauseMs, signal);
  }
  for (const [name, sum] of expected) {
    if ((await view.hash(name)) !== sum) throw new HoldfastError('DATA_LOSS', `${name} is not what was written`);
  }
  return { bytes, description: 'a copy loop: files of 256 KiB, then a read of all with SHA-256' };
}

export interface Pauses {
  readonly longestMs: number;
  readonly medianMs: number;
  readonly writes: number;
}

const pulsePauseMs = 50;

/** Writes one block durably, again and again, until `stop` aborts. */
export async function watchPauses(view: VolumeView, clock: Clock, stop: AbortSignal): Promise<Pauses> {
  const times: number[] = [];
  while (!stop.aborted) {
    const sinceMs = clock.monotonicMs();
    await view.put('pulse', Buffer.alloc(BLOCK_SIZE, times.length), { durable: true });
    times.push(clock.monotonicMs() - sinceMs);
    await clock.sleep(pulsePauseMs, stop).catch(() => {});
  }
  times.sort((a, b) => a - b);
  return { longestMs: times.at(-1) ?? 0, medianMs: times[times.length >> 1] ?? 0, writes: times.length };
}

export interface SetSize {
  readonly atMs: number;
  readonly inSync: number;
}

const samplePauseMs = 40;

/** Each size of the in-sync set and when it was first seen, until `stop` aborts; growing while this runs. */
export class SetWatcher {
  readonly sizes: SetSize[] = [];
  readonly #cluster: Cluster;
  readonly #clock: Clock;

  constructor(cluster: Cluster, clock: Clock) {
    this.#cluster = cluster;
    this.#clock = clock;
  }

  get latest(): number {
    return this.sizes.at(-1)?.inSync ?? 0;
  }

  async run(node: string, volumeId: VolumeId, stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      const engine = await this.#cluster.engine(node, volumeId);
      const inSync = engine?.replicas.filter(({ state }) => state === 'in-sync').length;
      if (inSync !== undefined && inSync !== this.sizes.at(-1)?.inSync) {
        this.sizes.push({ atMs: this.#clock.monotonicMs(), inSync });
      }
      await this.#clock.sleep(samplePauseMs, stop).catch(() => {});
    }
  }

  /** Resolves to the time at which the set had `inSync` members, from `sinceMs` on. */
  async reached(inSync: number, sinceMs: number, timeoutMs: number, signal: AbortSignal): Promise<number> {
    const endMs = this.#clock.monotonicMs() + timeoutMs;
    for (;;) {
      const found = this.sizes.find((size) => size.inSync === inSync && size.atMs >= sinceMs);
      if (found) return found.atMs;
      if (this.#clock.monotonicMs() > endMs) {
        const seen = this.sizes.map((size) => size.inSync).join(', ');
        const text = `the in-sync set did not come to ${inSync} within ${timeoutMs / 1000} s (seen: ${seen})`;
        throw new HoldfastError('DEADLINE_EXCEEDED', text, { reason: 'NotInSync' });
      }
      await this.#clock.sleep(samplePauseMs, signal);
    }
  }
}
