// Line 7, first half: the tail of latency at 70 % of what the volume can do, for reads and writes, with one replica and three; nbdkit's
// file plugin beside them shows how much of it is the machine's and the client's.

import { MiB } from '../../src/base/index.js';
import { machineTicks } from '../cpu-time.js';
import { median, short, spreadOf, withSpread } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { nbdkitFile } from '../systems/nbdkit-file.js';
import { SocketServer } from '../systems/socket-server.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent, writeContent } from '../volume/content.js';
import { runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import { type Workload, workloadOf } from '../volume/workload.js';
import { targets } from './catalogue.js';
import type { Stage, StageRun } from './stage.js';
import { p99Ratio, pausesAt, type Round, shapeLine } from './tails.js';
import { judge } from './target.js';

const SIZE = 256 * MiB;
const PEAK_SECONDS = 1;
const OF_PEAK = 0.7;

interface Case {
  /** Of the figure that is judged; null: only shown. */
  readonly judged: string | null;
  readonly system: BenchSystem;
  readonly workload: Workload;
}

async function measure(stage: StageRun, { system, workload }: Case, seconds: number, rate = 0): Promise<Round> {
  const { processes, directory } = stage;
  const job = measureJob(workload, system.target(), { sizeBytes: SIZE, seconds, flushLog: '', rate });
  const before = machineTicks();
  const result = await runFio(processes, directory, job);
  const { all, idle } = machineTicks();
  return { rate, result, busyShare: 1 - (idle - before.idle) / Math.max(1, all - before.all) };
}

/** Whether these rounds miss the target. */
function misses(id: string, rounds: readonly Round[]): boolean {
  const target = targets.find((one) => one.id === id);
  return target !== undefined && judge(target, { id, values: rounds.map(p99Ratio), beside: '' }).verdict === 'missed';
}

export const latencyStage: Stage = {
  name: 'latency',
  title: 'line 7: p50 and p99 at 70 % of peak',
  async run(stage) {
    const { options, processes, directory, clock } = stage;
    const cluster = new HoldfastCluster(stage);
    const systems: BenchSystem[] = [1, 3].map((copies) => new HoldfastSystem(cluster, holdfast(copies), SIZE));
    if ((await processes.version(nbdkitFile.program)) !== undefined)
      systems.push(new SocketServer(nbdkitFile, { processes, clock, directory, sizeBytes: SIZE }));
    const cases = systems.flatMap((system): Case[] => {
      const figure = (what: string) => (system instanceof HoldfastSystem ? `latency.${what}.h${system.copies}` : null);
      return [
        { judged: figure('write'), system, workload: workloadOf('w4k-q32') },
        { judged: figure('read'), system, workload: workloadOf('r4k-q32') },
      ];
    });
    const results = new Map<Case, Round[]>(cases.map((one) => [one, []]));
    try {
      await cluster.start();
      for (const system of systems) {
        await system.open();
        await writeContent(stage, system.target(), SIZE);
      }
      // The first round warms up.
      for (let round = -1; round < options.rounds; round++) {
        for (const one of cases) {
          stage.progress(`${one.workload.title}: ${one.system.title}`);
          // The peak of the same minute.
          const peak = await measure(stage, one, PEAK_SECONDS);
          const rate = Math.max(1, Math.round(peak.result.iops * OF_PEAK));
          const measured = await measure(stage, one, options.seconds, rate);
          if (round >= 0) results.get(one)!.push(measured);
        }
      }
      for (const system of systems) await checkContent(stage, system.target(), SIZE);
    } finally {
      for (const system of systems) await system.close().catch((error) => stage.progress(String(error)));
      await cluster.stop();
    }
    const rows: string[][] = [];
    for (const one of cases) {
      const { judged, system, workload } = one;
      const all = results.get(one)!;
      const peer = cases.find((other) => other.judged === null && other.workload === workload);
      const beside = peer === undefined ? [] : results.get(peer)!;
      const middle = (rounds: readonly Round[], pick: (one: Round) => number) => short(median(rounds.map(pick)));
      const pair = (rounds: readonly Round[]) =>
        `${middle(rounds, ({ result }) => result.p50Us)} / ${middle(rounds, ({ result }) => result.p99Us)} us`;
      const rate = `${middle(all, (one) => one.rate)}/s`;
      const ratio = withSpread(spreadOf(all.map(p99Ratio)));
      if (judged !== null && system instanceof HoldfastSystem) {
        const peers =
          peer === undefined
            ? ''
            : `; ${peer.system.title} ${withSpread(spreadOf(beside.map(p99Ratio)))}, ${pair(beside)}`;
        const lines = [shapeLine(system.title, all)];
        if (peer !== undefined) lines.push(shapeLine(`${peer.system.title}, same rounds`, beside));
        if (misses(judged, all))
          lines.push(...(await pausesAt(stage, system.copies, workload, median(all.map((one) => one.rate)), SIZE)));
        stage.note(judged, all.map(p99Ratio), `${pair(all)} at ${rate}${peers}`, lines);
      }
      rows.push([`${workload.title}, ${system.title}`, rate, pair(all), ratio]);
    }
    stage.print(`${renderTable(['at 70 % of peak', 'rate', 'p50 / p99', 'p99 : p50'], rows)}\n`);
  },
};
