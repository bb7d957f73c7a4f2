// A snapshot of the volume in use; after it the volume goes on changing.

import type { SnapshotId } from '../../../base/index.js';
import { sha256 } from '../file-tree.js';
import { type Scene, seconds, timed } from '../scene.js';
import type { VolumeView } from '../view.js';

export interface Overwritten {
  readonly snapshot: SnapshotId;
  /** Written before the snapshot and again after it. */
  readonly name: string;
  readonly before: string;
  readonly after: string;
  readonly ms: number;
}

export async function takeSnapshot(scene: Scene, view: VolumeView): Promise<Overwritten> {
  const { report, clock, sidecars, cluster } = scene;
  const name = 'diary';
  const first = Buffer.from('before the snapshot\n'.repeat(5_000));
  const second = Buffer.from('after the snapshot!\n'.repeat(5_000));
  await view.put(name, first);
  // As a snapshot controller's hook would: what the filesystem still holds back belongs into the snapshot, too.
  await view.flush();
  const taken = await timed(clock, () => sidecars.createSnapshot(view.volume, 'snapshot-demo'));
  const engine = await cluster.engine(view.node, view.volume.id);
  report.check(engine?.snapshot_count === 1, `snapshot of the volume in use: ${seconds(taken.ms)}`);
  await view.put(name, second, { durable: true });
  report.check(
    (await view.hash(name)) === sha256(second),
    'the volume goes on: a file is overwritten after the snapshot',
  );
  return { snapshot: taken.result, name, before: sha256(first), after: sha256(second), ms: taken.ms };
}
