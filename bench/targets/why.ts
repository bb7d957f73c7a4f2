// Why a figure was missed: what its stage found out about it; of a ratio to a peer, who used how much CPU time for each operation, how busy
// that kept the machine, and the stages of ours that took most of it. A machine that is not busy was waited for: wake-ups, the network, the disk. Other things are the kernel's
// threads and whatever else runs on it.

import { availableParallelism } from 'node:os';
import type { Budget } from '../micro/budget.js';
import { short, spreadOf } from '../statistics.js';
import { isPeer, type Own, ours, type PeersResult, peers, type Side } from './compared.js';
import { type Judged, writeMeasured, writeTarget } from './target.js';

const STAGES = 5;
const copies = { h1: 1, h3: 3 } as const;

function median(values: readonly number[]): number {
  return spreadOf(values)?.median ?? 0;
}

/** "H1: 77.1k/s; CPU us: daemon with the engine 11.8, others 0.20, client 8.90; 1.61 of 2 cores busy, 0.20 with other things" */
function sideLine(workload: string, { name, title }: Side, { samples }: PeersResult): string[] {
  const all = samples.of({ name: workload }, { name });
  if (all.length === 0) return [];
  const cpuUs = median(all.map((sample) => sample.cpuUs));
  const clientUs = median(all.map((sample) => sample.clientCpuUs));
  const rate = median(all.map((sample) => sample.iops));
  const roles = Object.keys(all[0]?.roles ?? {}).map(
    (role) => [role, median(all.map((sample) => sample.roles?.[role] ?? 0))] as const,
  );
  const rest = cpuUs - roles.reduce((sum, [, us]) => sum + us, 0);
  const parts: (readonly [string, number])[] = [
    ...roles,
    [roles.length > 0 ? 'the rest' : 'server', Math.max(0, rest)],
  ];
  const cpu = [...parts, ['client', clientUs] as const].map(([role, us]) => `${role} ${short(us)}`).join(', ');
  const busy = (rate * (cpuUs + clientUs)) / 1e6;
  const cores = availableParallelism();
  const others = Math.max(0, median(all.map(({ busyShare = 0 }) => busyShare)) * cores - busy);
  return [
    `${title}: ${short(rate)}/s; CPU us: ${cpu}; ${short(busy)} of ${cores} cores busy, ${short(others)} with other things`,
  ];
}

function stagesLine(workload: string, own: Own, budgets: readonly Budget[]): string[] {
  const budget = budgets.find((one) => one.workload.name === workload && one.replicas === copies[own]);
  if (budget === undefined) return [];
  const top = [...budget.parts].sort(([, a], [, b]) => b - a).slice(0, STAGES);
  const stages = top.map(([stage, us]) => `${stage} ${short(us)}`).join(', ');
  return [`stages of ${ours[own].title} in one process: ${stages}; ${short(budget.cpuUs)} us in all`];
}

/** For each missed figure what its stage says of it; for a ratio the profile, once for all of one workload and side of ours. */
export function whyLines(
  judged: readonly Judged[],
  result: PeersResult | undefined,
  budgets: readonly Budget[],
): string[] {
  const lines: string[] = [];
  const shown = new Set<string>();
  for (const one of judged) {
    const { compares, line, text } = one.target;
    const compared = compares !== undefined && result !== undefined;
    if (one.verdict !== 'missed' || (!compared && one.why.length === 0)) continue;
    lines.push(`line ${line}, ${text}: ${writeMeasured(one)}, target ${writeTarget(one.target)}`);
    lines.push(...one.why.map((text) => `  ${text}`));
    if (!compared) continue;
    const { workload, ours: own, base } = compares;
    const key = `${workload} ${own}`;
    const profile = shown.has(key)
      ? ['as above']
      : [...sideLine(workload, ours[own], result), ...stagesLine(workload, own, budgets)];
    if (isPeer(base)) profile.push(...sideLine(workload, peers[base], result));
    if (base === 'one') profile.push(...sideLine('w4k-q1-flush', { ...ours[own], title: 'one client' }, result));
    shown.add(key);
    lines.push(...profile.map((text) => `  ${text}`));
  }
  return lines.length === 0 ? [] : ['Why, of what was missed:', ...lines.map((text) => `  ${text}`)];
}
