// Whether a run may be kept, and the keeping. A figure from a restless machine, from a tree that nobody can check out, or from
// too few rounds would be compared with for months: it is refused here, with the reason.

import { loadavg } from 'node:os';
import { precondition } from '../src/base/index.js';
import { appendResult, currentCommit, describeMachine, rounded } from './history.js';
import type { BenchRun } from './run.js';
import { moved } from './volume/floor.js';

export const ROUNDS_MIN = 7;
export const LOAD_MAX = 0.5;

export interface Circumstances {
  readonly rounds: number;
  readonly quick: boolean;
  /** Of one minute, before anything was started. */
  readonly loadAtStart: number;
  /** null: CPU time alone was measured, which no floor bounds. */
  readonly floor: ReadonlyMap<string, readonly number[]> | null;
  /** With '+' when the tree differs from it. */
  readonly commit: string;
  /** What the run left out, though it belongs to it. */
  readonly leftOut: readonly string[];
}

/** Sentences; none means publishable. */
export function whyNotPublishable(run: Circumstances): string[] {
  const reasons: string[] = [];
  if (run.quick) reasons.push('a quick run is for looking');
  if (run.rounds < ROUNDS_MIN) reasons.push(`${run.rounds} rounds were run, ${ROUNDS_MIN} are the least`);
  if (!(run.loadAtStart <= LOAD_MAX)) {
    reasons.push(`the load average was ${run.loadAtStart.toFixed(2)} at the start, ${LOAD_MAX} is the most`);
  }
  if (run.floor?.size === 0) reasons.push("the machine's floor was not measured");
  for (const { item, by } of moved(run.floor ?? new Map())) {
    reasons.push(`the floor moved by ${Math.round(by * 100)} % (${item.title})`);
  }
  if (run.commit === '') reasons.push('the commit is unknown');
  if (run.commit.endsWith('+')) reasons.push('the tree differs from its commit');
  for (const name of run.leftOut) reasons.push(`${name} was left out`);
  return reasons;
}

export function loadAverage(): number {
  return loadavg()[0] ?? Number.NaN;
}

const tools = ['fio', 'nbdkit', 'qemu-nbd', 'ceph'];

/**
 * Says whether the run is publishable and, when that was asked for, appends `result` to bench/results/NAME.jsonl. Throws
 * FAILED_PRECONDITION when it was asked for and the run does not deserve it.
 */
export async function concludeRun(
  run: BenchRun,
  name: string,
  circumstances: Omit<Circumstances, 'commit'>,
  result: object,
): Promise<void> {
  const commit = await currentCommit(run.processes);
  const reasons = whyNotPublishable({ ...circumstances, commit });
  if (reasons.length > 0) {
    const text = `not publishable: ${reasons.join('; ')}`;
    if (run.options.publish) throw precondition(text);
    run.print(`${text}.\n`);
    return;
  }
  if (!run.options.publish) {
    run.print('publishable: --publish keeps such a run in bench/results.\n');
    return;
  }
  const path = appendResult(name, {
    format: 2,
    at: new Date(run.clock.wallMs()).toISOString(),
    commit,
    machine: await describeMachine(run.processes, run.directory, tools),
    loadAtStart: circumstances.loadAtStart,
    floor: Object.fromEntries([...(circumstances.floor ?? [])].map(([name, rates]) => [name, rates.map(rounded)])),
    ...result,
  });
  run.print(`results appended to ${path}\n`);
}
