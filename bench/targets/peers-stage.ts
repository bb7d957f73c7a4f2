// Lines 1 to 5: Holdfast with one and with three replicas beside the peers, in interleaved rounds, the floor in each of them.
// Every workload runs on those systems only that a target compares.

import { formatBytes } from '../../src/base/index.js';
import { formerRun, writeFormer } from '../history.js';
import { spreadOf } from '../statistics.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { baselines, findPeers } from '../systems/peers.js';
import { Floor } from '../volume/floor.js';
import { canDropPageCache } from '../volume/page-cache.js';
import { report } from '../volume/report.js';
import { runRounds } from '../volume/rounds.js';
import { type Workload, workloadOf } from '../volume/workload.js';
import { targets } from './catalogue.js';
import { isPeer, ours, type Peer, type PeersResult, peers, ratioOf } from './compared.js';
import type { Stage, StageRun } from './stage.js';
import type { Target } from './target.js';

/** Measured beside those that a target compares. */
const shownBeside: Readonly<Record<string, readonly Peer[]>> = { 'w4k-q32': ['raw', 'luks', 'qcow2'] };

/** Names of the systems that each workload is measured on, in the order of the catalogue's targets. */
function planOf(all: readonly Target[]): Map<string, Set<string>> {
  const plan = new Map<string, Set<string>>();
  for (const { compares } of all) {
    if (compares === undefined) continue;
    const { workload, base } = compares;
    const systems = plan.get(workload) ?? new Set([ours.h1.name, ours.h3.name]);
    for (const peer of [base, ...(shownBeside[workload] ?? [])]) if (isPeer(peer)) systems.add(peers[peer].name);
    plan.set(workload, systems);
  }
  return plan;
}

/** Ceph is too heavy to run each time: its figure is that of a former run on such a machine. */
function formerCeph(): PeersResult['ceph'] {
  const last = formerRun('ceph');
  if (last === undefined) return undefined;
  const found = Array.isArray(last.results) ? (last.results as Record<string, unknown>[]) : [];
  const entry = found.find((result) => result.workload === 'w4k-q32' && result.system === 'ceph-rbd');
  const cpuUs = spreadOf((entry?.cpuUs as number[] | undefined) ?? [])?.median;
  return cpuUs === undefined ? undefined : { cpuUs, when: writeFormer(last) };
}

export function peersStage(keep: (result: PeersResult) => void): Stage {
  return {
    name: 'peers',
    title: 'lines 1 to 5: beside nbdkit and qemu-nbd',
    async run(stage) {
      const { options, processes, directory } = stage;
      const parts = { ...stage, sizeBytes: options.sizeBytes };
      const { systems: others, absent } = await findPeers(parts);
      for (const { title, reason } of absent) stage.progress(`${title} is left out: ${reason}`);
      const cluster = new HoldfastCluster(stage);
      const own = [1, 3].map((copies) => new HoldfastSystem(cluster, holdfast(copies), options.sizeBytes));
      const systems = [...others, ...own];
      const plan = planOf(targets);
      const floor = new Floor(processes, directory, options.sizeBytes);
      const selected = [...plan.keys()].map(workloadOf).filter(runnable(stage));
      try {
        await cluster.start();
        const measures = (workload: Workload, { name }: { name: string }) =>
          plan.get(workload.name)?.has(name) ?? false;
        const samples = await runRounds({ ...options, ...parts, systems, workloads: selected, floor, measures });
        const result = { samples, floor: floor.rates, ceph: formerCeph() };
        keep(result);
        const settings = `${options.rounds} interleaved rounds of ${options.seconds} s; volumes of ${formatBytes(options.sizeBytes)}, written once in full; data 50 % compressible.`;
        const common = { systems, absent, baselines, workloads: selected, samples, floor: floor.rates, settings };
        stage.print(`${report(common)}\n`);
        for (const { id, compares } of targets) {
          if (compares === undefined) continue;
          const { values, beside } = ratioOf(compares, result);
          stage.note(id, values, beside);
        }
      } finally {
        for (const peer of others) await peer.close();
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
