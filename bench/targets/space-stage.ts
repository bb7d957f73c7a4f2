// Line 11: how much of a pool's files is left a minute after a full discard and after a deletion; and what a pool does that is
// filled to the last byte under load: ENOSPC to the writer, everything that was flushed intact, usable again after a discard.

import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { BlockRequestError, NbdClient } from '../../src/nbd/index.js';
import { short } from '../statistics.js';
import { type AttachedVolume, HoldfastCluster, poolPath } from '../systems/holdfast-cluster.js';
import { nbdTarget } from '../systems/system.js';
import { TestDisk, whyNoTestDisk } from '../systems/test-disk.js';
import { checkKept, writeContent } from '../volume/content.js';
import { checkPieces, fillUntilFull } from './full-pool.js';
import type { Stage, StageRun } from './stage.js';

const FILL = 512 * MiB;
const GIVEN_BACK_MS = 60_000;
const POLL_MS = 1_000;
const LEFT_MAX = 0.05;
const POOL = 1024 * MiB;
const VOLUME = 4096 * MiB;
const AGAIN = 64 * MiB;

/** Bytes that the files below a directory take, each file counted once. */
async function diskUsage(stage: StageRun, directory: string): Promise<number> {
  // A file that goes away meanwhile makes du complain, and counts for nothing.
  const { stdout } = await stage.processes.run('du', ['--block-size=1', '--summarize', directory], 60_000);
  return Number.parseInt(stdout, 10) || 0;
}

/** Waits until little is left, a minute at most; notes what is. */
async function noteLeft(stage: StageRun, id: string, pool: string, before: number, filled: number): Promise<void> {
  const { clock } = stage;
  const startMs = clock.monotonicMs();
  let left = 1;
  let afterMs = 0;
  do {
    await clock.sleep(POLL_MS);
    afterMs = clock.monotonicMs() - startMs;
    left = ((await diskUsage(stage, pool)) - before) / filled;
  } while (left > LEFT_MAX && afterMs < GIVEN_BACK_MS);
  const text = `${short(filled / MiB)} MiB of pool files; after ${Math.round(afterMs / 1000)} s`;
  stage.print(`${id}: ${(left * 100).toFixed(1)} % left of ${text}\n`);
  stage.note(id, [left], text);
}

function clientOf(volume: AttachedVolume): Promise<NbdClient> {
  return NbdClient.connect({ address: { path: volume.socket }, exportName: volume.exportName });
}

async function discardAll(volume: AttachedVolume): Promise<void> {
  const client = await clientOf(volume);
  await client.trim(0, volume.sizeBytes);
  await client.flush();
  await client.close();
}

async function givenBack(stage: StageRun): Promise<void> {
  const cluster = new HoldfastCluster(stage);
  try {
    await cluster.start();
    for (const id of ['space.discard', 'space.deletion']) {
      const created = await cluster.create({ name: `fill-${id}`, copies: 1, sizeBytes: FILL });
      const volume = await cluster.attach(created);
      const pool = volume.node.poolDir;
      const before = await diskUsage(stage, pool);
      stage.progress(`${id}: filling`);
      await writeContent(stage, nbdTarget(volume.uri), FILL);
      await checkKept(stage, nbdTarget(volume.uri), FILL);
      const filled = (await diskUsage(stage, pool)) - before;
      stage.progress(`${id}: giving back`);
      if (id === 'space.discard') {
        await discardAll(volume);
        await noteLeft(stage, id, pool, before, filled);
        await cluster.detach(volume);
        await cluster.remove(volume);
      } else {
        await cluster.detach(volume);
        await cluster.remove(volume);
        await noteLeft(stage, id, pool, before, filled);
      }
    }
  } finally {
    await cluster.stop();
  }
}

async function fullPool(stage: StageRun): Promise<void> {
  const { processes, clock } = stage;
  const problem = await whyNoTestDisk(processes, false);
  if (problem !== '') {
    stage.print(`a full pool is not measured: ${problem}\n`);
    return;
  }
  const directory = join(stage.directory, 'disk');
  const disk = new TestDisk({ processes, clock, directory, sizeBytes: POOL, bytesPerSecond: 0 });
  const cluster = new HoldfastCluster({ ...stage, directory: join(stage.directory, 'full') });
  try {
    await disk.mount(poolPath(cluster.options.directory, 1));
    await cluster.start();
    // A replica on each node, so one of them on the small disk.
    const volume = await cluster.attach(await cluster.create({ name: 'full', copies: 3, sizeBytes: VOLUME }));
    stage.progress('filling a pool to the last byte');
    const client = await clientOf(volume);
    const filled = await fillUntilFull(client, VOLUME);
    const written = `${short(filled.acknowledged)} pieces written, ${short(filled.flushed.size)} of them flushed`;
    stage.note('space.enospc', [filled.error === 'ENOSPC' ? 1 : 0], `${filled.error}; ${written}`);
    const wrong = await checkPieces(client, filled.flushed);
    stage.note('space.intact', [wrong === '' && filled.flushed.size > 0 ? 1 : 0], wrong || written);
    await client.close();
    await discardAll(volume);
    const seconds = await usableAfter(stage, volume);
    const again = seconds === undefined ? 'not within a minute' : `after ${short(seconds)} s`;
    stage.note('space.usable', [seconds === undefined ? 0 : 1], `${AGAIN / MiB} MiB written and flushed ${again}`);
    const { replicas, state } = await cluster.status(volume);
    stage.print(
      `a full pool: ${filled.error}; ${written}; then ${state}, ${replicas.map((one) => one.state).join(', ')}\n`,
    );
    if (wrong !== '') stage.print(`a full pool: ${wrong}\n`);
  } finally {
    await cluster.stop();
    await disk.unmount();
  }
}

/** Seconds until the volume took writes again; undefined when it did not in a minute. */
async function usableAfter(stage: StageRun, volume: AttachedVolume): Promise<number | undefined> {
  const { clock } = stage;
  const startMs = clock.monotonicMs();
  const client = await clientOf(volume);
  const piece = Buffer.alloc(MiB, 0x37);
  try {
    while (clock.monotonicMs() - startMs < GIVEN_BACK_MS) {
      try {
        for (let at = 0; at < AGAIN; at += MiB) await client.write(at, piece);
        await client.flush();
        return (clock.monotonicMs() - startMs) / 1000;
      } catch (error) {
        if (!(error instanceof BlockRequestError)) throw error;
        await clock.sleep(POLL_MS);
      }
    }
    return undefined;
  } finally {
    await client.close();
  }
}

export const spaceStage: Stage = {
  name: 'space',
  title: 'line 11: space given back, and a pool filled to the last byte',
  async run(stage) {
    await givenBack(stage);
    await fullPool(stage);
  },
};
