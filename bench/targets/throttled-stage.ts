// Line 8, second half: three replicas, the disk of one of them held to 50 MB/s (nbdkit's rate filter behind nbdfuse and a loop
// device), more written than it takes. No replica may be dropped for it, reads must go on (a lease that is not renewed in time
// would stop them), and writes must be slowed down evenly rather than now and then for long.

import { join } from 'node:path';
import { GiB, MiB, messageOf } from '../../src/base/index.js';
import { NbdClient } from '../../src/nbd/index.js';
import { short } from '../statistics.js';
import { type AttachedVolume, HoldfastCluster, poolPath } from '../systems/holdfast-cluster.js';
import { nbdTarget } from '../systems/system.js';
import { TestDisk, whyNoTestDisk } from '../systems/test-disk.js';
import { checkContent, writeContent } from '../volume/content.js';
import { runFio } from '../volume/fio.js';
import { measureJob } from '../volume/jobs.js';
import { withData, workloadOf } from '../volume/workload.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 256 * MiB;
const DISK = 4 * GiB;
const RATE = 50e6;
/** Less than this, and something else than the disk held the writes back. */
const LIMITED = 0.5 * RATE;
const SECONDS = 20;
const SECONDS_QUICK = 8;
const READ_EVERY_MS = 20;
const LOOK_EVERY_MS = 250;
/** A read that takes longer than the lease has waited for one. */
const LEASE_MS = 1_000;

interface Watched {
  slowReads: number;
  slowestMs: number;
  reads: number;
  /** States other than in-sync that a replica was seen in. */
  readonly dropped: Set<string>;
}

/** Reads and looks until `over` is set. */
async function watch(
  stage: StageRun,
  cluster: HoldfastCluster,
  volume: AttachedVolume,
  seen: Watched,
  over: { yes: boolean },
): Promise<void> {
  const { clock } = stage;
  const client = await NbdClient.connect({ address: { path: volume.socket }, exportName: volume.exportName });
  const reading = async () => {
    while (!over.yes) {
      const startMs = clock.monotonicMs();
      await client.read((seen.reads % 1024) * 64 * 1024, 4096);
      const ms = clock.monotonicMs() - startMs;
      seen.reads++;
      seen.slowestMs = Math.max(seen.slowestMs, ms);
      if (ms > LEASE_MS) seen.slowReads++;
      await clock.sleep(READ_EVERY_MS);
    }
  };
  const looking = async () => {
    while (!over.yes) {
      const { replicas } = await cluster.status(volume);
      for (const { node_id, state } of replicas) if (state !== 'in-sync') seen.dropped.add(`${node_id} ${state}`);
      await clock.sleep(LOOK_EVERY_MS);
    }
  };
  try {
    await Promise.all([reading(), looking()]);
  } finally {
    await client.close();
  }
}

async function measure(stage: StageRun, cluster: HoldfastCluster): Promise<void> {
  const { processes, directory, options } = stage;
  const volume = await cluster.attach(await cluster.create({ name: 'throttled', copies: 3, sizeBytes: SIZE }));
  const target = nbdTarget(volume.uri);
  stage.progress('filling at the pace of the slow disk');
  await writeContent(stage, target, SIZE);
  const seen: Watched = { slowReads: 0, slowestMs: 0, reads: 0, dropped: new Set() };
  const over = { yes: false };
  let trouble = '';
  const watching = watch(stage, cluster, volume, seen, over).catch((error) => {
    trouble = messageOf(error);
  });
  stage.progress('writing more than it takes');
  const seconds = options.quick ? SECONDS_QUICK : SECONDS;
  // Incompressible: every byte written is one for the disk.
  const job = measureJob(withData(workloadOf('w4k-q32'), 0), target, { sizeBytes: SIZE, seconds, flushLog: '' });
  const result = await runFio(processes, directory, job).finally(() => {
    over.yes = true;
  });
  await watching;
  stage.progress('verifying at the pace of the slow disk');
  await checkContent(stage, target, SIZE);
  if (trouble !== '') stage.print(`a read or a look failed: ${trouble}\n`);
  const rate = `${short(result.mbPerSecond)} MB/s for ${seconds} s`;
  const reads = `${seen.reads} reads, the slowest ${Math.round(seen.slowestMs)} ms`;
  const limited = result.mbPerSecond * 1e6 >= LIMITED;
  const note = (id: string, value: number, beside: string) =>
    stage.note(id, trouble === '' && limited ? [value] : [], limited ? beside : `the disk was not the limit: ${rate}`);
  note('throttled.dropped', seen.dropped.size, [...seen.dropped].join(', ') || rate);
  note('throttled.pauses', seen.slowReads, reads);
  note('throttled.p99', result.p99Us / 1000, `p50 ${short(result.p50Us / 1000)} ms, ${rate}`);
  stage.print(`written at ${rate}; ${reads}; dropped: ${[...seen.dropped].join(', ') || 'none'}\n`);
}

export const throttledStage: Stage = {
  name: 'throttled',
  title: 'line 8: one replica on a disk of 50 MB/s',
  async run(stage) {
    const { processes, clock } = stage;
    const problem = await whyNoTestDisk(processes, true);
    if (problem !== '') {
      stage.print(`not measured: ${problem}\n`);
      return;
    }
    const directory = join(stage.directory, 'disk');
    const disk = new TestDisk({ processes, clock, directory, sizeBytes: DISK, bytesPerSecond: RATE });
    const cluster = new HoldfastCluster(stage);
    try {
      await disk.mount(poolPath(stage.directory, 1));
      await cluster.start();
      await measure(stage, cluster);
    } finally {
      await cluster.stop();
      await disk.unmount();
    }
  },
};
