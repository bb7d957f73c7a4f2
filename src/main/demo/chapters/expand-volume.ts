// The volume and its filesystem grow while they are used.

import { randomBytes } from 'node:crypto';
import { formatBytes, GiB, HoldfastError, MiB } from '../../../base/index.js';
import { sha256 } from '../file-tree.js';
import type { Scene } from '../scene.js';
import type { VolumeView } from '../view.js';

const newBytes = 2 * GiB;
/** What a filesystem of that size keeps for itself at most. */
const filesystemShare = 0.9;

export async function expandVolume(scene: Scene, view: VolumeView): Promise<VolumeView> {
  const { report, sidecars, cluster } = scene;
  const before = await view.capacityBytes();
  const volume = await sidecars.expand(view.volume, newBytes);
  report.check(
    volume.sizeBytes === newBytes,
    `ControllerExpandVolume: ${formatBytes(view.volume.sizeBytes)} → ${formatBytes(newBytes)}`,
  );
  const engine = await cluster.engine(view.node, volume.id);
  report.check(engine?.size_bytes === newBytes, 'the engine has grown while it served');
  const grown = await growAtNode(scene, view, volume);
  const after = await grown.capacityBytes();
  const what = scene.mounts ? 'filesystem' : 'export';
  const large = after >= newBytes * (scene.mounts ? filesystemShare : 1);
  report.check(large, `the ${what} has grown: ${formatBytes(before)} → ${formatBytes(after)}`);
  const data = randomBytes(8 * MiB);
  await grown.put('after-growth', data, { durable: true });
  report.check((await grown.hash('after-growth')) === sha256(data), 'and takes new files');
  return grown;
}

/**
 * The kernel grows a mounted ext4 only for a process with CAP_SYS_RESOURCE. Where that is missing the driver refuses with a
 * sentence, and the filesystem grows when the volume is staged the next time: so it is used again from scratch.
 */
async function growAtNode(scene: Scene, view: VolumeView, volume: VolumeView['volume']): Promise<VolumeView> {
  const { report, consumer, machine } = scene;
  try {
    return await consumer.expand(view, volume);
  } catch (error) {
    const expected = error instanceof HoldfastError && error.code === 'FAILED_PRECONDITION';
    if (!expected || !scene.mounts || machine.canGrowMountedExt4) throw error;
    report.note(`        not online on this machine: ${error.message}`);
    report.say('so the volume is unpublished and published again, as when a pod restarts');
    await consumer.detach(view);
    return consumer.attach(volume, view.node);
  }
}
