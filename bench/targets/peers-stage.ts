// Lines 1 to 5: Holdfast with one and with three replicas beside the peers, in interleaved rounds, the floor in each of them.
// Every workload runs on those systems only that a target compares.

import { formatBytes } from '../../src/base/index.js';
import { formerRun, isSteady } from '../history.js';
import { ratios, short, spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { baselines, findPeers } from '../systems/peers.js';
import { Floor } from '../volume/floor.js';
import { canDropPageCache } from '../volume/page-cache.js';
import { byRound, rateOf, report } from '../volume/report.js';
import { runRounds, type Samples } from '../volume/rounds.js';
import { type Workload, workloadOf } from '../volume/workload.js';
import type { Stage, StageRun } from './stage.js';

const H1 = 'holdfast-x1';
const H3 = 'holdfast-x3';
const NBDKIT = 'nbdkit-file';
const RAW = 'qemu-nbd-raw';
const LUKS = 'qemu-nbd-luks';
const QCOW2 = 'qemu-nbd-qcow2';

/** Workloads in their order, each with the systems that it is measured on: H1, H3 and these. */
const plan: Readonly<Record<string, readonly string[]>> = {
  'w4k-q1': [RAW],
  'w4k-q1-flush': [RAW],
  'w4k-c32-flush': [],
  'w4k-q32': [NBDKIT, RAW, LUKS, QCOW2],
  'r4k-q1': [RAW],
  'r4k-q32': [NBDKIT],
  'r4k-q1-cold': [RAW],
  'r4k-q32-cold': [RAW],
  'w128k-q8': [LUKS],
  'r128k-q8': [LUKS],
};

/** What the figures are taken from. */
export interface PeersResult {
  readonly samples: Samples;
  readonly floor: ReadonlyMap<string, readonly number[]>;
}

interface Compared {
  readonly workload: string;
  readonly ours: string;
  readonly base: string;
  readonly of: 'rate' | 'cpu';
}

function systemName(short: string): string {
  return { h1: H1, h3: H3, nbdkit: NBDKIT, raw: RAW, luks: LUKS }[short] ?? short;
}

/** 'w4k-q1.h1.raw' and 'cpu.w4k-q1.h3.raw' say what is divided by what. */
function compared(id: string): Compared {
  const words = id.split('.');
  const of = words[0] === 'cpu' ? 'cpu' : 'rate';
  const [workload, ours, base] = of === 'cpu' ? words.slice(1) : words;
  return { workload: workload!, ours: systemName(ours!), base: systemName(base!), of };
}

/** The ratio that a target of this stage names, round by round, and the two figures behind it. */
export function ratioOf(id: string, samples: Samples): { values: number[]; beside: string } {
  const { workload, ours, base, of } = compared(id);
  const what = workloadOf(workload);
  const figure = (system: string) =>
    byRound(samples.of({ name: workload }, { name: system }), (sample) =>
      of === 'cpu' ? sample.cpuUs : rateOf(what, sample),
    );
  const unit = of === 'cpu' ? ' us' : what.unit === 'iops' ? '/s' : ' MB/s';
  const middle = (system: string) => `${short(spreadOf(figure(system).filter(isNumber))?.median ?? 0)}${unit}`;
  return { values: ratios(figure(ours), figure(base)), beside: `${middle(ours)} : ${middle(base)}` };
}

function isNumber(value: number | undefined): value is number {
  return value !== undefined;
}

const ratioIds = [
  ...['w4k-q32.h1.nbdkit', 'w4k-q32.h3.nbdkit', 'w4k-q1.h1.raw', 'w4k-q1.h3.raw', 'w4k-q1-flush.h1.raw'],
  ...['r4k-q32.h1.nbdkit', 'r4k-q32.h3.nbdkit', 'r4k-q1.h1.raw', 'r4k-q1.h3.raw'],
  ...['r4k-q1-cold.h1.raw', 'r4k-q1-cold.h3.raw', 'r4k-q32-cold.h1.raw', 'r4k-q32-cold.h3.raw'],
  ...['w128k-q8.h1.luks', 'w128k-q8.h3.luks', 'r128k-q8.h1.luks', 'r128k-q8.h3.luks'],
  ...['cpu.w4k-q32.h1.nbdkit', 'cpu.w4k-q32.h3.nbdkit', 'cpu.w4k-q1.h3.raw'],
];

function noteFigures(stage: StageRun, { samples, floor }: PeersResult): void {
  for (const id of ratioIds) {
    const { values, beside } = ratioOf(id, samples);
    stage.note(id, values, beside);
  }
  const rates = (workload: string, system: string) =>
    byRound(samples.of({ name: workload }, { name: system }), ({ iops }) => iops);
  const middle = (values: readonly (number | undefined)[]) => short(spreadOf(values.filter(isNumber))?.median ?? 0);
  for (const [system, name, item] of [
    [H1, 'h1', 'sync'],
    [H3, 'h3', 'sync-3'],
  ] as const) {
    const alone = rates('w4k-q1-flush', system);
    const bottom = floor.get(item) ?? [];
    stage.note(`w4k-q1-flush.${name}.floor`, ratios(alone, bottom), `${middle(alone)}/s : ${middle(bottom)}/s`);
    const many = rates('w4k-c32-flush', system);
    stage.note(`w4k-c32-flush.${name}`, ratios(many, alone), `${middle(many)}/s : ${middle(alone)}/s`);
  }
  noteCeph(stage, samples);
}

/** Ceph is too heavy to run each time: its figure is that of a former run on such a machine. */
function noteCeph(stage: StageRun, samples: Samples): void {
  const last = formerRun('ceph');
  const found = Array.isArray(last?.results) ? (last.results as Record<string, unknown>[]) : [];
  const entry = found.find((result) => result.workload === 'w4k-q32' && result.system === 'ceph-rbd');
  const cpuUs = spreadOf((entry?.cpuUs as number[] | undefined) ?? [])?.median;
  for (const [system, name] of [
    [H1, 'h1'],
    [H3, 'h3'],
  ] as const) {
    const own = samples.of({ name: 'w4k-q32' }, { name: system }).map((sample) => sample.cpuUs);
    const id = `cpu.w4k-q32.${name}.ceph`;
    if (cpuUs === undefined) stage.note(id, [], 'no published run of Ceph on such a machine: npm run bench -- ceph');
    else {
      const beside = `${short(spreadOf(own)?.median ?? 0)} us : ${short(cpuUs)} us of ${String(last?.at).slice(0, 10)}${last !== undefined && isSteady(last) ? '' : ', unsteady machine'}`;
      stage.note(
        id,
        own.map((value) => value / cpuUs),
        beside,
      );
    }
  }
}

export function peersStage(keep: (result: PeersResult) => void): Stage {
  return {
    name: 'peers',
    title: 'lines 1 to 5: beside nbdkit and qemu-nbd',
    async run(stage) {
      const { options, processes, directory } = stage;
      const parts = { ...stage, sizeBytes: options.sizeBytes };
      const { systems: peers, absent } = await findPeers(parts);
      for (const { title, reason } of absent) stage.progress(`${title} is left out: ${reason}`);
      const cluster = new HoldfastCluster(stage);
      const ours = [1, 3].map((copies) => new HoldfastSystem(cluster, holdfast(copies), options.sizeBytes));
      const systems = [...peers, ...ours];
      const floor = new Floor(processes, directory, options.sizeBytes);
      const selected = Object.keys(plan).map(workloadOf).filter(runnable(stage));
      try {
        await cluster.start();
        const measures = (workload: Workload, { name }: { name: string }) =>
          name === H1 || name === H3 || (plan[workload.name] ?? []).includes(name);
        const samples = await runRounds({ ...options, ...parts, systems, workloads: selected, floor, measures });
        keep({ samples, floor: floor.rates });
        const settings = `${options.rounds} interleaved rounds of ${options.seconds} s; volumes of ${formatBytes(options.sizeBytes)}, written once in full; data 50 % compressible.`;
        const common = { systems, absent, baselines, workloads: selected, samples, floor: floor.rates, settings };
        stage.print(`${report(common)}\n`);
        noteFigures(stage, { samples, floor: floor.rates });
      } finally {
        for (const peer of peers) await peer.close();
        await cluster.stop();
        floor.remove();
      }
    },
  };
}

function runnable(stage: StageRun): (workload: Workload) => boolean {
  const cold = canDropPageCache();
  if (!cold) stage.progress('cold reads are left out: dropping the page cache needs root');
  return (workload) => cold || !workload.cold;
}
