// The micro bench: the parts of the hot path, then the NBD server alone and with an engine on memory replicas, driven by fio
// from outside so that the served process's CPU time is its own.

import { resolve } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { cpuSecondsOf } from '../cpu-time.js';
import { rounded } from '../history.js';
import { Publication, ROUNDS_MIN } from '../publish.js';
import type { BenchRun } from '../run.js';
import { short } from '../statistics.js';
import { renderTable } from '../table.js';
import { type FioResult, requireFio, runFio } from '../volume/fio.js';
import { fillJob, measureJob } from '../volume/jobs.js';
import { type Workload, workloads } from '../volume/workload.js';
import { budgetTable, measureBudgets } from './budget.js';
import { measureEngine } from './engine.js';
import { measure, type PrimitiveResult, primitives } from './primitives.js';
import { Served } from './served.js';

const SERVED_BYTES = 256 * MiB;
const PRIMITIVE_MS = 300;
const ENGINE_MS = 1_400;

const served = [
  { title: 'NBD server over memory', args: ['memory'] },
  { title: 'engine, 1 replica in memory', args: ['engine', '1'] },
  { title: 'engine, 3 replicas in memory', args: ['engine', '3'] },
] as const;

const measured = ['w4k-q1', 'w4k-q32', 'r4k-q1', 'r4k-q32', 'w128k-q8', 'r128k-q8'];

export async function runMicroBench(run: BenchRun): Promise<void> {
  // Each part takes its own samples.
  const publication = await Publication.begin(run, 'micro', [], ROUNDS_MIN);
  run.progress('measuring the parts of the hot path');
  const parts = primitives().map((primitive) => measure(primitive, PRIMITIVE_MS));
  run.progress('measuring the engine');
  parts.push(...(await measureEngine(run.directory, ENGINE_MS)));
  run.print(`${renderTable(['', 'operation', 'CPU us', 'MB/s'], parts.map(row))}\n\n`);
  await requireFio(run.processes);
  const budgets = await measureBudgets(run);
  run.print(`${budgetTable(budgets)}\n\n`);
  const selected = workloads.filter(({ name }) => measured.includes(name));
  const table: string[][] = [];
  const results: object[] = [];
  for (const kind of served) {
    for (const workload of selected) {
      run.progress(`${kind.title}: ${workload.title}`);
      const { result, cpuUs, cores } = await serveOnce(run, kind.args, workload);
      results.push({ served: kind.title, workload: workload.name, rate: rounded(result.iops), cpuUs: rounded(cpuUs) });
      table.push([
        kind.title,
        workload.title,
        short(result.iops),
        short(result.mbPerSecond),
        short(cpuUs),
        cores.toFixed(2),
      ]);
    }
  }
  run.print(`${renderTable(['', '', 'per second', 'MB/s', 'CPU us', 'cores'], table)}\n`);
  await publication.conclude(null, [], {
    parts: parts.map(({ name, cpuUs }) => ({ name, cpuUs: cpuUs.map(rounded) })),
    served: results,
  });
}

function row({ name, unit, cpuUs: [median, least, most], mbPerSecond }: PrimitiveResult): string[] {
  const spread = `${short(median)} (${short(least)}-${short(most)})`;
  return [name, unit, spread, mbPerSecond === 0 ? '' : short(mbPerSecond)];
}

/** A fresh process, filled, warmed up with the workload and then measured with it. */
async function serveOnce(
  run: BenchRun,
  args: readonly string[],
  workload: Workload,
): Promise<{ result: FioResult; cpuUs: number; cores: number }> {
  const { processes, directory, options } = run;
  const profile = options.profile === '' ? [] : ['--cpu-prof', `--cpu-prof-dir=${resolve(options.profile)}`];
  const server = await Served.start(processes, directory, SERVED_BYTES, args, profile);
  try {
    await runFio(processes, directory, fillJob(server.target, SERVED_BYTES));
    const lasting = { sizeBytes: SERVED_BYTES, seconds: options.seconds, flushLog: '' };
    const job = measureJob(workload, server.target, lasting);
    await runFio(processes, directory, job);
    const before = cpuSecondsOf([server.pid]);
    const result = await runFio(processes, directory, job);
    const cpuSeconds = cpuSecondsOf([server.pid]) - before;
    return { result, cpuUs: (cpuSeconds * 1e6) / result.operations, cores: cpuSeconds / options.seconds };
  } finally {
    await server.stop();
  }
}
