// A claim is made: an encrypted and compressed volume with three copies, brought into use on node-1.

import { formatBytes, GiB } from '../../../base/index.js';
import { type Scene, seconds, timed } from '../scene.js';
import type { VolumeView } from '../view.js';

export const volumeBytes = GiB;

/** A StorageClass's parameters. */
export const classParameters: Readonly<Record<string, string>> = {
  replicas: '3',
  compression: 'lz4',
  encryption: 'aes-256-gcm',
  failureDomain: 'zone',
};

export async function createVolume(scene: Scene, key: string, node: string): Promise<VolumeView> {
  const { report, clock, sidecars, consumer, cluster } = scene;
  const use = scene.mounts ? 'mount' : 'block';
  const order = { name: 'pvc-demo', sizeBytes: volumeBytes, parameters: classParameters, key, use } as const;
  const created = await timed(clock, () => sidecars.createVolume(order, node));
  const volume = created.result;
  report.say(`CreateVolume   ${volume.id}   ${seconds(created.ms)}`);
  report.check(
    volume.sizeBytes === volumeBytes,
    `the volume has ${formatBytes(volumeBytes)}, compressed and encrypted`,
  );
  const holders = [...(await cluster.replicas(volume.id))].filter(([, replicas]) => replicas.length === 1);
  const where = holders.map(([id]) => `${id} (${cluster.node(id).zone})`).join(', ');
  report.check(holders.length === 3, `one copy in each zone: ${where}`);
  const again = await sidecars.createVolume(order, node);
  report.check(again.id === volume.id, 'the same call repeated answers the same volume');
  const attached = await timed(clock, () => consumer.attach(volume, node));
  const how = scene.mounts ? 'attached, formatted as ext4 and mounted' : 'opened over NBD';
  report.say(`${how} on ${node}   ${seconds(attached.ms)}`);
  const engine = await cluster.engine(node, volume.id);
  const inSync = engine?.replicas.filter(({ state }) => state === 'in-sync').length;
  report.check(engine?.state === 'serving' && inSync === 3, `its engine serves on ${node} with three replicas in sync`);
  return attached.result;
}
