// One target's run: what is in its corpus, then changed inputs. What brings an outcome that was not met before is changed further
// (there is no instrumentation: words about the way an input took do for code of this kind, and a run is the same for the same
// seed, which it would not be if it looked at counters of a compiler).

import { Chance } from '../lib/crash/virtual-time.js';
import { keptInputs } from './corpus.js';
import type { FuzzBench, FuzzTarget } from './target.js';

export const SHORT_CASES = 4000;
/** Inputs that are changed further. */
const POOL_MAX = 512;
const CASE_MS_MAX = 20_000;

export interface Failure {
  readonly input: Buffer;
  readonly error: Error;
  /** Null for one of the corpus. */
  readonly index: number | null;
}

export interface FuzzReport {
  cases: number;
  readonly outcomes: Map<string, number>;
  failure: Failure | null;
}

export interface FuzzLimits {
  readonly seed: number;
  readonly cases: number;
  /** Asked between cases; true ends the run. */
  readonly enough?: () => boolean;
  /** Told of each input before it is run. */
  readonly before?: (input: Buffer) => void;
  readonly after?: (report: FuzzReport) => void;
}

export async function fuzz(target: FuzzTarget, limits: FuzzLimits): Promise<FuzzReport> {
  const report: FuzzReport = { cases: 0, outcomes: new Map(), failure: null };
  const bench = await target.open();
  try {
    await cases(target, bench, limits, report);
  } finally {
    await bench.close();
  }
  return report;
}

async function cases(target: FuzzTarget, bench: FuzzBench, limits: FuzzLimits, report: FuzzReport): Promise<void> {
  const pool = [...bench.seeds];
  for (const { bytes } of keptInputs(target.name)) {
    if (!(await one(bench, bytes, null, limits, report))) return;
    pool.push(bytes);
  }
  for (const input of bench.seeds) if (!(await one(bench, input, null, limits, report))) return;
  for (let index = 0; report.cases < limits.cases && limits.enough?.() !== true; index++) {
    const chance = new Chance(Math.imul(limits.seed, 0x9e3779b1) ^ Math.imul(index + 1, 0x85ebca6b));
    // What was found last is the least tried.
    const base = chance.hit(0.5) ? chance.pick(pool) : pool[pool.length - 1 - chance.below(Math.min(16, pool.length))]!;
    const input = bench.mutate(base, chance);
    const known = report.outcomes.size;
    if (!(await one(bench, input, index, limits, report))) return;
    if (report.outcomes.size > known) {
      if (pool.length < POOL_MAX) pool.push(input);
      else pool[bench.seeds.length + chance.below(POOL_MAX - bench.seeds.length)] = input;
    }
  }
}

async function one(
  bench: FuzzBench,
  input: Buffer,
  index: number | null,
  limits: FuzzLimits,
  report: FuzzReport,
): Promise<boolean> {
  limits.before?.(input);
  report.cases++;
  try {
    const running = bench.run(Buffer.from(input));
    const outcome = typeof running === 'string' ? running : await inTime(running);
    report.outcomes.set(outcome, (report.outcomes.get(outcome) ?? 0) + 1);
    limits.after?.(report);
    return true;
  } catch (thrown) {
    const error = thrown instanceof Error ? thrown : new Error(String(thrown));
    report.failure = { input, error, index };
    return false;
  }
}

async function inTime(running: Promise<string>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no outcome within ${CASE_MS_MAX} ms`)), CASE_MS_MAX);
  });
  try {
    return await Promise.race([running, late]);
  } finally {
    clearTimeout(timer);
  }
}
