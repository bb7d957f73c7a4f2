// A volume that one fault strikes alone: what is done to its replicas would make it unable ever to be whole again, which the loads'
// volumes must be.

import { randomUUID } from 'node:crypto';
import { join } from 'node:path';
import { MiB, realClock } from '../../src/base/index.js';
import { blockCapability, type TestNode, type TestVolume } from '../lib/csi-cluster.js';
import type { Chance } from './chance.js';
import { DeviceLoad } from './loads/device-load.js';
import type { Rig } from './rig.js';

const bytes = 24 * MiB;

export interface OwnVolume {
  readonly volume: TestVolume;
  /** Node ids with a replica, where the engine runs last. */
  readonly replicas: readonly string[];
  readonly load: DeviceLoad;
}

/** Makes it, attached on a node with a replica and under load; removes it when `work` is done. The load is verified before. */
export async function withOwnVolume(
  rig: Rig,
  chance: Chance,
  work: (own: OwnVolume) => Promise<string>,
): Promise<string> {
  const { cluster } = rig;
  const volume = await cluster.createVolume({ bytes, capability: blockCapability, parameters: { replicas: '3' } });
  const first = chance.pick(rig.nodes);
  const load = new DeviceLoad({
    ...{ name: `own-${++rig.volumes}`, volume, node: first, bytes, bytesPerSecond: MiB, seed: chance.between(1, 1e9) },
  });
  try {
    await load.start(await cluster.use(first, volume));
    const status = await cluster.status(first, volume);
    const holding = status!.replicas.map(({ node_id }) => node_id).sort();
    const engine = chance.pick(holding);
    if (engine !== first.id) await moveOwn(rig, load, rig.node(engine));
    await rig.sleep(500);
    const replicas = [...holding.filter((id) => id !== engine), engine];
    const said = await work({ volume, replicas, load });
    await load.pause();
    await load.verify();
    await cluster.release(load.node, volume);
    return said;
  } finally {
    await load.kill();
    // A volume that could not be released is told of by the error that is under way.
    await cluster.controller.DeleteVolume({ volume_id: volume.id }, { deadlineMs: 20_000 }).catch(() => {});
  }
}

/** In good order: released here, used there. */
export async function moveOwn(rig: Rig, load: DeviceLoad, to: TestNode): Promise<void> {
  await load.pause();
  await rig.cluster.release(load.node, load.volume);
  await load.crash(await rig.cluster.use(to, load.volume));
  load.node = to;
  await load.revive();
}

export const replicaDirectory = (rig: Rig, node: string, volume: TestVolume): string =>
  join(rig.node(node).poolDir, 'replicas', volume.id);

export const scratchName = (rig: Rig): string => join(rig.cluster.dir, `kept-${randomUUID()}`);

/** What the engine says of each replica, once `settled` holds. */
export async function replicaStates(
  rig: Rig,
  { load, volume }: OwnVolume,
  settled: (states: ReadonlyMap<string, string>) => boolean,
): Promise<ReadonlyMap<string, string>> {
  const endMs = realClock.monotonicMs() + 60_000;
  for (;;) {
    const status = await rig.cluster.status(load.node, volume, 1_000).catch(() => undefined);
    const states = new Map((status?.replicas ?? []).map(({ node_id, state }) => [node_id, state]));
    if (status?.state === 'serving' && settled(states)) return states;
    load.check();
    if (realClock.monotonicMs() > endMs)
      throw new Error(`replicas of ${volume.id} after 60 s: ${JSON.stringify(status?.replicas ?? status)}`);
    await realClock.sleep(50);
  }
}
