// The rounds: in each, the machine's floor, then every workload on every system that it is for back to back, the order turned
// by one each time, then every system's content verified. Owner: one run. Nothing that was measured is dropped.

import { cpuSecondsOfEach, machineTicks } from '../cpu-time.js';
import { rounded } from '../history.js';
import type { Processes } from '../processes.js';
import type { BenchSystem } from '../systems/system.js';
import { checkContent, writeContent } from './content.js';
import { type FioResult, runFio } from './fio.js';
import type { Floor } from './floor.js';
import { measureJob, writeFlushLog } from './jobs.js';
import { dropPageCache } from './page-cache.js';
import { type Workload, writes } from './workload.js';

export interface Sample extends FioResult {
  readonly round: number;
  /** Of all the system's processes, in microseconds per operation. */
  readonly cpuUs: number;
  /** Of the machine's CPU time, what was not idle. */
  readonly busyShare?: number;
  /** CPU time of each role that the system tells apart. */
  readonly roles?: Readonly<Record<string, number>>;
}

/** Samples by workload and system. */
export class Samples {
  readonly #all = new Map<string, Sample[]>();

  add(workload: Pick<Workload, 'name'>, system: Pick<BenchSystem, 'name'>, sample: Sample): void {
    const key = `${workload.name} ${system.name}`;
    const list = this.#all.get(key);
    if (list) list.push(sample);
    else this.#all.set(key, [sample]);
  }
  of(workload: Pick<Workload, 'name'>, system: Pick<BenchSystem, 'name'>): readonly Sample[] {
    return this.#all.get(`${workload.name} ${system.name}`) ?? [];
  }
  /** Everything, for the history. */
  summary(): object[] {
    return [...this.#all].map(([key, samples]) => {
      const [workload, system] = key.split(' ');
      const column = (pick: (sample: Sample) => number) => samples.map((sample) => rounded(pick(sample)));
      return {
        workload,
        system,
        iops: column((sample) => sample.iops),
        mbPerSecond: column((sample) => sample.mbPerSecond),
        cpuUs: column((sample) => sample.cpuUs),
        clientCpuUs: column((sample) => sample.clientCpuUs),
        p50Us: column((sample) => sample.p50Us),
        p99Us: column((sample) => sample.p99Us),
        flushP50Us: column((sample) => sample.flushP50Us),
      };
    });
  }
}

export interface RoundsOptions {
  readonly processes: Processes;
  readonly directory: string;
  readonly rounds: number;
  readonly seconds: number;
  readonly sizeBytes: number;
  readonly workloads: readonly Workload[];
  readonly systems: readonly BenchSystem[];
  /** Which workloads a system is measured with; absent: all. */
  readonly measures?: (workload: Workload, system: BenchSystem) => boolean;
  /** Absent: not measured again. */
  readonly floor: Floor | null;
  readonly progress: (text: string) => void;
}

const SYNC_MS = 120_000;
const FLUSH_EVERY = 32;

/** Compilers, caches and allocators of all systems are warm after it; nothing of it is kept. */
const WARM_UP_ROUND = -1;
export const WARM_UP_SECONDS = 1;

export async function runRounds(options: RoundsOptions): Promise<Samples> {
  const { directory, floor, progress } = options;
  const samples = new Samples();
  progress('preparing');
  await floor?.prepare();
  const logged = options.workloads.some(({ flush }) => flush === 'each-depth');
  const flushLog = logged ? await writeFlushLog(directory, options.sizeBytes, options.seconds, FLUSH_EVERY) : '';
  for (let round = WARM_UP_ROUND; round < options.rounds; round++) await runRound(options, round, flushLog, samples);
  return samples;
}

async function runRound(options: RoundsOptions, round: number, flushLog: string, samples: Samples): Promise<void> {
  const { sizeBytes, systems } = options;
  const name = round === WARM_UP_ROUND ? 'warm-up' : `round ${round + 1} of ${options.rounds}`;
  const progress = (text: string) => options.progress(`${name}: ${text}`);
  if (round !== WARM_UP_ROUND && options.floor !== null) {
    progress("the machine's floor");
    await settle(options);
    await options.floor.measure();
  }
  for (const system of systems) {
    progress(`filling ${system.title}`);
    await system.open();
    await writeContent(options, system.target(), sizeBytes);
  }
  const workloads = round === WARM_UP_ROUND ? options.workloads.filter(warmsUp) : options.workloads;
  for (const [index, workload] of workloads.entries()) {
    const measured = systems.filter((system) => options.measures?.(workload, system) ?? true);
    for (let turn = 0; turn < measured.length; turn++) {
      const system = measured[(turn + round + index + measured.length) % measured.length]!;
      progress(`${workload.title}: ${system.title}`);
      const sample = await measureOne(options, round, workload, system, flushLog);
      if (round !== WARM_UP_ROUND) samples.add(workload, system, sample);
    }
  }
  for (const system of systems) {
    progress(`verifying ${system.title}`);
    await checkContent(options, system.target(), sizeBytes);
    await system.close();
  }
}

/** The rest of the workloads takes the same ways. */
function warmsUp({ depth, cold }: Workload): boolean {
  return depth > 1 && !cold;
}

async function measureOne(
  options: RoundsOptions,
  round: number,
  workload: Workload,
  system: BenchSystem,
  flushLog: string,
): Promise<Sample> {
  const { processes, directory, sizeBytes } = options;
  const seconds = round === WARM_UP_ROUND ? WARM_UP_SECONDS : options.seconds;
  await settle(options);
  if (workload.cold) await dropPageCache();
  const job = measureJob(workload, system.target(), { sizeBytes, seconds, flushLog });
  const roles = Object.entries(system.roles?.() ?? {});
  const sets = [system.pids(), ...roles.map(([, pids]) => pids)];
  const machine = machineTicks();
  const before = cpuSecondsOfEach(sets);
  const result = await runFio(processes, directory, job);
  const used = cpuSecondsOfEach(sets).map((seconds, i) => ((seconds - before[i]!) * 1e6) / result.operations);
  const { all, idle } = machineTicks();
  const busyShare = 1 - (idle - machine.idle) / Math.max(1, all - machine.all);
  if (writes(workload)) await settle(options);
  return {
    ...result,
    round,
    cpuUs: used[0]!,
    busyShare,
    roles: Object.fromEntries(roles.map(([role], i) => [role, used[i + 1]!])),
  };
}

/** Dirty pages of one system must not be written during the turn of another. */
async function settle(options: Pick<RoundsOptions, 'processes' | 'directory'>): Promise<void> {
  await options.processes.run('sync', ['--file-system', options.directory], SYNC_MS);
}
