// The Node service over gRPC: what each call leaves on the node and in the record, what repeats and contradictions answer.

import { writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { HoldfastError, type NodeId } from '../../../src/base/index.js';
import type { VolumeRecord } from '../../../src/meta/index.js';
import { nodeA, volumeId, volumeRecord } from '../agent/fakes.js';
import { FakeNode } from './fakes.js';

type Mode =
  | 'SINGLE_NODE_WRITER'
  | 'SINGLE_NODE_SINGLE_WRITER'
  | 'SINGLE_NODE_MULTI_WRITER'
  | 'MULTI_NODE_MULTI_WRITER'
  | 'SINGLE_NODE_READER_ONLY';
const mount = (mode: Mode = 'SINGLE_NODE_WRITER', fsType = '', flags: string[] = []) => ({
  access_mode: { mode },
  mount: { fs_type: fsType, mount_flags: flags },
});
const block = { access_mode: { mode: 'SINGLE_NODE_WRITER' as const }, block: {} };

let node: FakeNode;
let client: Awaited<ReturnType<FakeNode['serve']>>;
let staging: string;
let target: string;

beforeEach(async () => {
  node = new FakeNode();
  client = await node.serve();
  staging = node.path('staging');
  target = node.path('target');
  await node.put(volumeRecord());
});
afterEach(() => node.stop());

const stage = (capability: object = mount(), more: object = {}) =>
  client.NodeStageVolume({ volume_id: volumeId, staging_target_path: staging, volume_capability: capability, ...more });
const publish = (capability: object = mount(), more: object = {}) =>
  client.NodePublishVolume({
    volume_id: volumeId,
    staging_target_path: staging,
    target_path: target,
    volume_capability: capability,
    ...more,
  });
const unstage = () => client.NodeUnstageVolume({ volume_id: volumeId, staging_target_path: staging });
const put = (change: Partial<VolumeRecord>) => node.put(volumeRecord(change));
const withParameters = (change: Partial<VolumeRecord['parameters']>) => ({
  parameters: { ...volumeRecord().parameters, ...change },
});
const steps = () => node.log.filter((step) => !step.startsWith('probe'));

test('first stage formats once, mounts with all options, and repeats are free', async () => {
  await put(
    withParameters({ mkfsOptions: '-E nodiscard  -b 4096', mountOptions: 'noatime,nodiratime', fsType: 'xfs' }),
  );
  await stage(mount('SINGLE_NODE_WRITER', '', ['discard']));
  expect(steps()).toEqual([
    `attach ${volumeId}`,
    'proveBlank',
    `mkfs xfs ${volumeId} -E nodiscard -b 4096`,
    `mount ${staging} noatime,nodiratime,discard`,
    'growMounted xfs',
  ]);
  expect((await node.record(volumeId)).formatted).toEqual({ state: 'formatted', fsType: 'xfs' });
  node.log.length = 0;
  await stage(mount());
  expect(steps()).toEqual([`attach ${volumeId}`]);
  await unstage();
  await unstage();
  expect(node.mounts).toEqual([]);
  expect(node.devices.size).toBe(0);
  node.log.length = 0;
  await stage(mount());
  expect(steps()).toEqual([`attach ${volumeId}`, 'fsck', `mount ${staging} noatime,nodiratime`, 'growMounted xfs']);
});

test('mkfs needs every proof: not when contents, size, record or mode speak against it', async () => {
  node.disks.set(volumeId, 'btrfs');
  await expect(stage()).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  expect((await node.record(volumeId)).formatted.state).toBe('never');
  node.devices.clear();
  node.disks.clear();
  node.fail.set('proveBlank', new HoldfastError('UNAVAILABLE', 'reads fail', { reason: 'DiskFailed' }));
  await expect(stage()).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'DiskFailed' });
  node.fail.clear();
  await put({ formatted: { state: 'formatted', fsType: 'ext4' } });
  await expect(stage()).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining('not formatted again'),
  });
  await put({ formatted: { state: 'raw' } });
  await expect(stage()).rejects.toMatchObject({ message: expect.stringContaining('never formatted') });
  node.devices.clear();
  await put({ publications: [{ ...volumeRecord().publications[0]!, readOnly: true }] });
  await expect(stage()).rejects.toMatchObject({ message: expect.stringContaining('read-only') });
  node.devices.clear();
  await put({});
  node.sizes.set(volumeId, 4 << 20);
  await expect(stage()).rejects.toMatchObject({ message: expect.stringContaining('size') });
  expect(node.log.some((step) => step.startsWith('mkfs'))).toBe(false);
  expect(node.mounts).toEqual([]);
});

test('an mkfs that was cut short is done again, one that another call finished is not', async () => {
  node.fail.set('mkfs', new HoldfastError('DEADLINE_EXCEEDED', 'mkfs was killed'));
  await expect(stage()).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  expect((await node.record(volumeId)).formatted).toEqual({ state: 'formatting', fsType: 'ext4' });
  node.fail.clear();
  await expect(stage(mount('SINGLE_NODE_WRITER', 'xfs'))).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  await stage();
  expect((await node.record(volumeId)).formatted).toEqual({ state: 'formatted', fsType: 'ext4' });
});

test('a filesystem that is smaller than its device grows before it is mounted', async () => {
  await stage();
  await unstage();
  await node.put({ ...(await node.record(volumeId)), sizeBytes: 8 << 20 });
  node.filesystemBytes = 1 << 20;
  node.log.length = 0;
  await stage();
  expect(steps()).toEqual([`attach ${volumeId}`, 'fsck', 'growUnmounted', `mount ${staging}`]);
});

test('an encrypted volume needs its key: out of the secret into the holder and nowhere else', async () => {
  await put(withParameters({ encryption: 'aes-256-gcm' }));
  await expect(stage()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'MissingKey' });
  await expect(stage(mount(), { secrets: { encryptionKey: 'short' } })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    reason: 'WrongKey',
  });
  expect(node.log).toEqual([]);
  const hex = 'ab'.repeat(32);
  await stage(mount(), { secrets: { encryptionKey: hex } });
  expect(node.devices.get(volumeId)!.key).toBe(hex);
  expect(JSON.stringify(await node.record(volumeId)) + node.log.join()).not.toContain(hex);
});

test('required fields and odd ids get the codes that the specification names', async () => {
  const none = { volume_id: '', staging_target_path: '', target_path: '', volume_path: '' };
  for (const call of [
    'NodeStageVolume',
    'NodeUnstageVolume',
    'NodePublishVolume',
    'NodeUnpublishVolume',
    'NodeGetVolumeStats',
    'NodeExpandVolume',
    'NodeGetVolumeHealth',
  ] as const) {
    await expect(client[call](none as never), call).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    const odd = {
      volume_id: '../../etc',
      staging_target_path: staging,
      target_path: target,
      volume_path: 'some/path',
      volume_capability: mount(),
    };
    await expect(client[call](odd as never), call).rejects.toMatchObject({ code: 'NOT_FOUND' });
  }
  await expect(stage(mount(), { volume_capability: null })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(stage(mount('MULTI_NODE_MULTI_WRITER'))).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  await expect(stage(mount('SINGLE_NODE_WRITER', 'ntfs'))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  await expect(stage(mount('SINGLE_NODE_WRITER', '', ['bind']))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  for (const path of ['relative', '/a/../b', '/', '/a\nb', `/${'x'.repeat(5000)}`]) {
    await expect(stage(mount(), { staging_target_path: path })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(publish(mount(), { target_path: path })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  }
  await expect(publish(mount(), { staging_target_path: '' })).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  await expect(publish()).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
});

test('a volume published to another node is not staged', async () => {
  await put({ publications: [{ ...volumeRecord().publications[0]!, nodeId: 'node-c' as NodeId }] });
  await expect(stage()).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining('node-c'),
  });
  expect(node.log).toEqual([]);
});

test('publish: idempotent, one target unless the mode allows more, contradictions refused', async () => {
  await stage();
  await publish();
  await publish();
  expect(node.mounts.length).toBe(2);
  await expect(publish(mount(), { readonly: true })).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  await expect(publish(block)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  const second = { target_path: node.path('second') };
  for (const mode of ['SINGLE_NODE_WRITER', 'SINGLE_NODE_SINGLE_WRITER'] as const) {
    await expect(publish(mount(mode), second)).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining(target),
    });
  }
  await publish(mount('SINGLE_NODE_MULTI_WRITER'), { ...second, readonly: true });
  expect(node.mounts.map((entry) => [entry.target, entry.readOnly])).toEqual([
    [staging, false],
    [target, false],
    [second.target_path, true],
  ]);
  await expect(unstage()).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'Busy' });
  for (const path of [target, target, second.target_path])
    await client.NodeUnpublishVolume({ volume_id: volumeId, target_path: path });
  await stage();
  await unstage();
  expect(node.mounts).toEqual([]);
});

test('a read-only target is never writable, not even for a moment', async () => {
  await stage();
  node.log.length = 0;
  await publish(mount(), { readonly: true });
  const binds = node.log.filter((step) => step.startsWith('bind'));
  expect(binds).toEqual([`bind ${node.dir}/ro/${volumeId}`, `bind ${target}`]);
  expect(node.mounts.map((entry) => entry.target)).toEqual([staging, target]);
});

test('block: the device itself, marked raw, never formatted', async () => {
  await stage(block);
  await publish(block);
  await publish(block);
  const device = node.devices.get(volumeId)!.status.devicePath;
  expect(node.mounts).toMatchObject([{ target, fsRoot: device.slice(4) }]);
  expect((await node.record(volumeId)).formatted).toEqual({ state: 'raw' });
  expect(node.log.some((step) => /mkfs|mount/.test(step))).toBe(false);
  await expect(publish(block, { target_path: node.path('second') })).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
  });
  const { usage } = await client.NodeGetVolumeStats({ volume_id: volumeId, volume_path: target });
  expect(usage).toMatchObject([{ unit: 'BYTES', total: 1 << 20 }]);
  await expect(publish(block, { readonly: true, target_path: node.path('second') })).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
  });
  await client.NodeUnpublishVolume({ volume_id: volumeId, target_path: target });
  await unstage();
  expect(node.devices.size).toBe(0);
});

test('stats and expansion only where the volume is', async () => {
  await stage();
  await publish();
  const stats = (path: string) => client.NodeGetVolumeStats({ volume_id: volumeId, volume_path: path });
  expect((await stats(target)).usage).toMatchObject([
    { unit: 'BYTES', total: 100, used: 30, available: 70 },
    { unit: 'INODES', total: 10, used: 3, available: 7 },
  ]);
  for (const path of ['some/path', node.dir, `${target}/deeper`])
    await expect(stats(path)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  const expand = (bytes: number, path = target) =>
    client.NodeExpandVolume({ volume_id: volumeId, volume_path: path, capacity_range: { required_bytes: bytes } });
  await expect(expand(8 << 20)).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
  await node.put({ ...(await node.record(volumeId)), sizeBytes: 8 << 20 });
  node.log.length = 0;
  expect((await expand(8 << 20)).capacity_bytes).toBe(8 << 20);
  expect(node.log).toEqual([`resize ${8 << 20}`, `grow ${8 << 20}`, 'growMounted ext4']);
  node.log.length = 0;
  expect((await expand(1 << 20)).capacity_bytes).toBe(8 << 20);
  expect(node.log).toEqual(['growMounted ext4']);
  await expect(expand(8 << 20, node.dir)).rejects.toMatchObject({ code: 'NOT_FOUND' });
});

test('a mount that is not the volume stays, and contents are never removed', async () => {
  await stage();
  const foreign = node.path('foreign');
  node.mounts.push({
    target: foreign,
    source: '/dev/sda1',
    fsType: 'ext4',
    options: [],
    readOnly: false,
    propagation: 'private',
    fsRoot: '/',
  });
  await expect(client.NodeUnpublishVolume({ volume_id: volumeId, target_path: foreign })).rejects.toMatchObject({
    reason: 'Conflict',
  });
  await expect(client.NodeUnstageVolume({ volume_id: volumeId, staging_target_path: foreign })).rejects.toMatchObject({
    reason: 'Conflict',
  });
  await expect(stage(mount(), { staging_target_path: foreign })).rejects.toMatchObject({ code: 'ALREADY_EXISTS' });
  expect(node.mounts.length).toBe(2);
  writeFileSync(`${target}/data`, 'x');
});

test('one call at a time for a volume; health and information', async () => {
  let open = () => {};
  node.gate = new Promise((resolve) => {
    open = resolve;
  });
  const first = stage();
  await expect.poll(() => stage().catch((error) => error.code)).toBe('ABORTED');
  open();
  await first;
  expect(await client.NodeGetInfo({})).toMatchObject({
    node_id: nodeA,
    max_volumes_per_node: 5,
    accessible_topology: { segments: { 'topology.holdfast.io/node': nodeA } },
  });
  expect((await client.NodeGetCapabilities({})).capabilities.map((one) => one.rpc?.type)).toContain(
    'SINGLE_NODE_MULTI_WRITER',
  );
  expect((await client.NodeGetVolumeHealth({ volume_id: volumeId })).volume_health).toEqual({
    volume_id: volumeId,
    health_statuses: [],
  });
  const device = node.devices.get(volumeId)!;
  device.status = { ...device.status, state: 'failed', lastError: 'another node has it' };
  expect((await client.NodeGetVolumeHealth({ volume_id: volumeId })).volume_health?.health_statuses).toMatchObject([
    { status: 'INACCESSIBLE', reason: 'DeviceFailed' },
  ]);
  // Its device works, without anybody who would connect it again: staging it once more gives it a holder.
  device.status = { ...device.status, state: 'orphaned', lastError: 'its holder was killed' };
  expect((await client.NodeGetVolumeHealth({ volume_id: volumeId })).volume_health?.health_statuses).toMatchObject([
    { status: 'DEGRADED', reason: 'HolderMissing' },
  ]);
  node.log.length = 0;
  await stage();
  expect(node.log).toEqual([`attach ${volumeId}`]);
  expect((await client.NodeGetStorageHealth({})).backend_health).toMatchObject([
    { status: 'STORAGE_DEGRADED', reason: 'PoolProblem', message: 'pool /pool: is read-only' },
  ]);
});
