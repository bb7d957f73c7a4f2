// The disk under a pool: full for a moment or for long, failing, and losing what was not synced.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { createExportSource } from '../../../src/agent/index.js';
import { MiB, realClock, type VolumeId } from '../../../src/base/index.js';
import { BlockRequestError, NbdClient } from '../../../src/nbd/index.js';
import { blockCapability, type TestVolume } from '../../lib/csi-cluster.js';
import { runBeside } from '../../lib/system-needs.js';
import type { Chance } from '../chance.js';
import type { Rig, Struck } from '../rig.js';
import { type Fault, victim } from './fault.js';

const noShutdown = () => (spawnSync('which', ['xfs_io']).status === 0 ? '' : 'no xfs_io command');

/** Writes pieces until the volume refuses; returns those that a flush covers. `suddenly` is called on the way. */
async function fill(client: NbdClient, bytes: number, suddenly: () => void): Promise<Map<number, Buffer>> {
  const flushed = new Map<number, Buffer>();
  const waiting = new Map<number, Buffer>();
  const length = 64 * 1024;
  for (let at = 0; at + length <= bytes; at += length) {
    if (at === 256 * length) suddenly();
    const piece = randomBytes(length);
    try {
      await client.write(at, piece);
      waiting.set(at, piece);
      if (waiting.size < 16) continue;
      await client.flush();
    } catch (error) {
      if (error instanceof BlockRequestError && error.blockError === 'ENOSPC') return flushed;
      throw error;
    }
    for (const [where, what] of waiting) flushed.set(where, what);
    waiting.clear();
  }
  throw new Error('the disk was never full');
}

const fullByUs: Fault = {
  kind: 'disk filled by the volume',
  weight: 2,
  pairs: false,
  strike: (rig, chance) => fullDisk(rig, chance, false),
};

/** Takes what the replica has set aside, too: it may leave the set then, and has to come back. */
const fullByOthers: Fault = {
  kind: 'disk filled by somebody else',
  weight: 2,
  pairs: false,
  strike: (rig, chance) => fullDisk(rig, chance, true),
};

/** On a volume of its own: its client is told that there is no room, and loses nothing that was flushed. */
async function fullDisk(rig: Rig, chance: Chance, byOthers: boolean): Promise<Struck> {
  const size = 512 * MiB;
  const { cluster } = rig;
  for (const load of rig.loads) await load.pause();
  for (const load of rig.loads)
    if (load.fsType !== null) await runBeside('sync', '-f', cluster.staging(load.node, load.volume));
  const volume = await cluster.createVolume({
    bytes: size,
    capability: blockCapability,
    parameters: { replicas: '3' },
  });
  const at = chance.pick(rig.nodes);
  const source = createExportSource(join(at.runDir, 'storage.sock'), realClock);
  let victimId = '';
  try {
    await cluster.controller.ControllerPublishVolume({
      ...{ volume_id: volume.id, node_id: at.id, volume_capability: volume.capability },
      ...{ volume_context: volume.context, readonly: false, secrets: {} },
    });
    const address = await source.open(volume.id as VolumeId, null, false);
    const client = await NbdClient.connect({ address: { path: address.socketPath }, exportName: address.exportName });
    const replicas = (await cluster.status(at, volume))!.replicas.map(({ node_id }) => node_id);
    victimId = chance.pick(replicas);
    await fillAndMend(rig, client, { volume, at: at.id, victimId, size, byOthers });
    await client.close();
    await source.close(volume.id as VolumeId);
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: at.id });
  } finally {
    source.disconnect();
    cluster.pool(victimId || at.id).empty();
    await cluster.controller.DeleteVolume({ volume_id: volume.id }, { deadlineMs: 20_000 }).catch(() => {});
  }
  for (const load of rig.loads) await load.resume();
  return { what: `${victimId}, the engine on ${at.id}`, victims: [victimId], unjudged: rig.loads };
}

async function fillAndMend(
  rig: Rig,
  client: NbdClient,
  full: { volume: TestVolume; at: string; victimId: string; size: number; byOthers: boolean },
): Promise<void> {
  const { cluster } = rig;
  const { volume, at, victimId, size, byOthers } = full;
  if (!byOthers) cluster.pool(victimId).fill(192 * MiB);
  const flushed = await fill(client, size, () => byOthers && cluster.pool(victimId).fill(0));
  const { replicas } = (await cluster.status(rig.node(at), volume))!;
  const dropped = byOthers ? [] : replicas.filter(({ state }) => state !== 'in-sync');
  if (dropped.length > 0) throw new Error(`a full disk dropped replicas: ${JSON.stringify(dropped)}`);
  for (const [where, piece] of flushed) {
    if (!(await client.read(where, piece.length)).equals(piece))
      throw new Error(`wrong bytes at ${where} after ENOSPC`);
  }
  cluster.pool(victimId).empty();
  const piece = randomBytes(MiB);
  for (const endMs = realClock.monotonicMs() + 30_000; ; await realClock.sleep(200)) {
    try {
      await client.write(size - MiB, piece);
      await client.flush();
      break;
    } catch (error) {
      if (realClock.monotonicMs() > endMs) throw new Error('not writable 30 s after room was made', { cause: error });
    }
  }
  if (!(await client.read(size - MiB, MiB)).equals(piece)) throw new Error('wrong bytes after room was made');
  await rig.until('in sync after room was made', async () => (await rig.notWhole(rig.node(at), volume)) === '');
}

const powerCut: Fault = {
  kind: "power cut of a node's disk",
  weight: 5,
  pairs: false,
  missing: noShutdown,
  async strike(rig, chance) {
    const node = victim(rig, chance);
    const service = rig.cluster.service('storage', node);
    await service.down();
    rig.cluster.pool(node).cutPower();
    rig.cluster.pool(node).restore();
    await rig.sleep(chance.between(0, 2_000));
    await service.start();
    return { what: node, victims: [node] };
  },
};

const diskErrors: Fault = {
  kind: 'I/O errors of a pool, then a new mount',
  weight: 3,
  pairs: false,
  missing: noShutdown,
  async strike(rig, chance) {
    const node = victim(rig, chance);
    const service = rig.cluster.service('storage', node);
    const ms = chance.between(200, 2_500);
    rig.cluster.pool(node).cutPower();
    await rig.sleep(ms);
    await service.down();
    rig.cluster.pool(node).restore();
    await service.start();
    return { what: `${node} for ${ms} ms`, victims: [node] };
  },
};

export const disks = [fullByUs, fullByOthers, powerCut, diskErrors];
