// The volume bench: finds what can be measured here, runs the rounds, prints the table, keeps the results.

import { formatBytes } from '../../src/base/index.js';
import { chosen } from '../options.js';
import { Publication } from '../publish.js';
import type { BenchRun } from '../run.js';
import { HoldfastSystem, holdfast, securedHoldfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { baselines, findPeers } from '../systems/peers.js';
import { requireFio } from './fio.js';
import { Floor } from './floor.js';
import { kbenchReport } from './kbench.js';
import { canDropPageCache } from './page-cache.js';
import { report } from './report.js';
import { runRounds, WARM_UP_SECONDS } from './rounds.js';
import { kbenchWorkloads, type Workload, workloads } from './workload.js';

/** What is measured unless workloads are named. */
const usual = ['w4k-q1', 'w4k-q1-flush', 'w4k-q32', 'w4k-q32-flush', 'r4k-q1', 'r4k-q32', 'w128k-q8', 'r128k-q8'];

function selectWorkloads({ options }: BenchRun): Workload[] {
  const { kbench, compressiblePercent } = options;
  const wanted = options.workloads.length > 0 || kbench ? options.workloads : usual;
  const selected = chosen('workloads', kbench ? kbenchWorkloads : workloads, wanted);
  return selected
    .filter((workload) => !workload.cold || canDropPageCache())
    .map((workload) => ({ ...workload, compressiblePercent }));
}

export async function runVolumeBench(run: BenchRun): Promise<void> {
  const { options, processes, directory } = run;
  await requireFio(processes);
  const common = { ...run, sizeBytes: options.sizeBytes };
  const peers = await findPeers(common);
  const cluster = new HoldfastCluster(run);
  const secured = new HoldfastCluster({ ...run, tls: true });
  const plain = [1, 3].map((copies) => new HoldfastSystem(cluster, holdfast(copies), options.sizeBytes));
  const tls = new HoldfastSystem(secured, securedHoldfast(3), options.sizeBytes);
  const own = [...plain, tls];
  const known = [...peers.systems, ...peers.absent, ...own];
  const wanted = new Set(chosen('systems', known, options.systems).map(({ name }) => name));
  const ours = own.filter(({ name }) => wanted.has(name));
  const systems = [...peers.systems.filter(({ name }) => wanted.has(name)), ...ours];
  const absent = peers.absent.filter(({ name }) => wanted.has(name));
  const selected = selectWorkloads(run);
  for (const { title, reason } of absent) run.progress(`${title} is left out: ${reason}`);
  const leftOut = absent.map(({ title }) => title);
  const publication = await Publication.begin(run, 'volume', leftOut);
  const floor = new Floor(processes, directory, options.sizeBytes);
  try {
    if (plain.some((system) => ours.includes(system))) {
      run.progress('starting three nodes of Holdfast');
      await cluster.start();
    }
    if (ours.includes(tls)) {
      run.progress('starting three nodes of Holdfast with certificates');
      await secured.start();
    }
    const samples = await runRounds({ ...options, ...run, systems, workloads: selected, floor });
    const settings = `${options.rounds} interleaved rounds of ${options.seconds} s; volumes of ${formatBytes(options.sizeBytes)}, written once in full; data ${options.compressiblePercent} % compressible; a warm-up of ${WARM_UP_SECONDS} s each before.`;
    const input = { systems, absent, baselines, workloads: selected, samples, floor: floor.rates, settings };
    run.print(options.kbench ? kbenchReport(input) : report(input));
    run.print(`${publication.conditions(floor.rates)}\n`);
    const { rounds, seconds, sizeBytes, compressiblePercent, kbench } = options;
    await publication.conclude(floor.rates, leftOut, {
      settings: { rounds, seconds, sizeBytes, compressiblePercent, kbench },
      systems: systems.map(({ name, copies, flush, features }) => ({ name, copies, flush, features })),
      results: samples.summary(),
    });
  } finally {
    for (const system of peers.systems) await system.close();
    await cluster.stop();
    await secured.stop();
    floor.remove();
  }
}
