// The comparison layout of kbench (github.com/longhorn/kbench), so that people can put our figures beside theirs: IOPS,
// bandwidth and latency, random and sequential, read / write, "A vs B : change".

import { spreadOf } from '../statistics.js';
import type { BenchSystem } from '../systems/system.js';
import type { ReportInput } from './report.js';
import type { Sample } from './rounds.js';

interface Section {
  readonly title: string;
  readonly kind: string;
  pick(sample: Sample): number;
}

const sections: readonly Section[] = [
  { title: 'IOPS (Read/Write)', kind: 'iops', pick: (sample) => sample.iops },
  {
    title: 'Bandwidth in KiB/sec (Read/Write)',
    kind: 'bandwidth',
    pick: (sample) => (sample.mbPerSecond * 1e6) / 1024,
  },
  { title: 'Latency in ns (Read/Write)', kind: 'latency', pick: (sample) => sample.meanUs * 1000 },
];

const patterns = [
  { title: 'Random', read: 'randread', write: 'randwrite' },
  { title: 'Sequential', read: 'read', write: 'write' },
] as const;

function grouped(value: number): string {
  return Math.round(value)
    .toString()
    .replace(/\B(?=(\d{3})+(?!\d))/g, ',');
}

function change(from: number | undefined, to: number | undefined): string {
  if (from === undefined || to === undefined || from === 0) return '-';
  return `${(((to - from) / from) * 100).toFixed(2)}%`;
}

function compare(first: BenchSystem, second: BenchSystem, input: ReportInput): string[] {
  const median = (section: Section, system: BenchSystem, pattern: string) =>
    spreadOf(input.samples.of({ name: `kbench-${section.kind}-${pattern}` }, system).map(section.pick))?.median;
  const pair = (values: readonly (number | undefined)[]) =>
    values.map((value) => (value === undefined ? '-' : grouped(value))).join(' / ');
  const rule = '='.repeat(100);
  const lines = [rule, 'FIO Benchmark Comparison Summary', `For: ${first.title} VS ${second.title}`, rule];
  const heads = `${first.title.padStart(26)}   vs ${second.title.padStart(26)}    :`;
  lines.push(`${' '.repeat(16)}${heads}              Change`);
  for (const section of sections) {
    lines.push(section.title);
    for (const { title, read, write } of patterns) {
      const before = [median(section, first, read), median(section, first, write)];
      const after = [median(section, second, read), median(section, second, write)];
      const changes = `${change(before[0], after[0])} / ${change(before[1], after[1])}`;
      lines.push(
        `${`${title}:`.padStart(15)} ${pair(before).padStart(26)}   vs ${pair(after).padStart(26)}    : ${changes.padStart(20)}`,
      );
    }
    lines.push('');
  }
  return lines;
}

/** Every Holdfast column against every other. */
export function kbenchReport(input: ReportInput): string {
  const peers = input.systems.filter(({ name }) => input.baselines.includes(name));
  const ours = input.systems.filter(({ name }) => !input.baselines.includes(name));
  const blocks = peers.flatMap((peer) => ours.flatMap((own) => compare(peer, own, input)));
  const copies = input.systems.map(
    ({ title, copies: count, flush }) =>
      `${title}: ${count} ${count === 1 ? 'copy' : 'copies'}, flush honoured: ${flush}.`,
  );
  return [...blocks, input.settings, ...copies, ''].join('\n');
}
