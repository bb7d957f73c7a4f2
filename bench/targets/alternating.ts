// Two servers with a client each, both at work all the time as far as they can tell; but only one of them runs, in short slices by
// turns, while the other one and its client are stopped by a signal. So both are compared within two seconds, neither disturbs
// the other, and what a server has put off it must do in its own next slice.

import { join } from 'node:path';
import type { Clock } from '../../src/base/index.js';
import type { Served } from '../micro/served.js';
import type { Processes, Started } from '../processes.js';
import { type FioJob, fioArguments } from '../volume/fio.js';
import { measurePairs, type Pair } from './pairs.js';

/** After a server goes on, before it is measured: caches are its own again, what was due meanwhile is done. */
const SETTLE_MS = 300;
const SLICE_MS = 1_000;
const WARM_PAIRS = 2;
const QUICK_MS = 500;

/** What a server says of itself; all of it only grows. */
export interface Usage {
  readonly ms: number;
  /** User and system time of the process. */
  readonly cpuUs: number;
  readonly writes: number;
  readonly writeBytes: number;
  readonly movedBytes: number;
  readonly reclaimedBytes: number;
}

export interface Slice {
  /** Writes per second. */
  readonly rate: number;
  /** Per write. */
  readonly cpuUs: number;
  /** Bytes moved by the cleaner per byte written. */
  readonly moved: number;
}

export function sliceOf(before: Usage, after: Usage): Slice {
  const writes = after.writes - before.writes;
  return {
    rate: (writes * 1000) / (after.ms - before.ms),
    cpuUs: (after.cpuUs - before.cpuUs) / writes,
    moved: (after.movedBytes - before.movedBytes) / Math.max(1, after.writeBytes - before.writeBytes),
  };
}

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

  async slice(clock: Clock, ms: number): Promise<Slice> {
    this.#signal('SIGCONT');
    try {
      await clock.sleep(SETTLE_MS);
      const before = await usageOf(this.#server);
      await clock.sleep(ms);
      return sliceOf(before, await usageOf(this.#server));
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
  readonly quick: boolean;
  readonly pairs: number;
}

export interface Side {
  readonly server: Served;
  readonly directory: string;
  readonly job: FioJob;
}

/** Pairs of slices, the order turned each time. */
export async function alternate(parts: Alternation, without: Side, withIt: Side): Promise<Pair<Slice>[]> {
  const { processes, clock, quick, pairs } = parts;
  const sides: LoadedServer[] = [];
  const measured = ({ directory, server, job }: Side) => {
    const side = new LoadedServer(processes, directory, server, job);
    sides.push(side);
    return () => side.slice(clock, quick ? QUICK_MS : SLICE_MS);
  };
  try {
    const [base, loaded] = [measured(without), measured(withIt)];
    // Clients connect in their first slices, and code is compiled.
    await measurePairs(WARM_PAIRS, base, loaded);
    return await measurePairs(pairs, base, loaded);
  } finally {
    for (const side of sides) await side.end();
  }
}
