// Line 7, first half: the tail of latency at 70 % of what the volume can do, for reads and writes, with one replica and three; nbdkit's
// file plugin beside them shows how much of it is the machine's and the client's.

import { MiB } from '../../src/base/index.js';
import { median, short } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { nbdkitFile } from '../systems/nbdkit-file.js';
import { SocketServer } from '../systems/socket-server.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent, writeContent } from '../volume/content.js';
import { type FioResult, runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import { type Workload, workloadOf } from '../volume/workload.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 256 * MiB;
const PEAK_SECONDS = 1;
const OF_PEAK = 0.7;

interface Case {
  /** Of the figure that is judged; null: only shown. */
  readonly judged: string | null;
  readonly system: BenchSystem;
  readonly workload: Workload;
}

function measure(stage: StageRun, { system, workload }: Case, seconds: number, rate = 0): Promise<FioResult> {
  const { processes, directory } = stage;
  const job = measureJob(workload, system.target(), { sizeBytes: SIZE, seconds, flushLog: '', rate });
  return runFio(processes, directory, job);
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
    const results = new Map<Case, { rate: number; p50Us: number; p99Us: number }[]>(cases.map((one) => [one, []]));
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
          const rate = Math.max(1, Math.round(peak.iops * OF_PEAK));
          const { p50Us, p99Us } = await measure(stage, one, options.seconds, rate);
          if (round >= 0) results.get(one)!.push({ rate, p50Us, p99Us });
        }
      }
      for (const system of systems) await checkContent(stage, system.target(), SIZE);
    } finally {
      for (const system of systems) await system.close().catch((error) => stage.progress(String(error)));
      await cluster.stop();
    }
    const rows = cases.map((one) => {
      const { judged, system, workload } = one;
      const all = results.get(one)!;
      const middle = (pick: (one: (typeof all)[number]) => number) => short(median(all.map(pick)));
      const pair = `${middle(({ p50Us }) => p50Us)} / ${middle(({ p99Us }) => p99Us)} us`;
      const rate = `${middle((one) => one.rate)}/s`;
      const ratios = all.map(({ p50Us, p99Us }) => p99Us / p50Us);
      if (judged !== null) stage.note(judged, ratios, `${pair} at ${rate}`);
      return [`${workload.title}, ${system.title}`, rate, pair, short(median(ratios))];
    });
    stage.print(`${renderTable(['at 70 % of peak', 'rate', 'p50 / p99', 'p99 : p50'], rows)}\n`);
  },
};
