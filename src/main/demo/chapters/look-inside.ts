// What the volume costs: logical size, what it stores, and the state of each replica.

import { formatBytes, type VolumeId } from '../../../base/index.js';
import type { FileTree } from '../file-tree.js';
import type { Scene } from '../scene.js';
import type { VolumeView } from '../view.js';

export interface Insight {
  readonly logicalBytes: number;
  readonly allocatedBytes: number;
  readonly storedBytes: number;
  readonly rows: readonly (readonly string[])[];
}

export async function lookInside(scene: Scene, view: VolumeView, tree: FileTree): Promise<Insight> {
  const { report, cluster } = scene;
  const engine = await cluster.engine(view.node, view.volume.id);
  report.check(engine?.state === 'serving', `the engine on ${view.node} serves`);
  const {
    size_bytes: logicalBytes = 0,
    allocated_bytes: allocatedBytes = 0,
    stored_bytes: storedBytes = 0,
  } = engine ?? {};
  const rows = await replicaRows(scene, view.volume.id, engine?.replicas ?? []);
  report.table(rows);
  const ratio = allocatedBytes / Math.max(1, storedBytes);
  report.say(
    `logical ${formatBytes(logicalBytes)}, in use ${formatBytes(allocatedBytes)}, stored ${formatBytes(storedBytes)} a copy: compression ${ratio.toFixed(2)} to 1`,
  );
  report.check(allocatedBytes >= tree.bytes * 0.95, 'what is in use covers the files that were written');
  report.check(storedBytes > 0 && storedBytes < allocatedBytes, 'compression saves space, encryption included');
  return { logicalBytes, allocatedBytes, storedBytes, rows };
}

interface EngineReplica {
  readonly replica_id: string;
  readonly node_id: string;
  readonly state: string;
}

async function replicaRows(scene: Scene, volumeId: VolumeId, states: readonly EngineReplica[]): Promise<string[][]> {
  const rows = [['replica', 'node', 'zone', 'state', 'stored', 'of it shared with clones']];
  for (const [node, replicas] of await scene.cluster.replicas(volumeId)) {
    for (const replica of replicas) {
      const state = states.find((one) => one.replica_id === replica.replica_id)?.state ?? 'unknown';
      const sizes = [formatBytes(replica.stored_bytes), formatBytes(replica.shared_bytes)];
      rows.push([replica.replica_id.slice(0, 8), node, scene.cluster.node(node).zone, state, ...sizes]);
    }
  }
  const inSync = rows.filter((row) => row[3] === 'in-sync').length;
  scene.report.check(rows.length === 4 && inSync === 3, 'three replicas, all in sync');
  return rows;
}
