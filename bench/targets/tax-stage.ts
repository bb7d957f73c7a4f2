// Line 6: what encryption and compression cost 4 KiB writes at depth 32, by volumes that differ in nothing else, on the same
// data, in interleaved rounds; and what share of a write's CPU time its checksums are. Beside it, what other data does.

import { KiB, MiB } from '../../src/base/index.js';
import { checksumUsPerByte } from '../micro/checksum.js';
import { short, spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast, untaxed } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
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

/** Each stored byte is summed for its record, for its frame, and by the replica that takes the frame. */
const SUMMED = 3;

async function noteChecksums(
  stage: StageRun,
  samples: Samples,
  one: HoldfastSystem,
  cluster: HoldfastCluster,
): Promise<void> {
  const { processes, directory } = stage;
  await one.open();
  await runFio(processes, directory, measureJob(half, one.target(), { sizeBytes: SIZE, seconds: 1, flushLog: '' }));
  const { counters } = await cluster.status(one.volume);
  await one.close();
  const stored = Number(counters?.stored_write_bytes ?? 0) / Math.max(1, Number(counters?.write_bytes ?? 0));
  const crcUs = checksumUsPerByte() * stored * 4 * KiB * SUMMED;
  const cpuUs = spreadOf(samples.of(half, one).map((sample) => sample.cpuUs))?.median;
  if (cpuUs === undefined) return;
  const beside = `${crcUs.toFixed(2)} us of ${short(cpuUs)} us: ${SUMMED} times ${short(stored * 4 * KiB)} bytes`;
  stage.note('tax.checksums', [crcUs / cpuUs], beside);
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
      await noteChecksums(stage, samples, one, cluster);
    } finally {
      await cluster.stop();
    }
  },
};
