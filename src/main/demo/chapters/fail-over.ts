// The node that uses the volume loses its engine for good: the volume moves to another node, and the former one is fenced off.

import { type FileTree, sha256 } from '../file-tree.js';
import { checkTree, type Scene, seconds, timed } from '../scene.js';
import type { VolumeView } from '../view.js';
import type { Overwritten } from './take-snapshot.js';

export interface FailOver {
  readonly view: VolumeView;
  readonly ms: number;
}

export async function failOver(
  scene: Scene,
  view: VolumeView,
  to: string,
  tree: FileTree,
  diary: Overwritten,
): Promise<FailOver> {
  const { report, clock, cluster, sidecars, consumer } = scene;
  const last = Buffer.from(`the last thing that ${view.node} wrote durably\n`);
  await view.put('last-words', last, { durable: true });
  const pid = cluster.kill('storage', view.node);
  report.say(`kill -9 ${pid}: the storage daemon of ${view.node}, where the volume's engine ran`);
  const moved = await timed(clock, async () => {
    // As the attach-detach controller does it for a node that is out of service: without asking that node.
    await sidecars.unpublish(view.volume, view.node);
    return consumer.attach(view.volume, to);
  });
  const next = moved.result;
  report.held(`in use on ${to} after ${seconds(moved.ms)}`);
  report.check((await next.hash('last-words')) === sha256(last), 'what was flushed last before the kill is there');
  await checkTree(scene, next, tree, to);
  report.check((await next.hash(diary.name)) === diary.after, 'so is the file that was overwritten after the snapshot');
  report.progress(`writing on ${view.node}, which has lost the volume`);
  const refusal = await consumer.writeAsDeposed(view);
  report.held(`${view.node} is fenced off: ${refusal}`);
  await consumer.abandon(view);
  const engine = await cluster.engine(to, view.volume.id);
  report.say(`the engine on ${to} has epoch ${engine?.epoch}; ${view.node} is cleared up`);
  return { view: next, ms: moved.ms };
}
