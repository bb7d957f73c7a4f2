// Line 10: how long snapshots, their deletion and clones take, seen by who calls CSI, by the data in the volume; whether ten
// thousand of them slow down the next one, or reads. Line 7: what a snapshot every second takes from writes.

import { MiB } from '../../src/base/index.js';
import { median, short } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { type AttachedVolume, type BenchVolume, HoldfastCluster } from '../systems/holdfast-cluster.js';
import { nbdTarget } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent, checkKept, writeContent } from '../volume/content.js';
import { runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import { workloadOf } from '../volume/workload.js';
import { snapshotSizes, snapshotSizesQuick } from './catalogue.js';
import { losses, measurePairs, writePairs } from './pairs.js';
import type { Stage, StageRun } from './stage.js';

const COPIES = 3;
const REPEATS = 7;
const MANY = 10_000;
const MANY_QUICK = 1_000;
const COUNTED = 100;
/** Orders at once while the many are made; the counted ones come one after the other. */
const PARALLEL = 8;
const READ_BYTES = 128 * MiB;
const PAIRS = 7;
const EVERY_MS = 1_000;

interface Times {
  readonly sizeBytes: number;
  readonly segments: number;
  readonly createMs: number[];
  readonly deleteMs: number[];
  readonly cloneMs: number[];
}

async function timed(stage: StageRun, times: number[], work: () => Promise<unknown>): Promise<void> {
  const startMs = stage.clock.monotonicMs();
  await work();
  times.push(stage.clock.monotonicMs() - startMs);
}

async function fill(stage: StageRun, volume: AttachedVolume): Promise<void> {
  await writeContent(stage, nbdTarget(volume.uri), volume.sizeBytes, 0);
}

/** Segment files of one replica of the volume. */
async function segmentsOf(stage: StageRun, volume: AttachedVolume): Promise<number> {
  const { poolDir } = volume.node;
  const found = await stage.processes.run('find', [poolDir, '-path', `*${volume.id}*`, '-name', '*.seg'], 10_000);
  return found.stdout.split('\n').filter((line) => line !== '').length;
}

async function timesOf(stage: StageRun, cluster: HoldfastCluster, sizeBytes: number): Promise<Times> {
  const volume = await cluster.attach(await cluster.create({ name: `sized-${sizeBytes}`, copies: COPIES, sizeBytes }));
  await fill(stage, volume);
  const times: Times = {
    sizeBytes,
    segments: await segmentsOf(stage, volume),
    createMs: [],
    deleteMs: [],
    cloneMs: [],
  };
  for (let i = 0; i < REPEATS; i++) {
    const name = `of-${sizeBytes}-${i}`;
    let snapshot = '';
    await timed(stage, times.createMs, async () => {
      snapshot = await cluster.snapshot(volume, name);
    });
    const wish = { name: `clone-${name}`, copies: COPIES, sizeBytes, snapshotId: snapshot, key: volume.key };
    const clones: BenchVolume[] = [];
    await timed(stage, times.cloneMs, async () => clones.push(await cluster.create(wish)));
    for (const clone of clones) {
      if (i === REPEATS - 1) await checkClone(stage, cluster, clone);
      await cluster.remove(clone);
    }
    await timed(stage, times.deleteMs, () => cluster.removeSnapshot(snapshot));
  }
  await checkContent(stage, nbdTarget(volume.uri), sizeBytes);
  await cluster.detach(volume);
  await cluster.remove(volume);
  return times;
}

/** It must hold what its snapshot does. */
async function checkClone(stage: StageRun, cluster: HoldfastCluster, clone: BenchVolume): Promise<void> {
  const attached = await cluster.attach(clone);
  await checkKept(stage, nbdTarget(attached.uri), clone.sizeBytes);
  await cluster.detach(attached);
}

function noteTimes(stage: StageRun, all: readonly Times[]): void {
  const kinds = [
    { id: 'snapshot.create', pick: (times: Times) => times.createMs },
    { id: 'snapshot.delete', pick: (times: Times) => times.deleteMs },
    { id: 'snapshot.clone', pick: (times: Times) => times.cloneMs },
  ];
  for (const { id, pick } of kinds) {
    const medians = all.map((times) => median(pick(times)));
    const beside = all.map((times, i) => `${times.sizeBytes / MiB} MiB ${short(medians[i]!)} ms`).join(', ');
    stage.note(id, [Math.max(...medians)], beside);
  }
  const small = all[0]!;
  const large = all.at(-1)!;
  const further = (large.segments - small.segments) * COPIES;
  if (further > 0) {
    const us = ((median(large.cloneMs) - median(small.cloneMs)) * 1000) / further;
    stage.note('snapshot.clone-segment', [Math.max(0, us)], `${small.segments} and ${large.segments} segments`);
  }
  const rows = all.map((times) => [
    `${times.sizeBytes / MiB} MiB in ${times.segments} segments, ${COPIES} replicas`,
    ...[times.createMs, times.deleteMs, times.cloneMs].map(
      (ms) => `${short(median(ms))} (${short(Math.min(...ms))}-${short(Math.max(...ms))})`,
    ),
  ]);
  stage.print(`${renderTable(['ms until the call returns', 'snapshot', 'deletion', 'clone'], rows)}\n`);
}

/** Makes `count` snapshots; returns the times of the first and of the last hundred. */
async function makeMany(
  stage: StageRun,
  cluster: HoldfastCluster,
  volume: AttachedVolume,
  count: number,
): Promise<{ first: number[]; last: number[] }> {
  const first: number[] = [];
  const last: number[] = [];
  const one = (i: number) => cluster.snapshot(volume, `many-${i}`);
  for (let i = 0; i < COUNTED; i++) await timed(stage, first, () => one(i));
  for (let i = COUNTED; i < count - COUNTED; i += PARALLEL) {
    const until = Math.min(i + PARALLEL, count - COUNTED);
    await Promise.all(Array.from({ length: until - i }, (_, k) => one(i + k)));
    if ((i - COUNTED) % (PARALLEL * 125) === 0) stage.progress(`${i} of ${count} snapshots`);
  }
  for (let i = count - COUNTED; i < count; i++) await timed(stage, last, () => one(i));
  return { first, last };
}

async function manySnapshots(stage: StageRun, cluster: HoldfastCluster): Promise<void> {
  const count = stage.options.quick ? MANY_QUICK : MANY;
  const make = async (name: string) => {
    const volume = await cluster.attach(await cluster.create({ name, copies: 1, sizeBytes: READ_BYTES }));
    await fill(stage, volume);
    return volume;
  };
  const plain = await make('without-snapshots');
  const full = await make('with-snapshots');
  const { first, last } = await makeMany(stage, cluster, full, count);
  const pair = `${short(median(last))} ms : ${short(median(first))} ms`;
  stage.note('snapshot.last-first', [median(last) / median(first)], `${pair}, ${count} snapshots`);
  const read = (volume: AttachedVolume) => async () => {
    const { processes, directory, options } = stage;
    const job = { sizeBytes: READ_BYTES, seconds: options.seconds, flushLog: '' };
    return (await runFio(processes, directory, measureJob(workloadOf('r4k-q32'), nbdTarget(volume.uri), job))).iops;
  };
  await read(plain)();
  await read(full)();
  const pairs = await measurePairs(stage.options.quick ? 2 : PAIRS, read(plain), read(full));
  stage.note(
    'snapshot.reads',
    pairs.map((one) => one.with / one.without),
    `${writePairs(pairs)}/s, ${count} snapshots`,
  );
  for (const volume of [plain, full]) await checkContent(stage, nbdTarget(volume.uri), READ_BYTES);
  stage.print(
    `${count} snapshots: first ${COUNTED} ${short(median(first))} ms each, last ${COUNTED} ${short(median(last))} ms\n`,
  );
}

/** Writes at full speed, with a snapshot every second and without. */
async function everySecond(stage: StageRun, cluster: HoldfastCluster): Promise<void> {
  const { processes, directory, options, clock } = stage;
  const system = new HoldfastSystem(cluster, holdfast(COPIES), 2 * READ_BYTES);
  await system.open();
  await fill(stage, system.volume);
  const seconds = Math.max(3, options.seconds);
  const run = async () => {
    const job = { sizeBytes: 2 * READ_BYTES, seconds, flushLog: '' };
    return (await runFio(processes, directory, measureJob(workloadOf('w4k-q32'), system.target(), job))).iops;
  };
  let made = 0;
  const withSnapshots = async () => {
    let over = false;
    const taking = (async () => {
      while (!over) {
        await cluster.snapshot(system.volume, `second-${made++}`);
        await clock.sleep(EVERY_MS);
      }
    })();
    try {
      return await run();
    } finally {
      over = true;
      await taking;
    }
  };
  await run();
  const pairs = await measurePairs(options.quick ? 2 : PAIRS, run, withSnapshots);
  stage.note('background.snapshots', losses(pairs), `${writePairs(pairs)}/s, ${made} snapshots`);
  await checkContent(stage, system.target(), 2 * READ_BYTES);
  // Snapshots keep their volume: the cluster goes with both.
}

export const snapshotsStage: Stage = {
  name: 'snapshots',
  title: 'lines 10 and 7: snapshots, their deletion, clones; ten thousand of them; one every second',
  async run(stage) {
    const cluster = new HoldfastCluster(stage);
    try {
      await cluster.start();
      const all: Times[] = [];
      for (const sizeBytes of stage.options.quick ? snapshotSizesQuick : snapshotSizes) {
        stage.progress(`volume of ${sizeBytes / MiB} MiB`);
        all.push(await timesOf(stage, cluster, sizeBytes));
      }
      noteTimes(stage, all);
      stage.progress('a snapshot every second');
      await everySecond(stage, cluster);
      await manySnapshots(stage, cluster);
    } finally {
      await cluster.stop();
    }
  },
};
