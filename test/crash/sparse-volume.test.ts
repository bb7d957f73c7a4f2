// What a large volume costs when little is in it, and what a stranger to the key can learn: sizes are compared by counting bytes
// and calls, since time on a shared machine says little.

import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import {
  BLOCK_SIZE,
  GiB,
  type NodeId,
  realClock,
  realRandom,
  type SnapshotId,
  silentLogger,
  wrapDataKey,
} from '../../src/base/index.js';
import { type EngineOptions, openEngine } from '../../src/engine/index.js';
import { ReplicaHost } from '../../src/replica/index.js';
import { Pool } from '../../src/segment/index.js';
import { readAt } from '../lib/crash/client.js';
import { beginClone, checkClone } from '../lib/crash/clones.js';
import { type Session, SimWorld, type VolumeShape } from '../lib/crash/sim-world.js';
import { RecordingDisk } from '../lib/recording-disk.js';
import { makeBench, nodeA, replicaIds, volumeId as volumeA, volumeRecord } from '../unit/agent/fakes.js';

interface Cost {
  changes: number;
  bytes: number;
  syncs: number;
  virtualMs: number;
}

function costOf(world: SimWorld): Cost {
  const journals = world.nodes.map((node) => node.disk.journal);
  return {
    changes: journals.reduce((sum, journal) => sum + journal.length, 0),
    bytes: journals.flat().reduce((sum, change) => sum + (change.op === 'write' ? change.bytes.length : 0), 0),
    syncs: world.nodes.reduce((sum, node) => sum + node.disk.syncs, 0),
    virtualMs: world.time.now,
  };
}

async function put(session: Session, offset: number, data: Buffer): Promise<void> {
  const error = await new Promise((resolve) =>
    session.engine.submit([
      { op: 'write', offset, length: data.length, fua: true, data, dataAt: 0, cancelled: false, complete: resolve },
    ]),
  );
  expect(error).toBeNull();
}

/** Created, three blocks written, frozen, cloned, the clone opened and read; the cost of each step. */
async function lifeOf(sizeBytes: number): Promise<Record<'created' | 'snapshotted' | 'cloned' | 'read', Cost>> {
  const shape: VolumeShape = { replicas: 3, sizeBytes, compression: 'lz4', cipher: 'none', dataKey: null };
  const { world, volumeId } = await SimWorld.fresh(5, shape);
  return await world.until(
    (async () => {
      const session = await world.open(volumeId, world.nodes[0]!);
      const model = world.models.get(volumeId)!;
      const created = costOf(world);
      for (const offset of [0, sizeBytes / 2, sizeBytes - BLOCK_SIZE]) {
        const data = Buffer.alloc(BLOCK_SIZE, 9);
        const request = model.submitted('write', offset, BLOCK_SIZE, data, true);
        await put(session, offset, data);
        model.completed(request, null);
      }
      const snapshotId = world.chance.uuid() as SnapshotId;
      await session.engine.freeze({ snapshotId, groupId: null, holdToken: null });
      const snapshotted = costOf(world);
      const { record, answer } = beginClone(world, session, volumeId, snapshotId, world.chance);
      await answer;
      const cloned = costOf(world);
      await checkClone(world, record, world.chance);
      expect((await readAt(session, sizeBytes / 4, BLOCK_SIZE)).every((byte) => byte === 0)).toBe(true);
      return { created, snapshotted, cloned, read: costOf(world) };
    })(),
    'the life of a sparse volume',
  );
}

it('a sparse volume of 100 GiB is made, frozen, cloned and opened at the cost of one of 1 GiB', async () => {
  const small = await lifeOf(GiB);
  const large = await lifeOf(100 * GiB);
  for (const step of ['created', 'snapshotted', 'cloned', 'read'] as const) {
    console.log(`${step}: 1 GiB ${JSON.stringify(small[step])}, 100 GiB ${JSON.stringify(large[step])}`);
    expect(large[step].changes, step).toBe(small[step].changes);
    expect(large[step].syncs, step).toBe(small[step].syncs);
    // Three map nodes instead of one, on three replicas, and a longer list of nodes in each root.
    expect(large[step].bytes - small[step].bytes, step).toBeLessThan(24 * 1024);
  }
});

const marker = Buffer.from('-- nobody but the owner may read this --');

/** Every byte that ever went to a disk of the world, also what was deleted since. */
function everWritten(world: SimWorld): Buffer {
  const parts = world.nodes.flatMap((node) => node.disk.journal);
  return Buffer.concat(parts.map((change) => (change.op === 'write' ? change.bytes : Buffer.alloc(0))));
}

it.each([
  ['an encrypted volume', true],
  ['a plain one', false],
])('a marker written to %s: in its pools: %s is not', async (_, encrypted) => {
  const dataKey = encrypted ? randomBytes(32) : null;
  const shape: VolumeShape = {
    replicas: 3,
    sizeBytes: GiB,
    compression: 'lz4',
    cipher: encrypted ? 'aes-256-gcm' : 'none',
    dataKey,
  };
  const { world, volumeId } = await SimWorld.fresh(6, shape);
  const run = async () => {
    const session = await world.open(volumeId, world.nodes[0]!);
    world.models.get(volumeId)!.sent = () => [];
    // Not to be packed, to be packed, partial, and twice the same.
    await put(session, 0, Buffer.concat([marker, randomBytes(2 * BLOCK_SIZE - marker.length)]));
    await put(session, BLOCK_SIZE * 4, Buffer.concat([marker, Buffer.alloc(BLOCK_SIZE - marker.length)]));
    await put(session, BLOCK_SIZE * 9 + 100, marker);
    await put(session, BLOCK_SIZE * 4, Buffer.concat([marker, Buffer.alloc(BLOCK_SIZE - marker.length)]));
    const snapshotId = world.chance.uuid() as SnapshotId;
    await session.engine.freeze({ snapshotId, groupId: null, holdToken: null });
    await session.engine.close();
  };
  await world.until(run(), 'writing the marker');
  const written = everWritten(world);
  expect(written.length).toBeGreaterThan(20_000);
  expect(written.includes(marker)).toBe(!encrypted);
  if (dataKey === null) return;
  for (const form of [dataKey, Buffer.from(dataKey.toString('hex')), Buffer.from(dataKey.toString('base64'))]) {
    expect(written.includes(form)).toBe(false);
    expect(JSON.stringify(world.log)).not.toContain(form.toString());
  }
  const records = countRecords(written);
  expect(records).toBeGreaterThan(0);
});

/** Entry magics, so that the search above is known to have looked at records. */
function countRecords(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf('HFE1'); at >= 0; at = bytes.indexOf('HFE1', at + 4)) count++;
  return count;
}

it('a wrong key fails before any I/O', async () => {
  const disk = new RecordingDisk();
  disk.prepareDirectory('/pool');
  const world = { nodeId: 'node-a' as NodeId, random: realRandom, clock: realClock };
  await Pool.format(disk, '/pool', world);
  const pool = await Pool.open(disk, '/pool', { nodeId: world.nodeId, exclusive: true });
  const host = new ReplicaHost({
    pools: [pool],
    stopEngine: async () => false,
    clock: realClock,
    logger: silentLogger,
  });
  const replicaId = replicaIds[0]!;
  const record = volumeRecord({ inSync: [replicaId], replicas: [volumeRecord().replicas[0]!] });
  const { incarnationId } = record.replicas[0]!;
  const { lineageId, sizeBytes } = record;
  await host.create({
    volumeId: volumeA,
    lineageId,
    replicaId,
    incarnationId,
    poolId: pool.id,
    sizeBytes,
    parameters: {},
    members: [{ replicaId, incarnationId }],
    setVersion: 1,
  });
  const right = randomBytes(32);
  const dataKey = randomBytes(32);
  const bench = await makeBench({
    ...record,
    parameters: { ...record.parameters, replicas: 1, encryption: 'aes-256-gcm' },
    wrappedKey: wrapDataKey(dataKey, right, lineageId, realRandom),
  });
  let opened = 0;
  bench.failOpen = async (options: EngineOptions) => {
    opened++;
    const connector = { connect: () => host.localPort(volumeA, replicaId) };
    const engine = await openEngine({ ...options, dataKey: Buffer.from(options.dataKey!), connector });
    await engine.close();
  };
  const before = { reads: disk.reads, changes: disk.journal.length };
  for (const wrong of [randomBytes(32), Buffer.alloc(32), Buffer.alloc(0), right.subarray(0, 31)])
    await expect(bench.volumes.openAttached(volumeA, wrong, false)).rejects.toMatchObject({
      reason: expect.stringMatching(/^(WrongKey|MissingKey)$/),
    });
  expect({ reads: disk.reads, changes: disk.journal.length }).toEqual(before);
  expect(opened).toBe(0);
  expect((await bench.record()).epoch).toBe(0);
  await bench.volumes.openAttached(volumeA, right, false);
  expect(opened).toBe(1);
  expect(disk.journal.length).toBeGreaterThan(before.changes);
  await bench.volumes.close(volumeA, 1);
  await host.close();
  expect(record.replicas[0]!.nodeId).toBe(nodeA);
  await bench.stop();
});
