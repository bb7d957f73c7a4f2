// Machines that are lost: one, with its volumes going on elsewhere; all at once, by a power cut.

import { spawnSync } from 'node:child_process';
import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { realClock } from '../../../src/base/index.js';
import { alignedBuffer } from '../../../src/platform/mount/aligned.js';
import type { TestNode } from '../../lib/csi-cluster.js';
import { runBeside } from '../../lib/system-needs.js';
import type { Load } from '../loads/load.js';
import type { Rig } from '../rig.js';
import type { Fault } from './fault.js';

/** Kills everything on the nodes that Holdfast started, and takes away what mounts are left, as a reboot does. */
async function killNodes(rig: Rig, nodes: readonly TestNode[]): Promise<void> {
  const { cluster } = rig;
  const attached = rig.loads.filter(({ node }) => nodes.includes(node));
  const holders = await Promise.all(attached.map(({ node, volume }) => rig.holder(node, volume)));
  const services = nodes.flatMap(({ id }) => cluster.servicesOf(id));
  // The daemons first: no answer of a holder's end is more than what they had acknowledged.
  const down = Promise.all(services.map((one) => one.down()));
  for (const { pid, bridgePid } of holders) for (const one of [bridgePid, pid]) if (one > 0) end(one);
  await down;
  for (const { node, volume } of attached) {
    for (const path of [cluster.target(node, volume), cluster.staging(node, volume)])
      spawnSync('umount', ['--lazy', path]);
  }
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended with the other one.
  }
}

/** What kubelet does on a node that is back for volumes that are no longer its. */
async function clearNode(rig: Rig, node: TestNode, loads: readonly Load[]): Promise<void> {
  for (const { volume } of loads) {
    const volume_id = volume.id;
    await node.client.NodeUnpublishVolume({ volume_id, target_path: rig.cluster.target(node, volume) });
    await node.client.NodeUnstageVolume({ volume_id, staging_target_path: rig.cluster.staging(node, volume) });
  }
}

/** A first write at a place that the loads leave alone, durable when it resolves. */
async function firstWrite(load: Load, target: string): Promise<void> {
  const isDevice = load.fsType === null;
  const path = isDevice ? target : join(target, 'first-write');
  const file = await open(path, isDevice ? constants.O_RDWR | constants.O_DIRECT : 'w');
  try {
    const size = isDevice ? Number(await runBeside('blockdev', '--getsize64', target)) : 4_096;
    await file.write(alignedBuffer(4_096).subarray(0, 4_096), 0, 4_096, size - 4_096);
    if (!isDevice) await file.sync();
  } finally {
    await file.close();
  }
}

/** Nothing that the node sends or is sent arrives, or all of it again. */
function silence(rig: Rig, node: TestNode, silent: boolean): void {
  const { network } = rig.cluster;
  const place = rig.cluster.placeOf(node.id);
  for (let other = 0; other <= rig.nodes.length; other++) {
    if (other === place) continue;
    for (const [from, to] of [
      [place, other],
      [other, place],
    ] as const) {
      if (silent) network.block(from, to);
      else network.allow(from, to);
    }
  }
}

const loseNode: Fault = {
  kind: 'node lost, its volumes go on elsewhere',
  weight: 6,
  pairs: false,
  limits: { failoverMs: 5_000, replicaMs: 10_000 },
  async strike(rig, chance) {
    const { cluster } = rig;
    const old = rig.node(chance.pick(rig.nodes.filter(({ id }) => rig.loadsAt(id).length > 0)).id);
    const silent = chance.hit(0.5);
    const moving = rig.loadsAt(old.id);
    const heirs = moving.map(() => chance.pick(rig.nodes.filter(({ id }) => id !== old.id)));
    // Cut off it may go on for a moment, and must acknowledge nothing that the others lack.
    if (silent) {
      silence(rig, old, true);
      await rig.sleep(chance.between(50, 900));
    }
    for (const [i, load] of moving.entries()) await load.crash(cluster.target(heirs[i]!, load.volume));
    await killNodes(rig, [old]);
    const failovers: number[] = [];
    for (const [i, load] of moving.entries()) {
      await cluster.controller.ControllerUnpublishVolume({ volume_id: load.volume.id, node_id: old.id });
      const orderedMs = realClock.monotonicMs();
      const target = await cluster.use(heirs[i]!, load.volume);
      await firstWrite(load, target);
      failovers.push(realClock.monotonicMs() - orderedMs);
      load.node = heirs[i]!;
      await load.revive();
    }
    if (silent) silence(rig, old, false);
    for (const service of cluster.servicesOf(old.id)) await service.start();
    await clearNode(rig, old, moving);
    const names = moving.map(({ name, node }) => `${name} to ${node.id}`).join(', ');
    const how = silent ? ', without a word' : '';
    return { what: `${old.id}${how}: ${names}`, victims: [old.id], failovers, unjudged: moving };
  },
};

/** Asks the device for a block that nobody has in memory. Resolves with how that ended. */
async function readFrom(device: string): Promise<string> {
  return runBeside('dd', `if=${device}`, 'of=/dev/null', 'bs=4096', 'count=1', 'iflag=direct').then(
    () => 'answered',
    (error: Error) => (error.message.includes('Input/output error') ? 'refused' : error.message),
  );
}

const deposed: Fault = {
  kind: 'node set aside, its volume goes on elsewhere, then it is back',
  weight: 4,
  pairs: false,
  limits: { failoverMs: 5_000 },
  async strike(rig, chance) {
    const { cluster } = rig;
    const load = rig.loads.find(({ name }) => name === 'device')!;
    const old = load.node;
    const heir = chance.pick(rig.nodes.filter(({ id }) => id !== old.id));
    // Stopped it hears of its end as soon as it goes on; cut off it must know by its lease.
    const stopped = chance.hit(0.3);
    const services = cluster.servicesOf(old.id);
    const setAside = (aside: boolean) => {
      if (stopped) for (const service of services) service.signal(aside ? 'SIGSTOP' : 'SIGCONT');
      else silence(rig, old, aside);
    };
    setAside(true);
    await rig.sleep(chance.between(0, 1_500));
    await load.crash(cluster.target(heir, load.volume));
    await cluster.controller.ControllerUnpublishVolume({ volume_id: load.volume.id, node_id: old.id });
    const orderedMs = realClock.monotonicMs();
    const target = await cluster.use(heir, load.volume);
    await firstWrite(load, target);
    const failovers = [realClock.monotonicMs() - orderedMs];
    load.node = heir;
    await load.revive();
    // Asked after the new engine serves: whatever the old one still believes, it may not answer with success.
    const answer = readFrom(cluster.target(old, load.volume));
    await Promise.race([answer, rig.sleep(1_500)]);
    setAside(false);
    const said = await answer;
    if (said !== 'refused') throw new Error(`a read at the device of a deposed engine: ${said}`);
    await clearNode(rig, old, [load]);
    const how = `${old.id} ${stopped ? 'stopped' : 'cut off'}, ${load.name} to ${heir.id}`;
    return { what: how, victims: [old.id], failovers, unjudged: rig.loadsAt(old.id).concat(load) };
  },
};

const powerCutAll: Fault = {
  kind: 'power cut of all nodes',
  weight: 3,
  pairs: false,
  missing: () => (spawnSync('which', ['xfs_io']).status === 0 ? '' : 'no xfs_io command'),
  async strike(rig) {
    const { cluster, loads } = rig;
    const durable = loads.filter((load) => load.durable);
    const others = loads.filter((load) => !load.durable);
    // What is only acknowledged may be lost then: these are flushed before.
    for (const load of others) {
      await load.pause();
      await runBeside('sync', '-d', cluster.target(load.node, load.volume));
    }
    for (const load of durable) await load.crash(cluster.target(load.node, load.volume));
    await killNodes(rig, rig.nodes);
    for (const pool of cluster.pools) pool.cutPower();
    for (const pool of cluster.pools) pool.restore();
    for (const service of cluster.services) await service.start();
    for (const load of loads) {
      await clearNode(rig, load.node, [load]);
      await cluster.use(load.node, load.volume);
    }
    for (const load of durable) await load.revive();
    for (const load of others) {
      await load.verify();
      await load.resume();
    }
    return { what: '', victims: rig.nodes.map(({ id }) => id), unjudged: loads };
  },
};

export const losses = [loseNode, deposed, powerCutAll];
