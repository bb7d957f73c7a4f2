// The command line of the simulator.

import { type FaultKind, faultKinds, type Settings, settingsOf } from './settings.js';

export interface Options {
  readonly first: number;
  readonly last: number;
  readonly minutes: number | null;
  readonly workers: number;
  readonly verbose: boolean;
  readonly checkDeterminism: boolean;
  readonly complete: boolean;
  readonly shrink: boolean;
  readonly worker: boolean;
  /** Seeds that failed once come first. */
  readonly regressions: boolean;
  /** Seeds that may fail before no further one is begun. */
  readonly failuresMost: number;
  readonly without: readonly FaultKind[];
  readonly writes: number | null;
  readonly safetyMs: number | null;
  /** Those of the arguments that change what a seed does, to repeat it. */
  readonly extra: readonly string[];
}

export function parseOptions(args: readonly string[]): Options {
  const value = (name: string): string | null => {
    const at = args.indexOf(name);
    if (at < 0) return null;
    const found = args[at + 1];
    if (found === undefined || found.startsWith('--')) throw new Error(`${name} needs a value`);
    return found;
  };
  const number = (name: string): number | null => {
    const text = value(name);
    if (text === null) return null;
    const parsed = Number(text);
    if (!Number.isFinite(parsed) || parsed < 0) throw new Error(`${name} needs a number, not ${text}`);
    return parsed;
  };
  const seed = number('--seed');
  const range = value('--seeds')?.split('-').map(Number);
  if (range?.length !== undefined && (range.length !== 2 || !range.every(Number.isSafeInteger)))
    throw new Error('--seeds needs a range such as 1-500');
  const without = (value('--without')?.split(',') ?? []) as FaultKind[];
  for (const kind of without) if (!faultKinds.includes(kind)) throw new Error(`there is no fault ${kind}`);
  const extra = ['--without', '--writes', '--safety'].flatMap((name) => {
    const found = value(name);
    return found === null ? [] : [name, found];
  });
  const first = seed ?? range?.[0] ?? number('--first') ?? 1;
  return {
    first,
    last: seed ?? range?.[1] ?? first + 19,
    minutes: seed !== null || range !== undefined ? null : number('--minutes'),
    workers: number('--workers') ?? 64,
    verbose: args.includes('--verbose'),
    checkDeterminism: args.includes('--check-determinism'),
    complete: args.includes('--complete'),
    shrink: args.includes('--shrink'),
    worker: args.includes('--worker'),
    regressions: args.includes('--regressions'),
    failuresMost: number('--failures') ?? 5,
    without,
    writes: number('--writes'),
    safetyMs: number('--safety'),
    extra,
  };
}

/** Of a seed, less what the options take away. */
export function settingsFor(options: Pick<Options, 'without' | 'writes' | 'safetyMs'>, seed: number): Settings {
  const settings = settingsOf(seed);
  return {
    ...settings,
    faults: settings.faults.filter((kind) => !options.without.includes(kind)),
    writesMost: options.writes ?? settings.writesMost,
    safetyMs: options.safetyMs ?? settings.safetyMs,
  };
}
