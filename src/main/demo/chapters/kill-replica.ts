// The storage daemon of one replica dies in the middle of a write load, and comes back.

import { formatBytes } from '../../../base/index.js';
import { type LoadResult, type Pauses, runCopies, runFio, SetWatcher, watchPauses } from '../load.js';
import { type Scene, seconds } from '../scene.js';
import type { VolumeView } from '../view.js';

const loadMs = 6_000;
const beforeKillMs = 1_500;
const shrinkTimeoutMs = 30_000;
const returnTimeoutMs = 60_000;

function load(scene: Scene, view: VolumeView): Promise<LoadResult> {
  if (view.directory !== undefined && scene.machine.hasFio) return runFio(scene.exec, view.directory);
  return runCopies(view, loadMs, scene.clock, scene.signal);
}

/** Resolves when the load has ended and all replicas are in sync again; rejects as soon as one of the parts fails. */
export async function killReplica(scene: Scene, view: VolumeView, victim: string): Promise<Pauses> {
  const { report, clock, cluster, signal } = scene;
  const stop = new AbortController();
  const until = AbortSignal.any([stop.signal, signal]);
  const watcher = new SetWatcher(cluster, clock);
  const watching = watcher.run(view.node, view.volume.id, until);
  const pausing = watchPauses(view, clock, until);
  const loading = load(scene, view);
  const background = Promise.all([watching, pausing, loading]);
  background.catch(() => {});
  try {
    const killed = await Promise.race([watchTheFall(scene, watcher, victim), background.then(() => never())]);
    const result = await loading;
    report.held(`the load saw no error: ${formatBytes(result.bytes)} by ${result.description}`);
    const sizes = watcher.sizes.map(({ inSync }) => inSync).join(' → ');
    report.say(`replicas in sync: ${sizes}`);
    stop.abort();
    const pauses = await pausing;
    report.say(
      `longest wait of a durable 4 KiB write ${seconds(pauses.longestMs)}, median ${seconds(pauses.medianMs)}, ${pauses.writes} writes`,
    );
    report.check(killed > 0 && watcher.latest === 3, 'all three replicas are in sync');
    return pauses;
  } finally {
    stop.abort();
    // Not when interrupted: a load may go on for long, and is ended from outside then.
    if (!signal.aborted) await Promise.allSettled([watching, pausing, loading]);
  }
}

/** A part of the load can only end the story early by failing. */
function never(): Promise<never> {
  return new Promise(() => {});
}

async function watchTheFall(scene: Scene, watcher: SetWatcher, victim: string): Promise<number> {
  const { report, clock, cluster, signal } = scene;
  const startMs = clock.monotonicMs();
  while (clock.monotonicMs() - startMs < beforeKillMs) {
    report.progress('the load runs with three replicas');
    await clock.sleep(100, signal);
  }
  await watcher.reached(3, startMs, shrinkTimeoutMs, signal);
  const killedMs = clock.monotonicMs();
  const pid = cluster.kill('storage', victim);
  report.say(`kill -9 ${pid}: the storage daemon of ${victim} is gone, the load goes on`);
  report.progress('waiting until the engine goes on without it');
  const smallerMs = await watcher.reached(2, killedMs, shrinkTimeoutMs, signal);
  report.held(`the engine goes on with two replicas after ${seconds(smallerMs - killedMs)}`);
  report.progress('waiting for the replica to come back and to catch up');
  const wholeMs = await watcher.reached(3, smallerMs, returnTimeoutMs, signal);
  report.held(`the replica came back, caught up and was taken in again after ${seconds(wholeMs - killedMs)}`);
  return killedMs;
}
