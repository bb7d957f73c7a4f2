// The table: per workload the rate, the ratios to each baseline and the CPU time, one column a system. Ratios are medians
// over rounds of same-round ratios, so a machine that slows down for a round slows both sides.

import { ratios, short, spreadOf, withSpread } from '../statistics.js';
import type { Absent, BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { MOVEMENT_MAX, movements } from './floor.js';
import type { Sample, Samples } from './rounds.js';
import type { Workload } from './workload.js';

export interface ReportInput {
  readonly systems: readonly BenchSystem[];
  readonly absent: readonly Absent[];
  /** Names of the systems the others are divided by. */
  readonly baselines: readonly string[];
  readonly workloads: readonly Workload[];
  readonly samples: Samples;
  readonly floor: ReadonlyMap<string, readonly number[]>;
  readonly settings: string;
}

export function rateOf(workload: Workload, sample: Sample): number {
  return workload.unit === 'iops' ? sample.iops : sample.mbPerSecond;
}

/** One figure of each sample, by round. */
export function byRound(samples: readonly Sample[], pick: (sample: Sample) => number): (number | undefined)[] {
  const values: (number | undefined)[] = [];
  for (const sample of samples) values[sample.round] = pick(sample);
  return values;
}

function rowsOf(workload: Workload, input: ReportInput): string[][] {
  const { samples, systems } = input;
  const cells = (write: (system: BenchSystem) => string) => systems.map(write);
  const unit = workload.unit === 'iops' ? 'per second' : 'MB/s';
  const all = (system: BenchSystem) => samples.of(workload, system);
  const rates = (system: BenchSystem) => byRound(all(system), (sample) => rateOf(workload, sample));
  const rows = [
    [workload.title, ...systems.map(() => '')],
    [`  ${unit}`, ...cells((system) => withSpread(spreadOf(all(system).map((sample) => rateOf(workload, sample)))))],
  ];
  for (const name of input.baselines) {
    const base = systems.find((system) => system.name === name);
    if (base === undefined) continue;
    const others = systems.filter((system) => system !== base);
    const cell = (system: BenchSystem) =>
      system === base ? '1' : withSpread(spreadOf(ratios(rates(system), rates(base))));
    if (others.some((system) => cell(system) !== '-')) rows.push([`  ratio to ${base.title}`, ...cells(cell)]);
  }
  const latency = (pick: (sample: Sample) => number, system: BenchSystem) =>
    short(spreadOf(all(system).map(pick))?.median ?? 0);
  rows.push([
    '  p50 / p99 us',
    ...cells((system) =>
      all(system).length === 0
        ? '-'
        : `${latency(({ p50Us }) => p50Us, system)} / ${latency(({ p99Us }) => p99Us, system)}`,
    ),
  ]);
  rows.push([
    '  CPU us per operation',
    ...cells((system) => withSpread(spreadOf(all(system).map((sample) => sample.cpuUs)))),
  ]);
  return rows;
}

export function report(input: ReportInput): string {
  const { systems } = input;
  const head = ['', ...systems.map((system) => system.title)];
  const rows = [
    ['copies', ...systems.map((system) => String(system.copies))],
    ['flush honoured', ...systems.map((system) => system.flush)],
    ...input.workloads.flatMap((workload) => rowsOf(workload, input)),
  ];
  return [renderTable(head, rows), ...notes(input), ''].join('\n');
}

function notes(input: ReportInput): string[] {
  const lines = ['', input.settings];
  lines.push(
    'Each figure: median over rounds (least-most). CPU: user and system time of all processes of a system, without the',
  );
  lines.push("client's and without kernel threads. Ratios carry over to other machines better than rates do.");
  for (const system of input.systems) lines.push(`${system.title}: ${system.features}.`);
  for (const { title, reason } of input.absent) lines.push(`${title} is left out: ${reason}.`);
  lines.push('', ...floorLines(input.floor));
  return lines;
}

/** What the machine did by itself, and what of it was not the same in all rounds. */
export function floorLines(floor: ReadonlyMap<string, readonly number[]>): string[] {
  const lines = ["The machine's floor, in operations per second:"];
  for (const { item, by } of movements(floor)) {
    const away = by > MOVEMENT_MAX ? `, moved by ${Math.round(by * 100)} %` : '';
    lines.push(`  ${item.title.padEnd(40)} ${withSpread(spreadOf(floor.get(item.name) ?? []), short)}${away}`);
  }
  return lines;
}
