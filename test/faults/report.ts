// What a run did and met, as a table by kind of fault.

import type { PauseLimits } from './kinds/fault.js';

export interface Outcome {
  readonly kind: string;
  readonly limits: PauseLimits;
  /** Longest time without an answer of a volume whose engine was hit, and of any other; null: none was measured. */
  readonly engineMs: number | null;
  readonly replicaMs: number | null;
  readonly failovers: readonly number[];
  /** Until everything was in sync again, from the end of the fault. */
  readonly wholeMs: number;
}

const seconds = (ms: number | null) => (ms === null ? '-' : `${(ms / 1000).toFixed(2)} s`);
const worst = (values: readonly (number | null)[]): number | null => {
  const numbers = values.filter((one) => one !== null);
  return numbers.length === 0 ? null : Math.max(...numbers);
};

export class Report {
  readonly #slack: number;
  readonly #outcomes: Outcome[] = [];
  readonly violations: string[] = [];

  constructor(slack: number) {
    this.#slack = slack;
  }

  get count(): number {
    return this.#outcomes.length;
  }

  /** Keeps it, and counts a pause above its limit as a violation. */
  add(outcome: Outcome, what: string): void {
    this.#outcomes.push(outcome);
    const { limits, engineMs, replicaMs, failovers } = outcome;
    const judged: [string, number | null, number | undefined][] = [
      ['pause of a volume whose engine was hit', engineMs, limits.engineMs],
      ['pause of another volume', replicaMs, limits.replicaMs],
      ['time from the order to attach to the first write', worst(failovers), limits.failoverMs],
    ];
    for (const [name, ms, limit] of judged) {
      if (ms === null || limit === undefined || ms <= limit * this.#slack) continue;
      this.violations.push(
        `${outcome.kind} (${what}): ${name} ${seconds(ms)}, allowed are ${seconds(limit * this.#slack)}`,
      );
    }
  }

  table(): string {
    const kinds = [...new Set(this.#outcomes.map(({ kind }) => kind))];
    const head = ['fault', 'times', 'worst pause: engine hit', 'others', 'failover', 'in sync after'];
    const rows = kinds.map((kind) => {
      const of = this.#outcomes.filter((one) => one.kind === kind);
      return [
        kind,
        String(of.length),
        seconds(worst(of.map(({ engineMs }) => engineMs))),
        seconds(worst(of.map(({ replicaMs }) => replicaMs))),
        seconds(worst(of.flatMap(({ failovers }) => failovers))),
        seconds(worst(of.map(({ wholeMs }) => wholeMs))),
      ];
    });
    const widths = head.map((name, i) => Math.max(name.length, ...rows.map((row) => row[i]!.length)));
    const line = (row: readonly string[]) =>
      row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  ');
    return [head, ...rows].map(line).join('\n');
  }
}
