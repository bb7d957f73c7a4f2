// Creating, snapshotting and cloning cost the same for a volume a hundred times as large.

import { formatBytes, GiB } from '../../../base/index.js';
import { type Scene, seconds, timed } from '../scene.js';
import type { DemoVolume } from '../sidecars.js';
import { classParameters } from './create-volume.js';

const largeBytes = 100 * GiB;
/** Times of milliseconds scatter on a busy machine: a cost in proportion to the size would show as a factor of 100. */
const factorMax = 4;
const scatterMs = 1_000;

/** Resolves to the milliseconds it took to create, snapshot, clone; everything is deleted again. */
async function life(scene: Scene, name: string, sizeBytes: number, key: string): Promise<number> {
  const { clock, sidecars, cluster } = scene;
  const node = cluster.nodes[0]!.id;
  const order = { name, sizeBytes, parameters: classParameters, key, use: 'block' } as const;
  const volumes: DemoVolume[] = [];
  const { result: snapshot, ms } = await timed(clock, async () => {
    const volume = await sidecars.createVolume(order, node);
    volumes.push(volume);
    const fromSnapshot = await sidecars.createSnapshot(volume, `${name}-snapshot`);
    volumes.push(await sidecars.createVolume({ ...order, name: `${name}-clone`, fromSnapshot }, node));
    return fromSnapshot;
  });
  for (const volume of volumes)
    scene.report.check(volume.sizeBytes === sizeBytes, `${volume.name}: ${formatBytes(sizeBytes)}`);
  await sidecars.deleteSnapshot(snapshot);
  for (const volume of volumes) await sidecars.deleteVolume(volume);
  return ms;
}

export async function sizeIsFree(scene: Scene, key: string): Promise<void> {
  const capacity = await scene.sidecars.capacity(classParameters);
  const large = Math.min(largeBytes, Math.floor(capacity / 2 / GiB) * GiB);
  if (large <= GiB) {
    scene.report.note(`        left out: the pools here have room for ${formatBytes(capacity)} only`);
    return;
  }
  const smallMs = await life(scene, 'small', GiB, key);
  const largeMs = await life(scene, 'large', large, key);
  const sentence = `create, snapshot and clone: ${formatBytes(GiB)} in ${seconds(smallMs)}, ${formatBytes(large)} in ${seconds(largeMs)}`;
  scene.report.check(largeMs < factorMax * smallMs + scatterMs, sentence);
}
