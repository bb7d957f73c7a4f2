// Metadata rebuilt out of bare pools: an engine opens the volume by it and has the data; no stale replica can be chosen, now or later;
// what is not proved is refused.

import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, truncateSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { engineMembers, engineVolume } from '../../../src/agent/reigns.js';
import { type GroupId, MiB, realRandom, type SnapshotId } from '../../../src/base/index.js';
import { nameHash } from '../../../src/control/index.js';
import type { Engine } from '../../../src/engine/index.js';
import {
  type GroupRecord,
  keyOf,
  type NameRecord,
  openSqliteStore,
  type SnapshotRecord,
  type VolumeRecord,
} from '../../../src/meta/index.js';
import { eventually, flush, read, rigVolume, write } from '../../lib/engine-rig.js';
import { PoolRig } from '../../lib/pool-rig.js';
import { rescue } from '../../lib/rescue-command.js';

const snapshotId = '50000000-0000-4000-8000-000000000001' as SnapshotId;
const groupId = '60000000-0000-4000-8000-000000000001' as GroupId;

// Some 50 MB are synced for real.
vi.setConfig({ testTimeout: 60_000 });

let rig: PoolRig;
let out: string;
beforeEach(async () => {
  rig = await PoolRig.make(3);
  out = `${rig.root}-metadata.db`;
});
afterEach(async () => {
  await rig.remove();
  for (const name of readdirSync(dirname(out)).filter((one) => one.startsWith(basename(out))))
    rmSync(`${dirname(out)}/${name}`);
});

/** Replica 2 leaves the set; afterwards 3 MiB from 1 MiB on are others. */
async function leaveTwoBehind(): Promise<Buffer> {
  const engine = await rig.open();
  const data = randomBytes(10 * MiB);
  for (let at = 0; at < data.length; at += MiB) await write(engine, at, data.subarray(at, at + MiB));
  await engine.freeze({ snapshotId, groupId, holdToken: null });
  await rig.stop(2);
  randomBytes(3 * MiB).copy(data, MiB);
  await write(engine, MiB, data.subarray(MiB, 4 * MiB));
  await eventually(() => rig.inSync.length === 2, 'replica 2 left the set');
  await flush(engine);
  await engine.close();
  await rig.stopAll();
  return data;
}

async function stored<T extends object>(key: string): Promise<T | undefined> {
  const store = await openSqliteStore({ file: out, random: realRandom });
  try {
    return (await store.get<T>(key))?.value;
  } finally {
    await store.close();
  }
}

/** As an agent opens it. */
function openBy(record: VolumeRecord): Promise<Engine> {
  rig.epoch = record.epoch;
  rig.setVersion = record.setVersion;
  rig.inSync = [...record.inSync];
  const { setVersion, flushedPoint } = record;
  return rig.open({ volume: engineVolume(record), members: engineMembers(record), setVersion, flushedPoint });
}

it('an engine opens by it, and the replica that lags is no source', async () => {
  const data = await leaveTwoBehind();
  const before = rig.digest();
  const { code, events } = await rescue('metadata', '--out', out, ...rig.paths(2, 1, 0));
  expect(code).toBe(0);
  expect(rig.digest()).toBe(before);
  expect(events.find(({ event }) => event === 'unknown')).toBeDefined();

  const record = (await stored<VolumeRecord>(keyOf.volume(rigVolume)))!;
  expect(record.inSync.toSorted()).toEqual([0, 1].map((i) => rig.members()[i]!.replicaId));
  expect(record.replicas.map(({ state, nodeId }) => [nodeId, state]).sort()).toEqual([
    ['n0', 'ok'],
    ['n1', 'ok'],
    ['n2', 'ok'],
  ]);
  expect(record.state).toBe('ready');
  expect(record.sizeBytes).toBe(rig.options.sizeBytes);
  expect(record.formatted.state).toBe('raw');
  expect(record.parameters).toMatchObject({ replicas: 3, compression: 'lz4', encryption: 'none' });
  expect(await stored<NameRecord>(keyOf.volumeName(nameHash('pvc-rescue')))).toEqual({
    name: 'pvc-rescue',
    id: rigVolume,
  });
  expect(await stored<SnapshotRecord>(keyOf.snapshot(snapshotId))).toMatchObject({
    volumeId: rigVolume,
    groupId,
    state: 'ready',
    sizeBytes: rig.options.sizeBytes,
  });
  expect((await stored<GroupRecord>(keyOf.group(groupId)))!.members).toEqual([{ volumeId: rigVolume, snapshotId }]);

  // A daemon that saw a busy store refuses one that looks older.
  const store = await openSqliteStore({ file: out, random: realRandom });
  expect(await store.version()).toBeGreaterThan(1e12);
  await store.close();

  // The stale one alone is not enough, whatever it holds.
  await rig.start(2);
  await expect(openBy(record)).rejects.toThrow("can't be opened");
  await rig.start(0);
  await rig.start(1);
  const engine = await openBy(record);
  expect((await read(engine, 0, data.length)).equals(data)).toBe(true);
  await write(engine, 0, data.subarray(MiB, 2 * MiB));
  await eventually(() => rig.inSync.length === 3, 'the stale one was brought up to date');
  await flush(engine);
  await engine.close();
  await rig.stopAll();
  const contents = (i: number) =>
    rig.segments(i).map((path) => `${basename(path)} ${createHash('sha256').update(readFileSync(path)).digest('hex')}`);
  expect(contents(2)).toEqual(contents(0));
});

it('a member that lost the end of its log is not in sync', async () => {
  const engine = await rig.open();
  await write(engine, 0, randomBytes(MiB));
  await flush(engine);
  const synced = rig.segments(1).map((path) => statSync(path).size);
  const data = randomBytes(MiB);
  await write(engine, 0, data);
  engine.depose('the test ends it');
  await rig.stopAll();
  // What was not flushed is gone on one of them.
  const last = rig.segments(1).at(-1)!;
  truncateSync(last, synced.at(-1)!);
  await rig.losePageCache(1);
  const { events } = await rescue('metadata', '--out', out, ...rig.paths(1, 0, 2));
  const record = (await stored<VolumeRecord>(keyOf.volume(rigVolume)))!;
  expect(record.inSync.toSorted()).toEqual([0, 2].map((i) => rig.members()[i]!.replicaId));
  expect(JSON.stringify(events)).toContain('does not end where the newest one does');
  for (const i of [0, 1, 2]) await rig.start(i);
  const again = await openBy(record);
  expect((await read(again, 0, data.length)).equals(data)).toBe(true);
  await eventually(() => rig.inSync.length === 3, 'it got back what it lost');
  await again.close();
});

it('an epoch that a replica promised, though nothing was written in it, is not granted again', async () => {
  await leaveTwoBehind();
  await rig.start(1);
  const port = await rig.nodes[1]!.host!.localPort(rigVolume, rig.members()[1]!.replicaId);
  port.listen({ appended: () => {}, lost: () => {} });
  await port.fence({ epoch: 3_000_000, reignId: rig.reignId });
  await rig.stopAll();
  await rescue('metadata', '--out', out, ...rig.paths(0, 1, 2));
  const record = (await stored<VolumeRecord>(keyOf.volume(rigVolume)))!;
  expect(record.epoch).toBeGreaterThan(3_000_000);
  expect(record.setVersion).toBeGreaterThan(1_000_000);
});

it('refuses a volume of which a member was not found, unless the loss is accepted, which is kept', async () => {
  await leaveTwoBehind();
  const id = (i: number) => rig.members()[i]!.replicaId;
  // 0 and 1 are the newest set. The third was found nowhere: nothing proves that it did not go on alone.
  for (const some of [[0], [2], [0, 2], [0, 1]]) {
    await expect(rescue('metadata', '--out', out, ...rig.paths(...some))).rejects.toThrow('nothing was written');
    expect(existsSync(out)).toBe(false);
  }
  const { code } = await rescue('metadata', '--out', out, '--accept-loss', rigVolume, ...rig.paths(0, 2));
  expect(code).toBe(0);
  expect((await stored<VolumeRecord>(keyOf.volume(rigVolume)))!.inSync).toEqual([id(0)]);
  expect(await stored(keyOf.rescue(rigVolume))).toMatchObject({ acceptedLoss: [{ replicaId: id(1) }] });
  await expect(rescue('metadata', '--out', out, '--accept-loss', rigVolume, ...rig.paths(0, 2))).rejects.toThrow(
    'exists already',
  );
});

it('goes by the number of replicas that the volume has now, not by the one it began with', async () => {
  rig.volume = { replicas: 3 };
  let engine = await rig.open();
  await write(engine, 0, randomBytes(MiB));
  engine.follow(
    rig.members().map((member, i) => ({ ...member, leaving: i > 0 })),
    { replicas: 1, minReplicas: 1 },
  );
  await eventually(() => rig.inSync.length === 1, 'the others left');
  await flush(engine);
  await engine.close();
  await rig.stopAll();
  for (const i of [1, 2]) rmSync(rig.directory(i), { recursive: true });
  expect((await rescue('metadata', '--out', out, ...rig.paths(0, 1, 2))).code).toBe(0);
  expect((await stored<VolumeRecord>(keyOf.volume(rigVolume)))!.parameters).toMatchObject({ replicas: 1 });
  // Told at the next open, when nobody was there to be told. Then one that is missing is missed.
  rmSync(out);
  rig.volume = { replicas: 2, minReplicas: 2 };
  await rig.start(0);
  engine = await rig.open({ members: rig.members().slice(0, 1) });
  await engine.close();
  await rig.stopAll();
  await expect(rescue('metadata', '--out', out, ...rig.paths(0))).rejects.toThrow('nothing was written');
  await rescue('metadata', '--out', out, '--accept-loss', rigVolume, ...rig.paths(0));
  const { parameters } = (await stored<VolumeRecord>(keyOf.volume(rigVolume)))!;
  expect(parameters).toMatchObject({ replicas: 2, minReplicas: 2 });
});

it('leaves out a volume by command only', async () => {
  await leaveTwoBehind();
  await expect(rescue('metadata', '--out', out, '--leave-out', rigVolume, ...rig.paths(0))).rejects.toThrow(
    'nothing to rebuild',
  );
  await expect(rescue('metadata', '--out', out, '--leave-out', snapshotId, ...rig.paths(0))).rejects.toThrow(
    'no replica of volume',
  );
});
