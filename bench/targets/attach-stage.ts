// Line 9: memory and attach time of a full volume of 1 TiB, its map real and its data simulated (micro/simulated-map.ts), and the
// attach time of volumes that hold what they seem to, through the daemon.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GiB, MiB, precondition } from '../../src/base/index.js';
import { lastLine } from '../processes.js';
import { median, short } from '../statistics.js';
import { HoldfastCluster } from '../systems/holdfast-cluster.js';
import { nbdTarget } from '../systems/system.js';
import { renderTable } from '../table.js';
import { checkContent, writeContent } from '../volume/content.js';
import { snapshotSizes, snapshotSizesQuick } from './catalogue.js';
import type { Stage, StageRun } from './stage.js';

const SIZE = 1024 * GiB;
/** Too small for the verdicts: only to see that it works. */
const SIZE_QUICK = 64 * GiB;
const BUILD_MS = 600_000;
const OPEN_MS = 180_000;
const WORK_SECONDS = 10;
const OPENS = 5;

interface Opened {
  readonly openMs: number;
  readonly allocatedBytes: number;
  readonly openedRss: number;
  readonly workedRss: number;
  readonly writes: number;
}

async function simulated<T>(stage: StageRun, args: readonly string[], timeoutMs: number): Promise<T> {
  const program = fileURLToPath(new URL('../micro/simulated-map.js', import.meta.url));
  const { code, stdout, stderr } = await stage.processes.run(process.execPath, [program, ...args], timeoutMs);
  if (code !== 0) throw precondition(`the simulated map failed: ${lastLine(stderr)}`);
  return JSON.parse(stdout) as T;
}

async function fullVolume(stage: StageRun): Promise<void> {
  const size = stage.options.quick ? SIZE_QUICK : SIZE;
  const place = join(stage.directory, 'full');
  const title = `${size / GiB} GiB`;
  stage.progress(`making a volume of ${title} whose map is full`);
  await simulated(stage, ['build', place, String(size)], BUILD_MS);
  stage.progress('opening it');
  const opened = await simulated<Opened>(stage, ['open', place, String(size), String(WORK_SECONDS)], OPEN_MS);
  if (opened.allocatedBytes !== size) throw precondition(`the map of ${title} came back with ${opened.allocatedBytes}`);
  const mib = (bytes: number) => `${Math.round(bytes / MiB)} MiB`;
  const text = `${mib(opened.openedRss)} when opened, ${mib(opened.workedRss)} at most in ${WORK_SECONDS} s of ${opened.writes} random writes`;
  stage.print(`full map of ${title}: opened in ${Math.round(opened.openMs)} ms; RSS ${text}\n`);
  // A smaller one says nothing about the target.
  if (size !== SIZE) return;
  stage.note('attach.tib.rss', [opened.workedRss / MiB], text);
  stage.note('attach.tib.time', [opened.openMs], 'pool and engine of one replica, in a process of their own');
}

/** How long the daemon takes to open volumes of several sizes, written in full. */
async function realVolumes(stage: StageRun): Promise<void> {
  const cluster = new HoldfastCluster(stage);
  const rows: string[][] = [];
  try {
    await cluster.start();
    for (const sizeBytes of stage.options.quick ? snapshotSizesQuick : snapshotSizes) {
      const created = await cluster.create({ name: `attach-${sizeBytes}`, copies: 3, sizeBytes });
      let volume = await cluster.attach(created);
      await writeContent(stage, nbdTarget(volume.uri), sizeBytes, 0);
      const times: number[] = [];
      for (let i = 0; i < OPENS; i++) {
        await cluster.detach(volume);
        volume = await cluster.attach(created);
        times.push(volume.openMs);
      }
      rows.push([
        `${sizeBytes / MiB} MiB, 3 replicas`,
        `${short(median(times))} (${short(Math.min(...times))}-${short(Math.max(...times))})`,
      ]);
      await checkContent(stage, nbdTarget(volume.uri), sizeBytes);
      await cluster.detach(volume);
      await cluster.remove(volume);
    }
  } finally {
    await cluster.stop();
  }
  stage.print(`${renderTable(['the daemon opens a volume written in full', 'ms'], rows)}\n`);
}

export const attachStage: Stage = {
  name: 'attach',
  title: 'line 9: attaching large and full volumes',
  async run(stage) {
    await realVolumes(stage);
    await fullVolume(stage);
  },
};
