// Line 6: what encryption and compression cost 4 KiB writes at depth 32, by servers whose volumes differ in nothing else, on the same
// data; what checksums cost, beside a kernel built without. Beside it, what other data does.

import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { nativeBinding } from '../../src/hotpath/index.js';
import { type ChecksumCost, checksumCosts } from '../micro/checksum.js';
import { loadUnsummed } from '../micro/unsummed.js';
import { median, short, spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import type { BenchSystem } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent } from '../volume/content.js';
import { rateOf } from '../volume/report.js';
import { runRounds, type Samples } from '../volume/rounds.js';
import { type Workload, withData, workloadOf } from '../volume/workload.js';
import { alternate, cpuUs, ROUNDS, ROUNDS_QUICK, rate, type Side, startSide, type Usage } from './alternating.js';
import { losses, type Pair, pairsOf, writePairs } from './pairs.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 256 * MiB;
const SECONDS = 1;

const half = workloadOf('w4k-q32');
const random = withData(half, 0);
const soft = withData(half, 75);

type Feature = 'encryption' | 'compression';

/** What having a feature costs, by two servers whose volumes differ in nothing else, in slices by turns. */
async function tax(stage: StageRun, feature: Feature, workload: Workload): Promise<Pair<Usage>[]> {
  const { processes, clock, options, directory } = stage;
  const sides: Side[] = [];
  const serve = async (name: string, without?: Feature) => {
    const place = join(directory, `${feature}-${name}`);
    const common = { processes, directory: place, pool: join(place, 'pools'), sizeBytes: SIZE, workload };
    const side = await startSide(without === undefined ? common : { ...common, without });
    sides.push(side);
    return side;
  };
  try {
    const taxed = await serve('with');
    const free = await serve('without', feature);
    stage.progress(`writes with and without ${feature}`);
    const pairs = await alternate({ processes, clock, rounds: options.quick ? ROUNDS_QUICK : ROUNDS }, free, taxed);
    for (const side of sides) await checkContent({ processes, ...side }, side.server.target, SIZE);
    return pairs;
  } finally {
    for (const { server } of sides) await server.stop();
  }
}

/** Rates, and CPU time beside. */
function noteTax(stage: StageRun, id: string, pairs: readonly Pair<Usage>[]): void {
  const beside = `${writePairs(pairsOf(pairs, rate))}/s, ${writePairs(pairsOf(pairs, cpuUs))} us with : without`;
  stage.note(id, losses(pairsOf(pairs, rate)), beside);
}

/** What sealing and checking take more of a write's CPU time than they would without checksums. */
async function checksums(stage: StageRun, writeUs: number): Promise<void> {
  const binding = nativeBinding();
  if (binding === null) {
    stage.note('tax.checksums', [], 'the native crate is not built here');
    return;
  }
  stage.progress('building the native crate without checksums');
  const costs = checksumCosts(binding, await loadUnsummed(stage.processes));
  const middle = (pick: (cost: ChecksumCost) => number) => median(costs.map(pick)).toFixed(2);
  const kernel = `sealing and checking ${middle((cost) => cost.with)} : ${middle((cost) => cost.without)} us with : without`;
  const shares = costs.map((cost) => (cost.with - cost.without) / writeUs);
  stage.note('tax.checksums', shares, `${kernel}, of ${short(writeUs)} us`);
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
    const systems = [1, 3].map((copies) => make(holdfast(copies)));
    try {
      await cluster.start();
      const workloads = [random, half, soft];
      const rounds = { rounds: options.rounds, seconds: SECONDS, sizeBytes: SIZE, workloads, systems, floor: null };
      stage.print(`${table(await runRounds({ ...stage, ...rounds }), systems)}\n`);
    } finally {
      await cluster.stop();
    }
    const encryption = await tax(stage, 'encryption', half);
    noteTax(stage, 'tax.encryption', encryption);
    noteTax(stage, 'tax.lz4', await tax(stage, 'compression', random));
    await checksums(stage, median(encryption.map((pair) => cpuUs(pair.with))));
  },
};
