// Line 6: what encryption and compression cost 4 KiB writes at depth 32, by volumes that differ in nothing else, on the same
// data, in interleaved rounds; what checksums cost, beside a build without any. Beside it, what other data does.

import { join } from 'node:path';
import { KiB, MiB } from '../../src/base/index.js';
import { checksumUsPerByte } from '../micro/checksum.js';
import { buildUnsummed } from '../micro/unsummed.js';
import { median, short, spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast, untaxed } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent } from '../volume/content.js';
import { byRound, rateOf } from '../volume/report.js';
import { runRounds, type Samples } from '../volume/rounds.js';
import { type Workload, withData, workloadOf } from '../volume/workload.js';
import { alternate, cpuUs, ROUNDS, ROUNDS_QUICK, rate, type Side, startSide } from './alternating.js';
import { losses, pairsOf, writePairs } from './pairs.js';
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

/** One engine, replica and NBD server in a process, as it is and built without checksums, in slices by turns. */
async function checksums(stage: StageRun): Promise<void> {
  const { processes, clock, options, directory } = stage;
  stage.progress('building everything without checksums');
  const build = await buildUnsummed({ processes, directory });
  if ('whyNot' in build) {
    stage.print(`checksums are not measured: ${build.whyNot}\n`);
    return;
  }
  const sides: Side[] = [];
  try {
    for (const [name, more] of [
      ['bare', build],
      ['summed', {}],
    ] as const) {
      const place = join(directory, name);
      const common = { processes, directory: place, pool: join(place, 'pools'), sizeBytes: SIZE, workload: half };
      sides.push(await startSide({ ...common, ...more }));
    }
    stage.progress('writes with and without checksums');
    const rounds = options.quick ? ROUNDS_QUICK : ROUNDS;
    const [bare, summed] = sides as [Side, Side];
    const pairs = await alternate({ processes, clock, rounds }, bare, summed);
    for (const side of sides) await checkContent({ processes, ...side }, side.server.target, SIZE);
    const cpu = pairsOf(pairs, cpuUs);
    const rates = pairsOf(pairs, rate);
    const lost = `${(median(losses(rates)) * 100).toFixed(1)} % of the rate`;
    const beside = `${writePairs(cpu)} us with : without, ${writePairs(rates)}/s, ${lost}, ${pairs.length} rounds`;
    const share = cpu.map((pair) => 1 - pair.without / pair.with);
    stage.note('tax.checksums', share, beside);
    stage.print(`checksums: ${beside}; CRC-32C alone ${(checksumUsPerByte() * KiB).toFixed(3)} us per KiB\n`);
  } finally {
    for (const { server } of sides) await server.stop();
  }
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
    } finally {
      await cluster.stop();
    }
    await checksums(stage);
  },
};
