// Line 7, second half: what scrubbing and cleaning take from 4 KiB writes, by an engine with one replica that can be told to do
// either, beside one that has no reason to. At full speed, where every bit of CPU is missed, the rate that is lost; at half of it,
// with pauses between bursts, what the same writes cost in CPU time. (A snapshot every second is measured with the snapshots.)

import { join } from 'node:path';
import { GiB, MiB } from '../../src/base/index.js';
import { budgetOf, profiled, stageTable } from '../micro/budget.js';
import { median, short } from '../statistics.js';
import { TestDisk, whyNoTestDisk } from '../systems/test-disk.js';
import { renderTable } from '../table.js';
import { checkContent } from '../volume/content.js';
import { type FioJob, runFio } from '../volume/fio.js';
import { withData, workloadOf } from '../volume/workload.js';
import {
  alternate,
  cpuUs,
  moved,
  ROUNDS,
  ROUNDS_QUICK,
  rate,
  type Side,
  startSide,
  type Usage,
  usageOf,
} from './alternating.js';
import { losses, type Pair, pairsOf, writePairs } from './pairs.js';
import type { Stage, StageRun } from './stage.js';

/** Small, so that the log goes round in memory that the machine has already: see "New pages" in the README. */
const SIZE = 128 * MiB;
const WARM_SECONDS = 3;
const PROFILE_SECONDS = 2;

/** Incompressible, so that the log grows as fast as it can. */
const workload = withData(workloadOf('w4k-q32'), 0);

function serve({ processes }: StageRun, directory: string, pool: string): Promise<Side> {
  return startSide({ processes, directory, pool, sizeBytes: SIZE, workload });
}

function load({ job }: Side, seconds: number): FioJob {
  return { ...job, settings: { ...job.settings, runtime: seconds }, seconds };
}

/** The same writes in bursts as deep as the queue, with a pause behind each that is as long as a burst at full speed. */
function halved({ server, directory, job }: Side, peak: number): Side {
  const pause = { thinktime: Math.round((workload.depth * 1e6) / peak), thinktime_blocks: workload.depth };
  return { server, directory, job: { ...job, settings: { ...job.settings, ...pause } } };
}

interface Cost {
  readonly full: readonly Pair<Usage>[];
  readonly half: readonly Pair<Usage>[];
  /** By stage, with it and without. */
  readonly columns: readonly Column[];
}

interface Column {
  readonly cpuUs: number;
  readonly parts: ReadonlyMap<string, number>;
}

const DEAREST = 5;

/** "11.0 us of CPU a write, 5.60 without; more of it: cleaner, scrubber 2.10, append 0.90" */
function dearestLine(columns: readonly Column[]): string {
  const [withIt, without] = columns as [Column, Column];
  const more = [...withIt.parts].map(([stage, us]) => [stage, us - (without.parts.get(stage) ?? 0)] as const);
  const dearest = more.filter(([, us]) => us > 0).sort(([, a], [, b]) => b - a);
  const parts = dearest.slice(0, DEAREST).map(([stage, us]) => `${stage} ${short(us)}`);
  return `${short(withIt.cpuUs)} us of CPU a write, ${short(without.cpuUs)} without; more of it in: ${parts.join(', ')}`;
}

async function measure(stage: StageRun, what: string, without: Side, withIt: Side): Promise<Cost> {
  const { processes, clock, options } = stage;
  const parts = { processes, clock, rounds: options.quick ? ROUNDS_QUICK : ROUNDS };
  stage.progress(`writes at full speed with and without ${what}`);
  const full = await alternate(parts, without, withIt);
  const peak = median(full.map((pair) => rate(pair.without)));
  stage.progress(`writes at half speed with and without ${what}`);
  const half = await alternate(parts, halved(without, peak), halved(withIt, peak));
  stage.progress(`a profile of writes with and without ${what}`);
  const columns: Column[] = [];
  for (const [side, key] of [
    [withIt, 'with'],
    [without, 'without'],
  ] as const) {
    const work = () => runFio(processes, stage.directory, load(side, PROFILE_SECONDS));
    // What is tidied in an idle volume is not meant.
    await work();
    const times = await profiled(side.server, stage.directory, work);
    const us = median(full.map((pair) => cpuUs(pair[key])));
    columns.push({ cpuUs: us, parts: budgetOf(times, us) });
  }
  stage.print(`${stageTable([`CPU us of a write by stage, ${what}`, 'with', 'without'], columns)}\n`);
  return { full, half, columns };
}

const lost = (pairs: readonly Pair<Usage>[]) => losses(pairsOf(pairs, rate));
/** Negative losses: more CPU time is worse. */
const more = (pairs: readonly Pair<Usage>[]) => losses(pairsOf(pairs, cpuUs)).map((value) => -value);

function report(
  stage: StageRun,
  id: string,
  what: string,
  { full, half, columns }: Cost,
  happened: boolean,
  beside: string,
): void {
  const rates = (pairs: readonly Pair<Usage>[]) => `${writePairs(pairsOf(pairs, rate))}/s`;
  const cpu = (pairs: readonly Pair<Usage>[]) => `${writePairs(pairsOf(pairs, cpuUs))} us`;
  const percent = (values: readonly number[]) => {
    const [least, middle, most] = [Math.min(...values), median(values), Math.max(...values)].map((value) =>
      (value * 100).toFixed(1),
    );
    return `${middle} % (${least} to ${most})`;
  };
  const row = (title: string, pairs: readonly Pair<Usage>[]) => [
    `${title}, ${pairs.length} rounds`,
    ...[rates(pairs), percent(lost(pairs)), cpu(pairs), percent(more(pairs))],
  ];
  const head = [`4 KiB writes with : without ${what}`, 'rate', 'lost', 'CPU', 'more'];
  stage.print(`${renderTable(head, [row('at full speed', full), row('at half speed', half)])}\n${what}: ${beside}\n`);
  const halfway = `at half speed ${(median(more(half)) * 100).toFixed(0)} % more CPU`;
  const why = [dearestLine(columns), beside];
  stage.note(id, happened ? lost(full) : [], `${rates(full)}, ${cpu(full)}; ${halfway}; ${beside}`, why);
}

async function scrubbing(stage: StageRun): Promise<void> {
  const { processes, directory } = stage;
  const sides: Side[] = [];
  try {
    for (const name of ['calm', 'scrubbed']) {
      const place = join(directory, name);
      sides.push(await serve(stage, place, join(place, 'pools')));
    }
    const [calm, scrubbed] = sides as [Side, Side];
    for (const side of sides) await runFio(processes, directory, load(side, WARM_SECONDS));
    await scrubbed.server.ask('scrub-start');
    const cost = await measure(stage, 'scrubbing', calm, scrubbed);
    for (const side of sides) await checkContent({ processes, ...side }, side.server.target, SIZE);
    const verified = Number(await scrubbed.server.ask('scrub-stop'));
    const beside = `${short(verified / MiB)} MiB scrubbed, pass after pass`;
    report(stage, 'background.scrub', 'scrubbing', cost, verified > 0, beside);
  } finally {
    for (const { server } of sides) await server.stop();
  }
}

/** Live bytes over the bytes of the smaller pool. */
const FULL = 0.5;
const ROOMY = 8 * GiB;
/** What ext4 and the pool's reserve take of a small disk. */
const OVERHEAD = 160 * MiB;
/** A volume's worth in moves: the cleaner is in its steady state. */
const WARM_MOVED = SIZE;
const WARM_BYTES_MAX = 16 * SIZE;

/** Writes until the server has done what `enough` asks of it, within bounds. */
async function warm(stage: StageRun, side: Side, enough: (usage: Usage) => boolean): Promise<void> {
  const { processes, directory } = stage;
  for (;;) {
    const usage = await usageOf(side.server);
    if (enough(usage) || usage.writeBytes > WARM_BYTES_MAX) return;
    await runFio(processes, directory, load(side, WARM_SECONDS));
  }
}

/** The same writes to a pool with room and to one that is half full of live data, once its cleaner is at work. */
async function cleaning(stage: StageRun): Promise<void> {
  const { processes, clock } = stage;
  const problem = await whyNoTestDisk(processes, false);
  if (problem !== '') {
    stage.print(`cleaning is not measured: ${problem}\n`);
    return;
  }
  const disks: TestDisk[] = [];
  const sides: Side[] = [];
  try {
    for (const [name, sizeBytes] of [
      ['roomy', ROOMY],
      ['tight', SIZE / FULL + OVERHEAD],
    ] as const) {
      const place = join(stage.directory, name);
      const disk = new TestDisk({ processes, clock, directory: place, sizeBytes, bytesPerSecond: 0 });
      disks.push(disk);
      await disk.mount(join(place, 'pool'));
      sides.push(await serve(stage, place, join(place, 'pool')));
    }
    const [roomy, tight] = sides as [Side, Side];
    stage.progress('overwriting until the cleaner is at work');
    await warm(stage, tight, ({ movedBytes }) => movedBytes >= WARM_MOVED);
    // Uniform overwrites leave no segment dead for a while: until then the log goes to pages that nobody has touched.
    await warm(stage, roomy, ({ reclaimedBytes }) => reclaimedBytes > 0);
    const cost = await measure(stage, 'cleaning', roomy, tight);
    for (const side of sides) await checkContent({ processes, ...side }, side.server.target, SIZE);
    const share = median(cost.full.map((pair) => moved(pair.with)));
    const calm = Math.max(...cost.full.map((pair) => moved(pair.without)));
    const beside = `${short(share)} bytes moved per byte written, ${FULL * 100} % full${calm > 0 ? '; the roomy pool was cleaned, too' : ''}`;
    report(stage, 'background.cleaning', 'cleaning', cost, share > 0 && calm === 0, beside);
  } finally {
    for (const { server } of sides) await server.stop();
    for (const disk of disks) await disk.unmount();
  }
}

export const backgroundStage: Stage = {
  name: 'background',
  title: 'line 7: writes beside scrubbing and cleaning, in slices of a quarter of a second by turns',
  async run(stage) {
    await scrubbing(stage);
    await cleaning(stage);
  },
};
