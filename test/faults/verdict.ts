// The end of a run: everything that was acknowledged is there, seen from another node, and all replicas are the same bytes.

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { checkUnmounted, onDevice } from '../lib/system-needs.js';
import type { Load } from './loads/load.js';
import type { Rig } from './rig.js';

/** Throws naming the first violation. Ends and deletes the loads' volumes. */
export async function checkAtTheEnd(rig: Rig): Promise<void> {
  await rig.whole();
  for (const load of rig.loads) await load.pause();
  for (const load of rig.loads) await checkOne(rig, load);
}

async function checkOne(rig: Rig, load: Load): Promise<void> {
  const { cluster } = rig;
  const { volume, fsType } = load;
  await load.verify();
  if (fsType !== null) await onDevice(cluster, { volume, node: load.node }, (device) => checkUnmounted(device, fsType));
  await cluster.release(load.node, volume);
  const others = rig.nodes.filter(({ id }) => id !== load.node.id);
  const other = others[rig.loads.indexOf(load) % others.length]!;
  const path = await cluster.use(other, volume);
  load.node = other;
  await load.crash(path);
  const said = await load.verify();
  const why = await rig.notWhole(other, volume);
  if (why !== '') throw new Error(`load ${load.name}: not in sync at the end: ${why}`);
  await cluster.release(other, volume);
  const holding = rig.nodes.filter(({ poolDir }) => existsSync(join(poolDir, 'replicas', volume.id)));
  const { segments, bytes } = compareReplicas(holding, volume);
  if (holding.length !== 3 || segments === 0) throw new Error(`load ${load.name}: ${holding.length} replicas`);
  const size = (bytes / MiB).toFixed(1);
  rig.say(`     ${load.name}: ${said}; ${segments} segments of ${size} MiB equal on ${holding.length} replicas`);
  await cluster.controller.DeleteVolume({ volume_id: volume.id });
}
