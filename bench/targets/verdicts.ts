// The table of verdicts, and what changed since a former run.

import { spreadOf } from '../statistics.js';
import { renderTable } from '../table.js';
import { type Judged, loss, type Rule, writeFigure, writeMeasured, writeTarget } from './target.js';

/** More of a loss than this against a former run is flagged. */
export const LOSS_MAX = 0.1;

export function verdictTable(judged: readonly Judged[]): string {
  const rows = judged.map((one) => [
    String(one.target.line),
    one.target.text,
    writeTarget(one.target),
    writeMeasured(one),
    one.verdict.toUpperCase(),
    one.beside,
  ]);
  return renderTable(['line', '', 'target', 'measured', 'verdict', 'behind it'], rows, ['left', 'left']);
}

/** "31 held, 2 missed, 1 not measured". */
export function summary(judged: readonly Judged[]): string {
  const count = (verdict: string) => judged.filter((one) => one.verdict === verdict).length;
  return `${count('held')} held, ${count('missed')} missed, ${count('not measured')} not measured`;
}

export interface Change {
  readonly judged: Judged;
  readonly before: number;
  /** Fraction by which it is worse; negative when better. */
  readonly loss: number;
}

/** Every figure that the former run had, too. */
export function changesSince(
  judged: readonly Judged[],
  published: readonly { readonly id: string; readonly values: readonly number[] }[],
): Change[] {
  return judged.flatMap((one) => {
    const before = spreadOf(published.find(({ id }) => id === one.target.id)?.values ?? [])?.median;
    if (before === undefined || one.spread === undefined) return [];
    return [{ judged: one, before, loss: loss(one.target.rule, one.spread.median, before) }];
  });
}

/** `steady`: both runs were on a steady machine; else a loss may be the machine's. */
export function changeLines(changes: readonly Change[], when: string, steady: boolean): string[] {
  const percent = (fraction: number) => `${Math.round(Math.abs(fraction) * 100)} %`;
  const worse = changes.filter((change) => change.loss > LOSS_MAX);
  if (changes.length === 0) return [];
  const doubt = steady ? '' : '; the machine was not steady in both: a loss may be its own';
  const head = `Beside a former run on such a machine (${when}): ${changes.length} figures compared, ${worse.length} worse by more than ${percent(LOSS_MAX)}${doubt}.`;
  const lines = worse.map(({ judged: { target, spread }, before, loss: lost }) => {
    const pair = `${writeFigure(before, target.unit)} then, ${writeFigure(spread!.median, target.unit)} now`;
    return `  ${steady ? 'LOSS' : 'LOSS?'} of ${percent(lost)}: line ${target.line}, ${target.text} (${better(target.rule)}): ${pair}`;
  });
  return [head, ...lines];
}

function better(rule: Rule): string {
  return rule === 'at least' ? 'more is better' : 'less is better';
}
