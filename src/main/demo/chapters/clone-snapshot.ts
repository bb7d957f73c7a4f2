// A new volume out of the snapshot: instant, independent, with the contents of that moment.

import { type FileTree, sha256 } from '../file-tree.js';
import { checkTree, type Scene, seconds, timed } from '../scene.js';
import type { VolumeView } from '../view.js';
import { classParameters } from './create-volume.js';
import type { Overwritten } from './take-snapshot.js';

export interface Clone {
  readonly view: VolumeView;
  readonly ms: number;
}

export async function cloneSnapshot(
  scene: Scene,
  source: VolumeView,
  node: string,
  tree: FileTree,
  diary: Overwritten,
): Promise<Clone> {
  const { report, clock, sidecars, consumer } = scene;
  const { sizeBytes, key, use } = source.volume;
  const order = { name: 'pvc-clone', sizeBytes, parameters: classParameters, key, use, fromSnapshot: diary.snapshot };
  const created = await timed(clock, () => sidecars.createVolume(order, node));
  report.say(`CreateVolume from the snapshot   ${created.result.id}   ${seconds(created.ms)}`);
  const attached = await timed(clock, () => consumer.attach(created.result, node, source.volume));
  const view = attached.result;
  report.say(`${scene.mounts ? 'mounted' : 'opened'} on ${node}   ${seconds(attached.ms)}`);
  await checkTree(scene, view, tree, 'clone');
  report.check((await view.hash(diary.name)) === diary.before, 'the clone has the file as it was before the snapshot');
  const own = Buffer.from('written to the clone\n');
  await view.put(diary.name, own, { durable: true });
  report.check(
    (await view.hash(diary.name)) === sha256(own) && (await source.hash(diary.name)) === diary.after,
    'the clone is written to, its source is not touched',
  );
  return { view, ms: created.ms };
}
