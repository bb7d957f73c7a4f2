// The budget of a request by stage: a CPU profile of one process that holds NBD server, engine and all replicas, taken while fio
// is at work, each sample counted for the stage whose file it was in (or called from), and scaled to the CPU time of a request.

import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { cpuSecondsOf } from '../cpu-time.js';
import type { BenchRun } from '../run.js';
import { short } from '../statistics.js';
import { renderTable } from '../table.js';
import { checkContent, writeContent } from '../volume/content.js';
import { runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import { dropPageCache } from '../volume/page-cache.js';
import { type Workload, workloadOf } from '../volume/workload.js';
import { Served } from './served.js';

const SIZE = 256 * MiB;

/** One of the nodes of a profile of V8, as far as it is used here. */
export interface ProfileNode {
  readonly id: number;
  readonly callFrame: { readonly functionName: string; readonly url: string };
  readonly children?: readonly number[];
}

export interface Profile {
  readonly nodes: readonly ProfileNode[];
  readonly samples: readonly number[];
  readonly timeDeltas: readonly number[];
}

/** Whatever it calls is done for it. */
const BACKGROUND = 'cleaner, scrubber';

/** The first whose test accepts a file of ours has it. */
const stages: readonly { readonly name: string; readonly test: RegExp }[] = [
  { name: BACKGROUND, test: /\/engine\/(cleaner|mover|scrubber)\.js$/ },
  { name: 'reply', test: /\/nbd\/(reply|.*reply)[^/]*\.js$/ },
  { name: 'parse', test: /\/nbd\// },
  // Or open, for a read.
  { name: 'seal', test: /\/hotpath\/(kernel|lz4|keys|native)[^/]*\.js$|\/engine\/log-writer\.js$/ },
  { name: 'map', test: /\/hotpath\// },
  { name: 'send', test: /\/wire\// },
  // Of the client and of other nodes alike.
  { name: 'sockets', test: /\/transport\// },
  { name: 'append', test: /\/segment\// },
  { name: 'replica', test: /\/replica\// },
  { name: 'engine', test: /\/(engine|base|format)\// },
];

/** In the order of a write's way. */
export const stageNames = ['parse', 'engine', 'seal', 'append', 'send', 'replica', 'map', 'reply', 'sockets'] as const;
const COLLECTOR = 'garbage collector';
const RUNTIME = 'event loop, kernel';

/**
 * Microseconds of profile by stage; idle time is left out. Native functions and Node's own count for whoever of ours called
 * them; what nobody of ours called is the event loop's.
 */
export function timeByStage(profile: Profile): Map<string, number> {
  const parents = new Map<number, ProfileNode>();
  const byId = new Map<number, ProfileNode>();
  for (const node of profile.nodes) {
    byId.set(node.id, node);
    for (const child of node.children ?? []) parents.set(child, node);
  }
  const known = new Map<number, string>();
  const stageOf = (id: number): string => {
    const found = known.get(id);
    if (found !== undefined) return found;
    const node = byId.get(id);
    const parent = parents.get(id);
    const own = node === undefined ? RUNTIME : ownStage(node);
    const callers = parent === undefined ? RUNTIME : stageOf(parent.id);
    const stage = callers === BACKGROUND ? callers : (own ?? callers);
    known.set(id, stage);
    return stage;
  };
  const times = new Map<string, number>();
  for (const [index, id] of profile.samples.entries()) {
    const stage = stageOf(id);
    if (stage === '') continue;
    times.set(stage, (times.get(stage) ?? 0) + (profile.timeDeltas[index] ?? 0));
  }
  return times;
}

/** undefined: whatever its caller's is. '' = not counted. */
function ownStage({ callFrame: { functionName, url } }: ProfileNode): string | undefined {
  if (functionName === '(idle)') return '';
  if (functionName === '(garbage collector)') return COLLECTOR;
  if (functionName === '(program)' || functionName === '(root)') return RUNTIME;
  if (!url.includes('/src/')) return undefined;
  return stages.find(({ test }) => test.test(url))?.name ?? undefined;
}

export interface Budget {
  readonly workload: Workload;
  readonly replicas: number;
  /** Of a request, all of it. */
  readonly cpuUs: number;
  /** By stage, in the same unit; they add up to it. */
  readonly parts: ReadonlyMap<string, number>;
}

/** Scales the profile to what a request costs. */
export function budgetOf(times: ReadonlyMap<string, number>, cpuUs: number): Map<string, number> {
  let sum = 0;
  for (const time of times.values()) sum += time;
  return new Map([...times].map(([stage, time]) => [stage, sum === 0 ? 0 : (time / sum) * cpuUs]));
}

/** Microseconds of a server's profile by stage, while `work` goes on. */
export async function profiled(
  server: Served,
  directory: string,
  work: () => Promise<unknown>,
): Promise<Map<string, number>> {
  const file = join(directory, 'budget.cpuprofile');
  await server.ask('profile-start');
  await work();
  await server.ask(`profile-stop ${file}`);
  const times = timeByStage(JSON.parse(readFileSync(file, 'utf8')) as Profile);
  rmSync(file);
  return times;
}

async function measureOne(run: BenchRun, workload: Workload, replicas: number): Promise<Budget> {
  const { processes, directory, options } = run;
  const place = join(directory, `budget-${workload.name}-${replicas}`);
  const server = await Served.start(processes, directory, SIZE, ['pools', String(replicas), place]);
  try {
    await writeContent(run, server.target, SIZE);
    const job = measureJob(workload, server.target, { sizeBytes: SIZE, seconds: options.seconds, flushLog: '' });
    const measure = async () => {
      if (workload.cold) await dropPageCache();
      return runFio(processes, directory, job);
    };
    await measure();
    const before = cpuSecondsOf([server.pid]);
    const { operations } = await measure();
    const cpuUs = ((cpuSecondsOf([server.pid]) - before) * 1e6) / operations;
    // Again: a profile costs time of its own.
    const times = await profiled(server, directory, measure);
    await checkContent(run, server.target, SIZE);
    return { workload, replicas, cpuUs, parts: budgetOf(times, cpuUs) };
  } finally {
    await server.stop();
    rmSync(place, { recursive: true, force: true });
  }
}

/** Of which a budget is taken in any case. */
export const budgeted = ['w4k-q32', 'w4k-q1', 'w4k-q1-flush', 'w128k-q8'] as const;

export async function measureBudgets(run: BenchRun, names: readonly string[] = budgeted): Promise<Budget[]> {
  const budgets: Budget[] = [];
  for (const name of names) {
    for (const replicas of [1, 3]) {
      run.progress(`budget of ${workloadOf(name).title}, ${replicas} replicas`);
      budgets.push(await measureOne(run, workloadOf(name), replicas));
    }
  }
  return budgets;
}

export function budgetTable(budgets: readonly Budget[]): string {
  const head = ['CPU us of a request', ...budgets.map(({ workload, replicas }) => `${workload.name} x${replicas}`)];
  return stageTable(head, budgets);
}

/** One column each. */
export function stageTable(head: readonly string[], columns: readonly Pick<Budget, 'parts' | 'cpuUs'>[]): string {
  const rows = [...stageNames, BACKGROUND, COLLECTOR, RUNTIME].map((stage) => [
    stage,
    ...columns.map(({ parts }) => (parts.get(stage) ?? 0).toFixed(2)),
  ]);
  rows.push(['all', ...columns.map(({ cpuUs }) => short(cpuUs))]);
  return renderTable(head, rows);
}
