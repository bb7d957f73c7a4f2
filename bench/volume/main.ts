// The volume bench: finds what can be measured here, runs the rounds, prints the table, keeps the results.

import { type Clock, formatBytes, precondition, type Random } from '../../src/base/index.js';
import { appendResult, currentCommit, describeMachine, rounded } from '../history.js';
import { type BenchOptions, chosen } from '../options.js';
import type { Processes } from '../processes.js';
import { HoldfastCluster, HoldfastSystem } from '../systems/holdfast.js';
import { baselines, findPeers } from '../systems/peers.js';
import { Floor, moved } from './floor.js';
import { kbenchReport } from './kbench.js';
import { type ReportInput, rateOf, report } from './report.js';
import { runRounds, WARM_UP_SECONDS } from './rounds.js';
import { kbenchWorkloads, workloads } from './workload.js';

export interface BenchRun {
  readonly options: BenchOptions;
  readonly processes: Processes;
  readonly clock: Clock;
  readonly random: Random;
  /** Empty, ours, removed by the caller. */
  readonly directory: string;
  /** Results. */
  readonly print: (text: string) => void;
  /** What is being done. */
  readonly progress: (text: string) => void;
}

/** Throws ToolMissing, with a sentence, when nothing can be driven here. */
export async function requireFio(processes: Processes): Promise<void> {
  if ((await processes.version('fio')) === undefined) {
    throw precondition('fio is not installed: install the Debian package fio', 'ToolMissing');
  }
  const engines = await processes.run('fio', ['--enghelp'], 10_000);
  if (!/\bnbd\b/.test(engines.stdout)) {
    throw precondition('this fio has no nbd engine: install the Debian package fio (3.33 or newer)', 'ToolMissing');
  }
}

export async function runVolumeBench(run: BenchRun): Promise<void> {
  const { options, processes, directory } = run;
  await requireFio(processes);
  const common = { ...run, sizeBytes: options.sizeBytes };
  const peers = await findPeers(common);
  const cluster = new HoldfastCluster(common);
  const known = [...peers.systems, ...peers.absent, { name: 'holdfast-x1' }, { name: 'holdfast-x3' }];
  const wanted = new Set(chosen('systems', known, options.systems).map(({ name }) => name));
  const ours = [new HoldfastSystem(cluster, 1), new HoldfastSystem(cluster, 3)].filter(({ name }) => wanted.has(name));
  const systems = [...peers.systems.filter(({ name }) => wanted.has(name)), ...ours];
  const absent = peers.absent.filter(({ name }) => wanted.has(name));
  const selected = chosen('workloads', options.kbench ? kbenchWorkloads : workloads, options.workloads);
  for (const { title, reason } of absent) run.progress(`${title} is left out: ${reason}`);
  const floor = new Floor(processes, directory, options.sizeBytes);
  try {
    if (ours.length > 0) {
      run.progress('starting three nodes of Holdfast');
      await cluster.start();
    }
    const samples = await runRounds({ ...options, ...run, systems, workloads: selected, floor });
    const settings = `${options.rounds} interleaved rounds of ${options.seconds} s; volumes of ${formatBytes(options.sizeBytes)}, written once in full; data 50 % compressible; a warm-up of ${WARM_UP_SECONDS} s each before.`;
    const input = { systems, absent, baselines, workloads: selected, samples, floor: floor.rates, settings };
    run.print(options.kbench ? kbenchReport(input) : report(input));
    if (options.save) run.print(`results appended to ${await keep(run, input)}\n`);
  } finally {
    await cluster.stop();
    floor.remove();
  }
}

async function keep(run: BenchRun, input: ReportInput): Promise<string> {
  const { rounds, seconds, sizeBytes } = run.options;
  const results = input.workloads.flatMap((workload) =>
    input.systems.map((system) => {
      const samples = input.samples.of(workload, system);
      const column = (pick: (sample: (typeof samples)[number]) => number) =>
        samples.map((sample) => rounded(pick(sample)));
      return {
        workload: workload.name,
        system: system.name,
        unit: workload.unit,
        rate: column((sample) => rateOf(workload, sample)),
        cpuUs: column((sample) => sample.cpuUs),
        clientCpuUs: column((sample) => sample.clientCpuUs),
        p50Us: column((sample) => sample.p50Us),
        p99Us: column((sample) => sample.p99Us),
        ...(workload.flush === 'none' ? {} : { flushP50Us: column((sample) => sample.flushP50Us) }),
      };
    }),
  );
  const floor = Object.fromEntries([...input.floor].map(([name, rates]) => [name, rates.map(rounded)]));
  return appendResult('volume', {
    format: 1,
    at: new Date(run.clock.wallMs()).toISOString(),
    commit: await currentCommit(run.processes),
    machine: await describeMachine(run.processes, run.directory, ['fio', 'nbdkit', 'qemu-nbd']),
    settings: { rounds, seconds, sizeBytes, compressiblePercent: 50, kbench: run.options.kbench },
    systems: input.systems.map(({ name, copies, flush, features }) => ({ name, copies, flush, features })),
    floor,
    floorMoved: moved(input.floor).map(({ item }) => item.name),
    verified: true,
    results,
  });
}
