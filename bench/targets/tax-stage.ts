// Line 6: what encryption and compression cost 4 KiB writes at depth 32, by volumes that differ in nothing else, on the same
// data, in interleaved rounds; what checksums cost, beside a kernel built without. Beside it, what other data does.

import { MiB } from '../../src/base/index.js';
import { nativeBinding } from '../../src/hotpath/index.js';
import { type ChecksumCost, checksumCosts } from '../micro/checksum.js';
import { loadUnsummed } from '../micro/unsummed.js';
import { median, short, spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast, untaxed } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { byRound, rateOf } from '../volume/report.js';
import { runRounds, type Samples } from '../volume/rounds.js';
import { type Workload, withData, workloadOf } from '../volume/workload.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 256 * MiB;
const SECONDS = 1;

const half = workloadOf('w4k-q32');
const random = withData(half, 0);
const soft = withData(half, 75);

/** Fractions of the rate without a feature that having it costs, round by round. */
export function taxes(samples: Samples, workload: Workload, taxed: string, without: string): number[] {
  const rates = (name: string) => byRound(samples.of(workload, { name }), ({ iops }) => iops);
  const free = rates(without);
  return rates(taxed).flatMap((rate, round) => {
    const base = free[round];
    return rate === undefined || base === undefined || base === 0 ? [] : [1 - rate / base];
  });
}

/** What sealing and checking take more of a write's CPU time than they would without checksums. */
async function checksums(stage: StageRun, samples: Samples, one: BenchSystem): Promise<void> {
  const binding = nativeBinding();
  const cpuUs = spreadOf(samples.of(half, one).map((sample) => sample.cpuUs))?.median;
  if (binding === null || cpuUs === undefined) {
    stage.note('tax.checksums', [], 'the native crate is not built here');
    return;
  }
  stage.progress('building the native crate without checksums');
  const costs = checksumCosts(binding, await loadUnsummed(stage.processes));
  const middle = (pick: (cost: ChecksumCost) => number) => median(costs.map(pick)).toFixed(2);
  const kernel = `sealing and checking ${middle((cost) => cost.with)} : ${middle((cost) => cost.without)} us with : without`;
  const shares = costs.map((cost) => (cost.with - cost.without) / cpuUs);
  stage.note('tax.checksums', shares, `${kernel}, of ${short(cpuUs)} us`);
}

function table(samples: Samples, systems: readonly BenchSystem[]): string {
  const rows = [random, half, soft].flatMap((workload) =>
    systems.flatMap((system) => {
      const all = samples.of(workload, system);
      if (all.length === 0) return [];
      const rate = spreadOf(all.map((sample) => rateOf(workload, sample)))?.median ?? 0;
      const cpu = spreadOf(all.map((sample) => sample.cpuUs))?.median ?? 0;
      return [[`${workload.compressiblePercent ?? 50} % compressible, ${system.title}`, short(rate), short(cpu)]];
    }),
  );
  return renderTable(['4 KiB random write, QD 32', 'per second', 'CPU us'], rows);
}

export const taxStage: Stage = {
  name: 'tax',
  title: 'line 6: what encryption, checksums and compression cost; data of other kinds',
  async run(stage) {
    const { options } = stage;
    const cluster = new HoldfastCluster(stage);
    const make = (variant: ReturnType<typeof holdfast>) => new HoldfastSystem(cluster, variant, SIZE);
    const [plain, raw] = untaxed.map(make);
    const one = make(holdfast(1));
    const three = make(holdfast(3));
    const systems = [one, three, plain!, raw!];
    const measures = (workload: Workload, system: { readonly name: string }) =>
      system === plain ? workload === half : system === raw ? workload === random : true;
    try {
      await cluster.start();
      const samples = await runRounds({
        ...stage,
        rounds: options.rounds,
        seconds: SECONDS,
        sizeBytes: SIZE,
        workloads: [random, half, soft],
        systems,
        measures,
        floor: null,
      });
      stage.print(`${table(samples, systems)}\n`);
      const rates = (workload: Workload, a: BenchSystem, b: BenchSystem) =>
        [a, b].map(
          (system) => `${short(spreadOf(samples.of(workload, system).map(({ iops }) => iops))?.median ?? 0)}/s`,
        );
      stage.note('tax.encryption', taxes(samples, half, one.name, plain!.name), rates(half, one, plain!).join(' : '));
      stage.note('tax.lz4', taxes(samples, random, one.name, raw!.name), rates(random, one, raw!).join(' : '));
      await checksums(stage, samples, one);
    } finally {
      await cluster.stop();
    }
  },
};
