// holdfast.v1.Volume and Replica over gRPC: who may send a key, what malformed requests get, what reaches the engine.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { replicaService, volumeService, type WorkerCalls, workerOf } from '../../../src/agent/index.js';
import { HoldfastError, realClock, silentLogger, type VolumeId } from '../../../src/base/index.js';
import { createClient, createServer, holdfastServices } from '../../../src/rpc/index.js';
import { type Bench, makeBench, nodeA, replicaIds, volumeId, volumeRecord } from './fakes.js';

let b: Bench;
let dir: string;
const stop: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  b = await makeBench(volumeRecord({ parameters: { ...volumeRecord().parameters, encryption: 'aes-256-gcm' } }));
  dir = mkdtempSync(join(tmpdir(), 'hf-volume-service-'));
});
afterEach(async () => {
  for (const step of stop.splice(0).reverse()) await step();
  await b.stop();
  rmSync(dir, { recursive: true });
});

async function client(acceptsKeys: boolean) {
  const address = `unix://${dir}/${acceptsKeys ? 'local' : 'remote'}.sock`;
  const services = [volumeService(b.volumes, { acceptsKeys })];
  const server = await createServer({ address, services, clock: realClock, logger: silentLogger });
  const made = createClient(address, holdfastServices.volume(), { clock: realClock });
  stop.push(
    () => server.close(0),
    async () => made.close(),
  );
  return made;
}

const key = Buffer.alloc(32, 9);
const snapshot = '55555555-1111-4111-8111-111111111111';

test('keys are taken on the node’s own socket only', async () => {
  const remote = await client(false);
  const open = { volume_id: volumeId, export: true, wrapping_key: key };
  await expect(remote.Open(open)).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
  expect(b.engines.length).toBe(0);
  const local = await client(true);
  expect(await local.Open(open)).toMatchObject({ export_name: volumeId, size_bytes: 1 << 20, epoch: 1 });
  const { volumes } = await remote.Status({});
  expect(volumes).toMatchObject([
    {
      volume_id: volumeId,
      state: 'serving',
      exported: true,
      epoch: 1,
      counters: { reads: 1, writes: 2, read_repairs: 8 },
    },
  ]);
  expect((await remote.Status({ volume_id: snapshot })).volumes).toEqual([]);
  await local.Close({ volume_id: volumeId });
  expect((await remote.Status({})).volumes).toEqual([]);
});

test('orders reach the engine with their values, and groups are frozen only while held', async () => {
  const local = await client(true);
  expect(await local.Freeze({ volume_id: volumeId, snapshot_id: snapshot })).toEqual({
    size_bytes: 1 << 20,
    wall_ms: 1,
    seq: 7,
  });
  await local.Hold({ volume_id: volumeId, hold_token: 'group-1', deadline_ms: 500 });
  await local.Freeze({ volume_id: volumeId, snapshot_id: snapshot, hold_token: 'group-1' });
  await expect(local.Freeze({ volume_id: volumeId, snapshot_id: snapshot, hold_token: 'other' })).rejects.toMatchObject(
    {
      code: 'FAILED_PRECONDITION',
    },
  );
  expect(await local.Release({ volume_id: volumeId, hold_token: 'group-1' })).toEqual({ held_until_now: true });
  await local.Resize({ volume_id: volumeId, size_bytes: 2 << 20 });
  expect(b.engines[0]!.sizeBytes).toBe(2 << 20);
  const changed = await local.Changed({ volume_id: volumeId, target_snapshot_id: snapshot });
  expect(changed).toEqual({ volume_size_bytes: 2 << 20, extents: [{ offset: 0, length: 4096 }], next_offset: 0 });
  expect(b.engines.length).toBe(1);
  await local.Close({ volume_id: volumeId });
  // The hold ended with its engine: no other may freeze in its name.
  await expect(
    local.Freeze({ volume_id: volumeId, snapshot_id: snapshot, hold_token: 'group-1' }),
  ).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
  });
  expect(await local.Release({ volume_id: volumeId, hold_token: 'group-1' })).toEqual({ held_until_now: false });
  expect(b.engines.length).toBe(1);
});

test('malformed requests are refused before anything is opened', async () => {
  const local = await client(true);
  const id = { volume_id: volumeId };
  for (const [name, call] of Object.entries({
    open: () => local.Open({ volume_id: '../x' }),
    close: () => local.Close({ volume_id: '' }),
    freeze: () => local.Freeze({ ...id, snapshot_id: 'x' }),
    group: () => local.Freeze({ ...id, snapshot_id: snapshot, group_id: 'x' }),
    token: () => local.Hold({ ...id, hold_token: '', deadline_ms: 5 }),
    deadline: () => local.Hold({ ...id, hold_token: 't', deadline_ms: 1e9 }),
    resize: () => local.Resize({ ...id, size_bytes: -1 }),
    qos: () => local.SetQos({ ...id, qos: { max_read_iops: -5 } }),
    offset: () => local.Changed({ ...id, target_snapshot_id: snapshot, starting_offset: -1 }),
    clone: () => local.Clone({ ...id, snapshot_id: snapshot, new_volume_id: volumeId, targets: [] }),
    short: () => local.Open({ ...id, export: true, wrapping_key: Buffer.alloc(31) }),
  })) {
    await expect(call(), name).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
  await local.SetQos({ ...id, qos: { max_read_iops: 5 } });
  expect(b.engines.length).toBe(0);
  expect((await b.record()).epoch).toBe(0);
});

test('replicas are asked of the worker that has their volume', async () => {
  const asked: string[] = [];
  const worker = (name: string): WorkerCalls => ({
    call: async (method) => {
      asked.push(`${name} ${method}`);
      return (method === 'replicaStatus' ? { replicas: [], unread: [] } : null) as never;
    },
  });
  const workers = [worker('0'), worker('1'), worker('2')];
  const workerFor = (id: VolumeId) => workers[workerOf(id, 3)]!;
  let wentBack: HoldfastError | undefined;
  const checkStore = async () => {
    if (wentBack) throw wentBack;
  };
  const address = `unix://${dir}/replica.sock`;
  const services = [replicaService({ workers, workerFor, checkStore })];
  const server = await createServer({ address, services, clock: realClock, logger: silentLogger });
  const made = createClient(address, holdfastServices.replica(), { clock: realClock });
  stop.push(
    () => server.close(0),
    async () => made.close(),
  );
  const record = volumeRecord();
  const replica = record.replicas[0]!;
  const create = {
    volume_id: volumeId,
    lineage_id: record.lineageId,
    replica_id: replica.id,
    incarnation_id: replica.incarnationId,
    pool_id: replica.poolId,
    size_bytes: 4096,
    members: [{ replica_id: replica.id, incarnation_id: replica.incarnationId }],
    set_version: 1,
  };
  await made.Create(create);
  await made.Retire({ volume_id: volumeId, replica_id: replicaIds[0], pool_id: replica.poolId });
  // An old copy of the store may name for deletion what is the last good replica by the newer one.
  wentBack = new HoldfastError('FAILED_PRECONDITION', 'went back', { reason: 'StoreWentBack' });
  const late = made.Retire({ volume_id: volumeId, replica_id: replicaIds[0], pool_id: replica.poolId });
  await expect(late).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'StoreWentBack' });
  await made.Status({});
  const mine = workerOf(volumeId, 3);
  expect(asked).toEqual([
    `${mine} createReplica`,
    `${mine} retireReplica`,
    '0 replicaStatus',
    '1 replicaStatus',
    '2 replicaStatus',
  ]);
  for (const wrong of [{ pool_id: nodeA }, { size_bytes: 0 }, { members: [] }, { incarnation_id: 'x' }]) {
    await expect(made.Create({ ...create, ...wrong })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
  expect(asked.length).toBe(5);
  // Peers compute it, too: it must never change.
  const ids = [
    '00000000-0000-4000-8000-000000000000',
    '11111111-1111-4111-8111-111111111111',
    'ffffffff-ffff-4fff-bfff-ffffffffffff',
  ];
  expect(ids.map((id) => workerOf(id as VolumeId, 7))).toEqual([5, 3, 6]);
});
