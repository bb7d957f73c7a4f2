// `ceph`: Ceph RBD with three OSDs beside Holdfast and nbdkit. A command of its own, since Ceph wants 80 packages, 12 GiB of
// disk and 3 GiB of memory; its published CPU time per write is what `targets` compares with afterwards.

import { existsSync, rmSync, writeFileSync } from 'node:fs';
import { formatBytes, precondition } from '../../src/base/index.js';
import { chosen } from '../options.js';
import { lastLine } from '../processes.js';
import { Publication } from '../publish.js';
import type { BenchRun } from '../run.js';
import { CephSystem, cephPackages } from '../systems/ceph.js';
import { HoldfastSystem, holdfast } from '../systems/holdfast.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { baselines, findPeers } from '../systems/peers.js';
import { requireFio } from '../volume/fio.js';
import { Floor } from '../volume/floor.js';
import { report } from '../volume/report.js';
import { runRounds } from '../volume/rounds.js';
import { workloads } from '../volume/workload.js';

const INSTALL_MS = 600_000;
/** Keeps the packages' services from being started (invoke-rc.d's policy layer). */
const POLICY = '/usr/sbin/policy-rc.d';
const usual = ['w4k-q1', 'w4k-q1-flush', 'w4k-q32', 'r4k-q1', 'r4k-q32', 'w128k-q8', 'r128k-q8'];

async function requireCeph(run: BenchRun): Promise<void> {
  const { processes, options } = run;
  const present = async () => {
    for (const program of ['ceph', 'ceph-mon', 'ceph-mgr', 'ceph-osd', 'rbd'])
      if ((await processes.version(program)) === undefined) return false;
    return true;
  };
  if (!(await present())) {
    const names = cephPackages.join(' ');
    if (!options.install) {
      throw precondition(
        `Ceph is not installed: install the Debian packages ${names}, or say --install`,
        'ToolMissing',
      );
    }
    run.progress(`installing ${names}`);
    const policy = existsSync(POLICY);
    if (!policy) writeFileSync(POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755 });
    try {
      const quiet = ['install', '--yes', '--quiet', '--no-install-recommends', ...cephPackages];
      const env = { DEBIAN_FRONTEND: 'noninteractive' };
      const { code, stderr } = await processes.run('apt-get', quiet, INSTALL_MS, env);
      if (code !== 0) throw precondition(`apt-get could not install ${names}: ${lastLine(stderr)}`, 'ToolMissing');
    } finally {
      if (!policy) rmSync(POLICY, { force: true });
    }
  }
  const engines = await processes.run('fio', ['--enghelp'], 10_000);
  if (!/\brbd\b/.test(engines.stdout)) throw precondition('this fio has no rbd engine', 'ToolMissing');
}

export async function runCephBench(run: BenchRun): Promise<void> {
  const { options, processes, directory } = run;
  const { rounds, seconds, sizeBytes } = options;
  await requireFio(processes);
  await requireCeph(run);
  const publication = await Publication.begin(run, 'ceph', []);
  const common = { ...run, sizeBytes };
  const ceph = new CephSystem(common);
  const cluster = new HoldfastCluster(run);
  const peers = await findPeers(common);
  const all = [...peers.systems, new HoldfastSystem(cluster, holdfast(3), sizeBytes), ceph];
  const wanted = options.systems.length > 0 ? options.systems : ['nbdkit-file', 'holdfast-x3', ceph.name];
  const systems = chosen('systems', all, wanted);
  const selected = chosen('workloads', workloads, options.workloads.length > 0 ? options.workloads : usual);
  const floor = new Floor(processes, directory, sizeBytes);
  try {
    run.progress('starting Ceph');
    await ceph.start();
    run.progress('starting three nodes of Holdfast');
    await cluster.start();
    const samples = await runRounds({ ...options, ...run, systems, workloads: selected, floor });
    const settings = `${rounds} interleaved rounds of ${seconds} s; volumes of ${formatBytes(sizeBytes)}, written once in full; data 50 % compressible.`;
    const input = { systems, absent: [], baselines, workloads: selected, samples, floor: floor.rates, settings };
    run.print(report(input));
    run.print(`${publication.conditions(floor.rates)}\n`);
    await publication.conclude(floor.rates, [], {
      settings: { rounds, seconds, sizeBytes, compressiblePercent: 50 },
      results: samples.summary(),
    });
  } finally {
    for (const system of peers.systems) await system.close();
    await cluster.stop();
    await ceph.stop();
    floor.remove();
  }
}
