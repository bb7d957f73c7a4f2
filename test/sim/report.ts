// What many seeds did together, as it is printed.

import type { Options } from './options.js';
import type { Outcome } from './outcome.js';
import { faultKinds } from './settings.js';

/** The lettered recovery cases: of a replica's log (segment/recovery.ts), and of a member at open (engine/open.ts). */
export const recoveryCases = [
  ...['A', 'C', 'D', 'E', 'F', 'G', 'H', 'I'].map((row) => `recovery ${row}`),
  ...['a', 'b', 'c', 'd', 'e'].map((letter) => `open ${letter}`),
] as const;

/** Each kind of fault and each case at least so often in a complete run. */
const REACHED_LEAST = 100;

export class Totals {
  seeds = 0;
  /** Seeds that ran a second time and did the same. */
  repeated = 0;
  simulatedMs = 0;
  readonly faults: Record<string, number> = {};
  readonly cases: Record<string, number> = {};
  readonly counts: Record<string, number> = {};
  readonly failures: { seed: number; failure: string }[] = [];

  add(outcome: Outcome): void {
    this.seeds++;
    this.simulatedMs += outcome.simulatedMs;
    for (const part of ['faults', 'cases', 'counts'] as const)
      for (const [name, count] of Object.entries(outcome[part])) this[part][name] = (this[part][name] ?? 0) + count;
  }
  failed(seed: number, failure: string): void {
    this.failures.push({ seed, failure });
  }
}

/** Returns the exit code. */
export function printReport(totals: Totals, options: Options, seconds: number): number {
  const { counts, cases, faults } = totals;
  const of = (name: string) => (counts[name] ?? 0).toLocaleString('en');
  const list = (names: readonly string[], from: Record<string, number>) =>
    names.map((name) => `${name} ${(from[name] ?? 0).toLocaleString('en')}`).join(', ');
  const all = Object.values(faults).reduce((sum, count) => sum + count, 0);
  const others = Object.keys(cases).filter((name) => !(recoveryCases as readonly string[]).includes(name));
  const lines = [
    `simulator: ${totals.seeds.toLocaleString('en')} seeds, ${(totals.simulatedMs / 3_600_000).toFixed(1)} simulated hours in ${seconds.toFixed(0)} s`,
    `acknowledged writes checked ${of('writes')}, flushes ${of('flushes')}, reads ${of('reads')}; opens ${of('opens')}, orders ${of('orders')}`,
    `promises checked at opens ${of('floors')}; register reads ${of('registerReads')} and writes ${of('registerWrites')}; seals ${of('seals')}; crashes that legally took acknowledged writes ${of('eras')}`,
    `faults ${all.toLocaleString('en')}: ${list(faultKinds, faults)}`,
    `recovery cases: ${list(recoveryCases, cases)}`,
    `also: ${list(others.sort(), cases)}`,
  ];
  if (totals.repeated > 0) lines.push(`run twice with the same trace: ${totals.repeated}`);
  const missing = [
    ...faultKinds.filter((kind) => (faults[kind] ?? 0) < REACHED_LEAST),
    ...recoveryCases.filter((name) => (cases[name] ?? 0) < REACHED_LEAST),
  ];
  if (options.complete && missing.length > 0)
    lines.push(`reached less than ${REACHED_LEAST} times: ${missing.join(', ')}`);
  for (const { seed, failure } of totals.failures)
    lines.push(
      `FAILED seed ${seed}: ${failure.split('\n')[0]}  (npm run sim -- --seed ${seed} ${options.extra.join(' ')})`,
    );
  process.stdout.write(`\n${lines.join('\n')}\n`);
  return totals.failures.length > 0 || (options.complete && missing.length > 0) ? 1 : 0;
}
