// Line 10: how long snapshots, their deletion and clones take, seen by who calls CSI, by the data in the volume; whether ten
// thousand of them slow down the next one, or reads. Line 7: what a snapshot every second takes from writes.

import { availableParallelism } from 'node:os';
import { MiB } from '../../src/base/index.js';
import { cpuSecondsOfEach } from '../cpu-time.js';
import { median, short, spreadOf, withSpread } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { type AttachedVolume, type BenchVolume, HoldfastCluster } from '../systems/holdfast-cluster.js';
import { nbdTarget } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent, checkKept, writeContent } from '../volume/content.js';
import { type FioResult, runFio } from '../volume/fio.js';
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
  /** CPU time of all repeats by process, in milliseconds (the clock of processes ticks every 10 ms). */
  readonly createCpu: Map<string, number>;
  readonly deleteCpu: Map<string, number>;
  readonly cloneCpu: Map<string, number>;
}

async function timed(stage: StageRun, times: number[], work: () => Promise<unknown>): Promise<void> {
  const startMs = stage.clock.monotonicMs();
  await work();
  times.push(stage.clock.monotonicMs() - startMs);
}

type Roles = Readonly<Record<string, readonly number[]>>;

/** The processes of a cluster, by what they are to a volume. */
function rolesOf(cluster: HoldfastCluster, volume: AttachedVolume): Roles {
  const home = volume.node.id;
  const others = cluster.nodes.filter(({ id }) => id !== home).map(({ id }) => cluster.storagePid(id));
  return { all: [cluster.pid], 'daemon with the engine': [cluster.storagePid(home)], 'other daemons': others };
}

/** Adds the CPU time that each took during `work`, in milliseconds. */
async function charged(roles: Roles, used: Map<string, number>, work: () => Promise<unknown>): Promise<void> {
  const sets = Object.values(roles);
  const before = cpuSecondsOfEach(sets);
  await work();
  const after = cpuSecondsOfEach(sets);
  Object.keys(roles).forEach((role, i) => {
    used.set(role, (used.get(role) ?? 0) + (after[i]! - before[i]!) * 1000);
  });
}

/** "daemon with the engine 3.10, other daemons 4.00, controller and the rest 2.20" of CPU time, over `count`. */
function writeCharged(used: ReadonlyMap<string, number>, count: number): string {
  const named = [...used].filter(([role]) => role !== 'all');
  const rest = (used.get('all') ?? 0) - named.reduce((sum, [, ms]) => sum + ms, 0);
  const all = [...named, ['controller and the rest', Math.max(0, rest)] as const];
  return all.map(([role, ms]) => `${role} ${short(ms / count)}`).join(', ');
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
    createCpu: new Map(),
    deleteCpu: new Map(),
    cloneCpu: new Map(),
  };
  const roles = rolesOf(cluster, volume);
  for (let i = 0; i < REPEATS; i++) {
    const name = `of-${sizeBytes}-${i}`;
    let snapshot = '';
    const create = async () => {
      snapshot = await cluster.snapshot(volume, name);
    };
    await charged(roles, times.createCpu, () => timed(stage, times.createMs, create));
    const wish = { name: `clone-${name}`, copies: COPIES, sizeBytes, snapshotId: snapshot, key: volume.key };
    const clones: BenchVolume[] = [];
    const clone = async () => clones.push(await cluster.create(wish));
    await charged(roles, times.cloneCpu, () => timed(stage, times.cloneMs, clone));
    for (const clone of clones) {
      if (i === REPEATS - 1) await checkClone(stage, cluster, clone);
      await cluster.remove(clone);
    }
    const remove = () => cluster.removeSnapshot(snapshot);
    await charged(roles, times.deleteCpu, () => timed(stage, times.deleteMs, remove));
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

/** "512 MiB in 64 segments: 21.0 ms (18.2-30.1) until the call returns; CPU ms: ...; the rest is waited for (calls, syncs)" */
function timesLine({ sizeBytes, segments }: Times, ms: readonly number[], cpu: ReadonlyMap<string, number>): string {
  const cpuMs = writeCharged(cpu, ms.length);
  return `${sizeBytes / MiB} MiB in ${segments} segments: ${withSpread(spreadOf(ms))} ms until the call returns; CPU ms of it: ${cpuMs}; what is left is waited for: calls, syncs, turns of the loop`;
}

function noteTimes(stage: StageRun, all: readonly Times[]): void {
  const kinds = [
    { id: 'snapshot.create', pick: (times: Times) => times.createMs, cpu: (times: Times) => times.createCpu },
    { id: 'snapshot.delete', pick: (times: Times) => times.deleteMs, cpu: (times: Times) => times.deleteCpu },
    { id: 'snapshot.clone', pick: (times: Times) => times.cloneMs, cpu: (times: Times) => times.cloneCpu },
  ];
  for (const { id, pick, cpu } of kinds) {
    const medians = all.map((times) => median(pick(times)));
    const beside = all.map((times, i) => `${times.sizeBytes / MiB} MiB ${short(medians[i]!)} ms`).join(', ');
    stage.note(
      id,
      [Math.max(...medians)],
      beside,
      all.map((times) => timesLine(times, pick(times), cpu(times))),
    );
  }
  const small = all[0]!;
  const large = all.at(-1)!;
  const further = (large.segments - small.segments) * COPIES;
  if (further > 0) {
    const us = ((median(large.cloneMs) - median(small.cloneMs)) * 1000) / further;
    const why = [small, large].map((times) => timesLine(times, times.cloneMs, times.cloneCpu));
    const more = new Map([...large.cloneCpu].map(([role, ms]) => [role, ms - (small.cloneCpu.get(role) ?? 0)]));
    why.push(
      `CPU us of each further segment and replica: ${writeCharged(more, (further * REPEATS) / 1000)}; replicas work at the same time on ${availableParallelism()} cores`,
    );
    const beside = `${small.segments} and ${large.segments} segments`;
    stage.note('snapshot.clone-segment', [Math.max(0, us)], beside, why);
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
  const when = [
    `first ${COUNTED}: ${withSpread(spreadOf(first))} ms each; last ${COUNTED}: ${withSpread(spreadOf(last))} ms`,
  ];
  stage.note('snapshot.last-first', [median(last) / median(first)], `${pair}, ${count} snapshots`, when);
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

interface Used {
  readonly results: FioResult[];
  /** CPU time by process, in milliseconds. */
  readonly cpu: Map<string, number>;
}

function usedLine(title: string, { results, cpu }: Used): string {
  const writes = results.reduce((sum, { operations }) => sum + operations, 0);
  const middle = (pick: (result: FioResult) => number) => short(median(results.map(pick)));
  return `${title}: ${middle(({ iops }) => iops)}/s, p50 ${middle(({ p50Us }) => p50Us)}, p99 ${middle(({ p99Us }) => p99Us)}, p99.9 ${middle(({ p999Us }) => p999Us)} us; CPU us of a write: ${writeCharged(cpu, writes / 1000)}, client ${middle(({ clientCpuUs }) => clientCpuUs)}`;
}

/** Writes at full speed, with a snapshot every second and without. */
async function everySecond(stage: StageRun, cluster: HoldfastCluster): Promise<void> {
  const { processes, directory, options, clock } = stage;
  const system = new HoldfastSystem(cluster, holdfast(COPIES), 2 * READ_BYTES);
  await system.open();
  await fill(stage, system.volume);
  const seconds = Math.max(3, options.seconds);
  const roles = rolesOf(cluster, system.volume);
  const run = async (used: Used) => {
    const job = { sizeBytes: 2 * READ_BYTES, seconds, flushLog: '' };
    await charged(roles, used.cpu, async () => {
      used.results.push(await runFio(processes, directory, measureJob(workloadOf('w4k-q32'), system.target(), job)));
    });
    return used.results.at(-1)!.iops;
  };
  const calm: Used = { results: [], cpu: new Map() };
  const beset: Used = { results: [], cpu: new Map() };
  const madeMs: number[] = [];
  let made = 0;
  const withSnapshots = async () => {
    let over = false;
    const taking = (async () => {
      while (!over) {
        await timed(stage, madeMs, () => cluster.snapshot(system.volume, `second-${made++}`));
        await clock.sleep(EVERY_MS);
      }
    })();
    try {
      return await run(beset);
    } finally {
      over = true;
      await taking;
    }
  };
  await run({ results: [], cpu: new Map() });
  const pairs = await measurePairs(options.quick ? 2 : PAIRS, () => run(calm), withSnapshots);
  const why = [
    usedLine('with a snapshot each second', beset),
    usedLine('without', calm),
    `a snapshot takes ${withSpread(spreadOf(madeMs))} ms; the first write to each page of the map behind one copies the page, and its checkpoint writes it as a version of its own`,
  ];
  stage.note('background.snapshots', losses(pairs), `${writePairs(pairs)}/s, ${made} snapshots`, why);
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
