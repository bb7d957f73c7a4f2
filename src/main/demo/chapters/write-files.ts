// An application fills the volume with a tree of files.

import { formatBytes, MiB } from '../../../base/index.js';
import { type FileTree, treeBytesMax, writeTree } from '../file-tree.js';
import { checkTree, progressOf, type Scene, seconds, timed } from '../scene.js';
import type { VolumeView } from '../view.js';

/** Three copies, what later chapters add, and room to spare. */
const shareOfFreeSpace = 10;
const treeBytesMin = 16 * MiB;

export async function writeFiles(scene: Scene, view: VolumeView): Promise<FileTree> {
  const { report, clock, signal } = scene;
  const bytesMax = Math.max(treeBytesMin, Math.min(treeBytesMax, scene.place.freeBytes() / shareOfFreeSpace));
  const written = await timed(clock, () => writeTree(view, bytesMax, signal, progressOf(scene, 'writing file')));
  const tree = written.result;
  const rate = formatBytes(tree.bytes / (written.ms / 1000));
  report.say(
    `${tree.files.length} files of node_modules, ${formatBytes(tree.bytes)}, written and flushed in ${seconds(written.ms)} (${rate}/s to three copies)`,
  );
  await checkTree(scene, view, tree, view.node);
  return tree;
}
