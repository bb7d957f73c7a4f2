// Everything is given back the way Kubernetes does it, then the cluster ends.

import type { SnapshotId } from '../../../base/index.js';
import type { Scene } from '../scene.js';
import type { DemoVolume } from '../sidecars.js';
import type { VolumeView } from '../view.js';
import { describeLeftovers } from '../workplace.js';

const retireTimeoutMs = 30_000;
const pollMs = 200;

export async function takeDown(
  scene: Scene,
  inUse: readonly VolumeView[],
  volumes: readonly DemoVolume[],
  snapshots: readonly SnapshotId[],
): Promise<void> {
  const { report, sidecars, consumer, cluster, place, signal } = scene;
  for (const view of inUse) await consumer.detach(view);
  const left = place.leftovers();
  const holders = left.processes.filter(({ command }) => / attach /.test(command));
  const detached = left.mounts.length === 0 && left.loops.length === 0 && holders.length === 0;
  report.check(detached, 'nothing is mounted or attached any more', describeLeftovers({ ...left, processes: holders }));
  for (const id of snapshots) await sidecars.deleteSnapshot(id);
  for (const volume of volumes) await sidecars.deleteVolume(volume);
  const counts = await sidecars.counts();
  report.check(counts.volumes === 0 && counts.snapshots === 0, 'all volumes and snapshots are deleted');
  report.check((await replicasLeft(scene)) === 0, 'no pool holds a replica any more');
  await cluster.stop(signal);
  const after = describeLeftovers(place.leftovers());
  report.check(after === '', 'the cluster has ended; no process, mount or loop device is left', after);
}

/** Waits for the deletions, which finish behind the calls. */
async function replicasLeft(scene: Scene): Promise<number> {
  const endMs = scene.clock.monotonicMs() + retireTimeoutMs;
  for (;;) {
    const held = [...(await scene.cluster.replicas(null)).values()].flat().length;
    if (held === 0 || scene.clock.monotonicMs() > endMs) return held;
    scene.report.progress(`${held} replicas are still being deleted`);
    await scene.clock.sleep(pollMs, scene.signal);
  }
}
