// Why a tail is long: what kept one process with the engine and all replicas from its requests, at the rate at which the tail was
// measured and under the same load; and the shape of the tail beside that of a bare file server.

import { join } from 'node:path';
import type { Pauses } from '../micro/pauses.js';
import { Served } from '../micro/served.js';
import { median, short, spreadOf, withSpread } from '../statistics.js';
import { checkContent, writeContent } from '../volume/content.js';
import { type FioResult, runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import type { Workload } from '../volume/workload.js';
import type { StageRun } from './stage.js';

/** One round at 70 % of peak. */
export interface Round {
  readonly rate: number;
  readonly result: FioResult;
  /** Of all cores, by everybody. */
  readonly busyShare: number;
}

export const p99Ratio = ({ result }: Round) => result.p99Us / result.p50Us;

/** "p50 62.0, p90 88.1, p99 402, p99.9 1.20k us; p99 : p50 6.2 (3.9-13.0); 71 % of the cores busy" */
export function shapeLine(title: string, rounds: readonly Round[]): string {
  const middle = (pick: (result: FioResult) => number) => short(median(rounds.map(({ result }) => pick(result))));
  const parts = [
    `p50 ${middle((one) => one.p50Us)}`,
    `p90 ${middle((one) => one.p90Us)}`,
    `p99 ${middle((one) => one.p99Us)}`,
    `p99.9 ${middle((one) => one.p999Us)} us`,
  ];
  const busy = Math.round(median(rounds.map(({ busyShare }) => busyShare)) * 100);
  return `${title}: ${parts.join(', ')}; p99 : p50 ${withSpread(spreadOf(rounds.map(p99Ratio)))}; ${busy} % of the cores busy, the client's work with it`;
}

/** What a server of its own, with as many replicas in one process, was kept by while it served `rate` such requests a second. */
export async function pausesAt(
  stage: StageRun,
  copies: number,
  workload: Workload,
  rate: number,
  sizeBytes: number,
): Promise<string[]> {
  const { processes, directory, options } = stage;
  stage.progress(`what keeps ${copies} replicas in one process from ${workload.title}`);
  const place = join(directory, `pauses-${workload.name}-${copies}`);
  const server = await Served.start(processes, directory, sizeBytes, ['pools', String(copies), place]);
  try {
    await writeContent(stage, server.target, sizeBytes);
    const job = measureJob(workload, server.target, { sizeBytes, seconds: options.seconds, flushLog: '', rate });
    await runFio(processes, directory, job);
    await server.ask('pauses-start');
    const result = await runFio(processes, directory, job);
    const pauses = JSON.parse(await server.ask('pauses-stop')) as Pauses;
    await checkContent(stage, server.target, sizeBytes);
    return pauseLines(copies, result, pauses);
  } finally {
    await server.stop();
  }
}

export function pauseLines(copies: number, result: FioResult, pauses: Pauses): string[] {
  const seconds = pauses.ms / 1000;
  const { collections, full, collectedMs, longestMs, preempted } = pauses;
  const each = collections === 0 ? 0 : collectedMs / collections;
  const percent = (ms: number) => ((ms / pauses.ms) * 100).toFixed(1);
  return [
    `${copies} in one process at ${short(result.iops)}/s: p50 ${short(result.p50Us)}, p99 ${short(result.p99Us)} us; ${percent(pauses.cpuUs / 1000)} % of a core, taken off it ${short(preempted / seconds)} times a second`,
    `its collector: ${short(collections / seconds)} pauses a second, ${full} in all of the whole heap, ${short(each)} ms each, ${short(longestMs)} at most, ${percent(collectedMs)} % of the time`,
    `its event loop: a timer comes ${short(pauses.lateP99Ms)} ms late at p99, ${short(pauses.lateMostMs)} at most`,
  ];
}
