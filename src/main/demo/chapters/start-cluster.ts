// A cluster of three nodes in three zones, each with its own pool, processes and sockets.

import { ZONE_LABEL } from '../../labels.js';
import { Cluster } from '../cluster.js';
import { Kubelet, NbdUser } from '../consumer.js';
import type { Scene, Stage } from '../scene.js';
import { Sidecars } from '../sidecars.js';

const zones = ['zone-a', 'zone-b', 'zone-c'];

/** `onCluster` is told of the cluster as soon as there is something to end. */
export async function startCluster(stage: Stage, onCluster: (cluster: Cluster) => void): Promise<Scene> {
  const { report, clock, place, signal } = stage;
  const cluster = await Cluster.start(place.directory, zones, clock);
  onCluster(cluster);
  await cluster.ready(signal);
  const sidecars = new Sidecars(cluster, clock, signal);
  const seen = new Set<string | undefined>();
  for (const node of cluster.nodes) {
    const topology = await sidecars.register(node.id);
    seen.add(topology[ZONE_LABEL]);
    report.say(`${node.id} in ${node.zone}   storage daemon ${cluster.pidOf('storage', node.id)}   ${node.csi}`);
  }
  report.check(
    seen.size === zones.length && !seen.has(undefined),
    'three nodes in three zones answer on their CSI sockets',
  );
  const consumer = stage.mounts
    ? new Kubelet(sidecars, place.users, stage.exec, clock)
    : new NbdUser(sidecars, cluster, clock);
  return { ...stage, cluster, sidecars, consumer };
}
