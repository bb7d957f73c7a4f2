// A target, what was measured for it, and the verdict. Which way a rule points decides everything here, so it stands in one place.

import { median, type Spread, short, spreadOf } from '../statistics.js';
import type { Compared } from './compared.js';

export type Rule = 'at least' | 'at most';
/** How a figure is written: as it is, in percent, or with its unit behind it. */
export type FigureUnit = 'x' | '%' | 'ms' | 's' | 'MiB' | 'us' | 'yes/no' | '';

export interface Target {
  /** Stable: the history is compared by it. */
  readonly id: string;
  /** Of "Done when". */
  readonly line: number;
  readonly text: string;
  readonly rule: Rule;
  readonly value: number;
  /** Beyond the target; shown, not judged. */
  readonly aim?: number;
  readonly unit: FigureUnit;
  /** Of a ratio that is taken round by round. */
  readonly compares?: Compared;
}

export interface Measured {
  /** Of its target. */
  readonly id: string;
  /** One a round where there are rounds. Fractions where the unit is percent, 1 or 0 where it is yes or no. */
  readonly values: readonly number[];
  /** What stands behind it: rates, sizes, the floor. */
  readonly beside: string;
  /** What it consists of, as measured in the same stage: printed when the target is missed. */
  readonly why?: readonly string[];
}

export type Verdict = 'held' | 'missed' | 'not measured';

export interface Judged {
  readonly target: Target;
  readonly verdict: Verdict;
  readonly spread: Spread | undefined;
  readonly beside: string;
  readonly why: readonly string[];
}

/** Whether `value` is as good as `wanted`. A value that is no number never is. */
export function satisfies(rule: Rule, value: number, wanted: number): boolean {
  return rule === 'at least' ? value >= wanted : value <= wanted;
}

/** On the median. A figure that is infinite or no number in any round misses. */
export function judge(target: Target, measured: Measured | undefined): Judged {
  if (measured === undefined || measured.values.length === 0) {
    const { beside = '', why = [] } = measured ?? {};
    return { target, verdict: 'not measured', spread: undefined, beside, why };
  }
  const spread = spreadOf(measured.values);
  const sound = measured.values.every(Number.isFinite);
  const held = sound && satisfies(target.rule, median(measured.values), target.value);
  return { target, verdict: held ? 'held' : 'missed', spread, beside: measured.beside, why: measured.why ?? [] };
}

/** How much worse `now` is than `before`, as a fraction; negative when it is better. */
export function loss(rule: Rule, now: number, before: number): number {
  if (before === 0) return 0;
  return rule === 'at least' ? 1 - now / before : now / before - 1;
}

export function writeFigure(value: number, unit: FigureUnit): string {
  if (unit === '%') return `${(value * 100).toFixed(1)} %`;
  if (unit === 'yes/no') return value >= 1 ? 'yes' : 'no';
  const sign = value < 0 ? '-' : '';
  return `${sign}${short(Math.abs(value))}${unit === '' || unit === 'x' ? '' : ` ${unit}`}`;
}

export function writeTarget({ rule, value, aim, unit }: Target): string {
  if (unit === 'yes/no') return 'yes';
  const sign = rule === 'at least' ? '>=' : '<=';
  return `${sign} ${writeFigure(value, unit)}${aim === undefined ? '' : ` (aim ${writeFigure(aim, unit)})`}`;
}

export function writeMeasured({ spread, target: { unit } }: Judged): string {
  if (spread === undefined) return '-';
  const text = writeFigure(spread.median, unit);
  if (spread.least === spread.most) return text;
  return `${text} (${writeFigure(spread.least, unit)} to ${writeFigure(spread.most, unit)})`;
}
