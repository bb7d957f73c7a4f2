// Two servers with a client each, both at work all the time as far as they can tell; but only one of them runs, in short slices by
// turns, while the other one and its client are stopped by a signal. So both are compared within a second, neither disturbs
// the other, and what a server has put off it must do in its own next slice.
//
// Slices are short because a machine has moods of some seconds: a virtual one gives memory that is freed back to its host, say, and
// until it has it again every new page of the page cache costs ten times as much. A round is the sum of several slices of either
// side, since what goes on in the background comes in bursts.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, precondition } from '../../src/base/index.js';
import { Served } from '../micro/served.js';
import type { Processes, Started } from '../processes.js';
import { writeContent } from '../volume/content.js';
import { type FioJob, fioArguments } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import type { Workload } from '../volume/workload.js';
import { measurePairs, type Pair } from './pairs.js';

/** After a server goes on, before it is measured: caches are its own again, what was due meanwhile is done. */
const SETTLE_MS = 100;
const SLICE_MS = 250;
/** Of either side in a round. */
const SLICES = 6;
const WARM_ROUNDS = 1;
export const ROUNDS = 7;
export const ROUNDS_QUICK = 3;
/** Longer than a client is needed. */
const LOAD_SECONDS = 300;

/** What a server says of itself, all of which only grows; or how much it grew. */
export interface Usage {
  readonly ms: number;
  /** User and system time of the process. */
  readonly cpuUs: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly movedBytes: number;
  readonly reclaimedBytes: number;
}

const fields = ['ms', 'cpuUs', 'writes', 'writeBytes', 'movedBytes', 'reclaimedBytes'] as const;

function combined(a: Usage, b: Usage, combine: (a: number, b: number) => number): Usage {
  return Object.fromEntries(fields.map((field) => [field, combine(a[field], b[field])])) as Record<keyof Usage, number>;
}

/** What happened between two moments. */
export function usedBetween(before: Usage, after: Usage): Usage {
  return combined(after, before, (a, b) => a - b);
}

export function sumOf(used: readonly Usage[]): Usage {
  return used.reduce((sum, one) => combined(sum, one, (a, b) => a + b));
}

/** Writes per second. */
export const rate = ({ writes, ms }: Usage) => (writes * 1000) / ms;
/** Per write. */
export const cpuUs = (used: Usage) => used.cpuUs / used.writes;
/** Bytes moved by the cleaner per byte written. */
export const moved = (used: Usage) => used.movedBytes / Math.max(1, used.writeBytes);

export async function usageOf(server: Served): Promise<Usage> {
  return JSON.parse(await server.ask('usage')) as Usage;
}

/** A server under load. Stopped when made; end() lets it go on and ends its client. */
export class LoadedServer {
  readonly #server: Served;
  readonly #client: Started;

  /** `job` must last longer than it will be needed. */
  constructor(processes: Processes, directory: string, server: Served, job: FioJob) {
    this.#server = server;
    // One process, so that one signal stops it.
    const single = { ...job, settings: { ...job.settings, thread: 1 } };
    this.#client = processes.start('fio', fioArguments(single, join(directory, `fio-${job.name}.json`)), job.env);
    this.#signal('SIGSTOP');
  }
  #signal(signal: 'SIGSTOP' | 'SIGCONT'): void {
    for (const { pid, ended } of [this.#client, this.#server]) if (!ended) process.kill(pid, signal);
  }

  async slice(clock: Clock, ms: number): Promise<Usage> {
    this.#signal('SIGCONT');
    try {
      await clock.sleep(SETTLE_MS);
      const before = await usageOf(this.#server);
      await clock.sleep(ms);
      if (this.#client.ended) throw precondition(`fio ended in the middle: ${this.#client.lastWords()}`);
      return usedBetween(before, await usageOf(this.#server));
    } finally {
      this.#signal('SIGSTOP');
    }
  }
  async end(): Promise<void> {
    this.#signal('SIGCONT');
    await this.#client.stop();
  }
}

export interface Alternation {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly rounds: number;
}

export interface Side {
  readonly server: Served;
  readonly directory: string;
  readonly job: FioJob;
}

export interface SideOptions {
  readonly processes: Processes;
  /** For everything of this side. */
  readonly directory: string;
  readonly pool: string;
  readonly sizeBytes: number;
  readonly workload: Workload;
  /** What its volume lacks. */
  readonly without?: 'encryption' | 'compression';
}

/** An engine with one replica and a volume of its own, written in full. */
export async function startSide(options: SideOptions): Promise<Side> {
  const { processes, directory, sizeBytes, workload } = options;
  mkdirSync(directory, { recursive: true });
  const server = await Served.start(processes, directory, sizeBytes, [
    'pools',
    '1',
    options.pool,
    options.without ?? '',
  ]);
  await writeContent({ processes, directory }, server.target, sizeBytes, workload.compressiblePercent);
  const job = measureJob(workload, server.target, { sizeBytes, seconds: LOAD_SECONDS, flushLog: '' });
  return { server, directory, job };
}

/** One pair a round; the order of the two turns with every slice. */
export async function alternate(parts: Alternation, without: Side, withIt: Side): Promise<Pair<Usage>[]> {
  const { processes, clock, rounds } = parts;
  const sides: LoadedServer[] = [];
  const measured = ({ directory, server, job }: Side) => {
    const side = new LoadedServer(processes, directory, server, job);
    sides.push(side);
    return () => side.slice(clock, SLICE_MS);
  };
  try {
    const [base, loaded] = [measured(without), measured(withIt)];
    const results: Pair<Usage>[] = [];
    // In the first one clients connect, and code is compiled.
    for (let round = -WARM_ROUNDS; round < rounds; round++) {
      processes.throwIfInterrupted();
      const pairs = await measurePairs(SLICES, base, loaded);
      const sum = (side: keyof Pair) => sumOf(pairs.map((pair) => pair[side]));
      if (round >= 0) results.push({ without: sum('without'), with: sum('with') });
    }
    return results;
  } finally {
    for (const side of sides) await side.end();
  }
}
