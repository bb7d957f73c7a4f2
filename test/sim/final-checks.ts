// After the faults: every volume serves within a bound, every replica is in sync again, the replicas are equal byte for byte, and
// what is read from another node, and from each replica by itself, is what was promised.

import { BLOCK_SIZE, type IncarnationId, type ReplicaId } from '../../src/base/index.js';
import { parseSegmentFileName } from '../../src/format/index.js';
import { keyOf, update, type VolumeRecord } from '../../src/meta/index.js';
import { runsOf } from '../lib/crash/client.js';
import { sameWritten } from '../lib/crash/verify.js';
import type { Chance } from '../lib/crash/virtual-time.js';
import type { VolumeState } from '../lib/crash/volume-model.js';
import type { Client } from './client.js';
import { poolPath, type SimNode } from './node.js';
import type { Sim } from './sim.js';

/** Of virtual time, once nothing fails any more: until a volume serves, until all of its replicas are in sync. */
const SERVE_MS = 60_000;
const WHOLE_MS = 120_000;
/** A deletion that failed is tried again after a minute at the most. */
const DELETED_MS = 180_000;

export async function checkAfterwards(sim: Sim, chance: Chance): Promise<void> {
  const endMs = sim.time.now + SERVE_MS;
  while (sim.nodes.some((node) => node.serving === null)) {
    if (sim.time.now > endMs) throw new Error(`a daemon does not serve ${SERVE_MS} ms after everything was healed`);
    await sim.clients[0]!.pause(100);
  }
  // Clones first: their deletion must not harm what they were made from.
  const checked = new Set<Client>();
  for (;;) {
    const client = sim.clients.findLast((one) => !checked.has(one));
    if (client === undefined) return;
    checked.add(client);
    await checkVolume(sim, client, chance);
    if (client !== sim.clients[0] && client.session !== null && chance.hit(0.3)) await deleted(sim, client);
  }
}

/** Nothing of a deleted volume is left on any node, in bounded time. */
async function deleted(sim: Sim, client: Client): Promise<void> {
  const { volumeId } = client.volume;
  await close(sim, client);
  await client.deleteVolume();
  const record = await sim.store.peek<VolumeRecord>(keyOf.volume(volumeId));
  if (record?.state === 'snapshots-only') return sim.reached('deleted but for its snapshots');
  const endMs = sim.time.now + DELETED_MS;
  const left = () => sim.nodes.filter(({ disk }) => disk.stat(`${poolPath}/replicas/${volumeId}`) !== undefined);
  while (left().length > 0) {
    if (sim.time.now > endMs)
      throw new Error(`volume ${volumeId} was deleted, but is left on ${left().map(({ nodeId }) => nodeId)}`);
    await client.pause(500);
  }
  sim.reached('deleted');
}

async function checkVolume(sim: Sim, client: Client, chance: Chance): Promise<void> {
  const { volume } = client;
  if (volume.mayBeOffline) return checkOffline(sim, client);
  await serves(sim, client);
  await replaceReplicas(sim, client, chance);
  // Some more work, now that all is well.
  let steps = 0;
  await client.work(() => steps++ > 20);
  await serves(sim, client);
  await drain(sim, client);
  await whole(sim, client);
  if (sim.damaged) {
    // What is still written to is not scrubbed.
    await close(sim, client);
    await serves(sim, client);
    await whole(sim, client);
    await scrub(sim, client);
  }
  if (chance.hit(0.5) && sim.nodes.length > 1) client.leave();
  await serves(sim, client);
  await checkContents(sim, client, volume.stateNow());
  volume.registers.check();
  await drain(sim, client);
  await close(sim, client);
  checkEqual(sim, client);
  await reopen(sim, client, chance.pick(sim.nodes));
  await checkContents(sim, client, volume.stateNow());
  if (volume.record.inSync.length > 1 && chance.hit(0.4)) await checkEachAlone(sim, client);
}

async function serves(sim: Sim, client: Client): Promise<void> {
  const endMs = sim.time.now + SERVE_MS;
  if (await client.ensureOpen(() => sim.time.now > endMs)) return;
  throw new Error(`volume ${client.volume.volumeId} does not serve ${SERVE_MS} ms after everything was healed`);
}

/** No replica is left that has everything: it stays closed, or whoever opens it shows that nothing is missing. */
async function checkOffline(sim: Sim, client: Client): Promise<void> {
  const endMs = sim.time.now + SERVE_MS;
  sim.reached((await client.ensureOpen(() => sim.time.now > endMs)) ? 'opened with few replicas' : 'rightly offline');
}

/** What a person does about replicas that failed or were lost: each is deleted and another one made in its place. */
async function replaceReplicas(sim: Sim, client: Client, chance: Chance): Promise<void> {
  const { volume } = client;
  const marker = `${poolPath}/replicas/${volume.volumeId}/failed`;
  const unusable = () =>
    volume.record.replicas.filter(
      ({ nodeId, state }) => state === 'lost' || sim.nodes.find((one) => one.nodeId === nodeId)!.disk.stat(marker),
    );
  const endMs = sim.time.now + WHOLE_MS;
  // Some are found out only when the engine comes to them.
  const known = () =>
    volume.record.replicas.every((one) => unusable().includes(one) !== volume.record.inSync.includes(one.id));
  while (!known()) {
    if (sim.time.now > endMs)
      throw new Error(`a replica is neither in sync nor known unusable ${WHOLE_MS} ms after everything was healed`);
    await serves(sim, client);
    await client.pause(500);
  }
  for (const old of unusable()) {
    const node = sim.nodes.find((one) => one.nodeId === old.nodeId)!;
    const { epoch, setVersion } = volume.record;
    await node.daemon!.host.retire({
      volumeId: volume.volumeId,
      replicaId: old.id,
      poolId: old.poolId,
      epoch,
      setVersion,
    });
    const { poolId } = node.daemon!.host.pools()[0]!;
    const made = {
      id: chance.uuid() as ReplicaId,
      nodeId: old.nodeId,
      poolId,
      incarnationId: chance.uuid() as IncarnationId,
      state: 'ok' as const,
    };
    await sim.createReplica(volume.record, made);
    const key = keyOf.volume(volume.volumeId);
    const step = (record: VolumeRecord | undefined) => ({
      ...record!,
      replicas: [...record!.replicas.filter(({ id }) => id !== old.id), made],
    });
    volume.changed((await update<VolumeRecord>(sim.store.direct, key, step, { clock: node.daemon!.process })).value!);
    sim.reached('replica replaced');
    // An engine knows the replicas that there were when it opened.
    await serves(sim, client);
    await client.close().catch(() => {});
    await serves(sim, client);
  }
}

/** Finds and repairs what nobody has read. */
async function scrub(sim: Sim, client: Client): Promise<void> {
  const { daemon, epoch } = client.session!;
  const { volumeId } = client.volume;
  const report = await client.call(daemon, 1_200_000, () => daemon.room.engine({ volumeId, epoch }).scrub());
  if (report.damage.length > 0) throw new Error(`scrub found damage on all replicas: ${report.damage.join('; ')}`);
  sim.reached('scrubbed');
  if (report.repairs > 0) sim.reached('scrub repaired');
}

async function drain(sim: Sim, client: Client): Promise<void> {
  const endMs = sim.time.now + SERVE_MS;
  while (!(await within(sim, client.drained(), endMs))) {
    if (sim.time.now > endMs) throw new Error(`requests without an answer ${SERVE_MS} ms after everything was healed`);
    await serves(sim, client);
  }
}

async function within(sim: Sim, work: Promise<boolean>, endMs: number): Promise<boolean> {
  const late = new Promise<boolean>((resolve) =>
    sim.time.after(Math.max(1, endMs - sim.time.now + 1), () => resolve(false)),
  );
  return Promise.race([work, late]);
}

async function whole(sim: Sim, client: Client): Promise<void> {
  const { volume } = client;
  const endMs = sim.time.now + WHOLE_MS;
  const expected = () => volume.record.replicas.filter((replica) => replica.state !== 'lost').length;
  while (volume.record.inSync.length < expected()) {
    if (sim.time.now > endMs) {
      const { inSync, replicas } = volume.record;
      const away = replicas.filter(({ id, state }) => !inSync.includes(id) && state !== 'lost');
      throw new Error(
        `${away.map(({ nodeId }) => nodeId)} are not back in sync ${WHOLE_MS} ms after everything was healed`,
      );
    }
    await serves(sim, client);
    await client.pause(100);
  }
}

async function close(sim: Sim, client: Client): Promise<void> {
  await serves(sim, client);
  await client.close();
}

async function reopen(sim: Sim, client: Client, node: SimNode): Promise<void> {
  client.prefer(node);
  await serves(sim, client);
}

/** Every block that was ever touched, and the snapshots. */
async function checkContents(sim: Sim, client: Client, state: VolumeState): Promise<void> {
  const { volume } = client;
  const { device } = client.session!;
  if (device.sizeBytes !== state.sizeBytes)
    throw new Error(`the volume has ${device.sizeBytes} bytes, must have ${state.sizeBytes}`);
  const blocks = [...volume.model.touched].filter((block) => (block + 1) * BLOCK_SIZE <= state.sizeBytes);
  for (const [block, count] of runsOf(blocks)) {
    const got = await client.readAt(block * BLOCK_SIZE, count * BLOCK_SIZE);
    if (got === null) throw new Error('the engine ended though nothing fails any more');
    for (let i = 0; i < count; i++) {
      const want = state.blocks.get(block + i);
      const part = got.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      if (want === undefined ? part.some((byte) => byte !== 0) : !part.equals(want))
        throw new Error(
          `block ${block + i} holds ${content(part)}, must hold ${want === undefined ? 'zeroes' : content(want)}`,
        );
    }
  }
  sim.note(`contents checked ${blocks.length}`);
}

function content(block: Buffer): string {
  return block.every((byte) => byte === 0) ? 'zeroes' : `write ${block.readUInt32LE(0)}`;
}

/** After an orderly close all in-sync replicas hold the same files; zeroes behind the last frame are as good as none. */
function checkEqual(sim: Sim, client: Client): void {
  const { record, volumeId } = client.volume;
  const logs = record.inSync.map((id) => {
    const replica = record.replicas.find((one) => one.id === id)!;
    const { disk } = sim.nodes.find((one) => one.nodeId === replica.nodeId)!;
    const directory = `${poolPath}/replicas/${volumeId}`;
    const names = disk.list(directory).filter((name) => parseSegmentFileName(name) !== undefined);
    return { node: replica.nodeId, files: new Map(names.map((name) => [name, disk.contents(`${directory}/${name}`)])) };
  });
  const [first, ...others] = logs;
  for (const other of others) {
    const newest = [...first!.files.keys(), ...other.files.keys()].sort().at(-1);
    for (const name of new Set([...first!.files.keys(), ...other.files.keys()])) {
      const mine = first!.files.get(name);
      const theirs = other.files.get(name);
      if (mine === undefined || theirs === undefined) {
        // A deletion that was cut short is repeated later; what is needed is read from each replica alone.
        if (name === newest) throw new Error(`the newest segment ${name} is not on every in-sync replica`);
        sim.reached('segment not deleted everywhere');
      } else if (!sameWritten(mine, theirs))
        throw new Error(`segment ${name} differs between ${first!.node} and ${other.node}${where(mine, theirs)}`);
    }
  }
}

function where(a: Buffer, b: Buffer): string {
  let first = 0;
  while (a[first] === b[first]) first++;
  return `: first at byte ${first} of ${a.length} and ${b.length}`;
}

/** Promise 1 is kept by every member, not by some. */
async function checkEachAlone(sim: Sim, client: Client): Promise<void> {
  const { volume } = client;
  await drain(sim, client);
  await close(sim, client);
  const { inSync } = volume.record;
  const key = keyOf.volume(volume.volumeId);
  for (const id of inSync) {
    const alone = (record: VolumeRecord | undefined) => ({
      ...record!,
      inSync: [id],
      setVersion: record!.setVersion + 1,
      replicas: record!.replicas.map((one) => ({ ...one, state: one.id === id ? ('ok' as const) : ('lost' as const) })),
    });
    const { value } = await update<VolumeRecord>(sim.store.direct, key, alone, {
      clock: sim.nodes[0]!.daemon!.process,
    });
    volume.changed(value!);
    const node = sim.nodes.find((one) => one.nodeId === value!.replicas.find((replica) => replica.id === id)!.nodeId)!;
    await reopen(sim, client, node);
    await checkContents(sim, client, volume.stateNow());
    await close(sim, client);
    sim.reached('replica checked alone');
    // What this one wrote the others lack: they go back to where they were.
    if (inSync.length > 1) break;
  }
}
