// CSI over a real gRPC connection, with fake daemons behind it. Each advertised capability has a scenario; each scenario also
// has to notice when one of its calls is an empty success.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, realClock, silentLogger } from '../../../src/base/index.js';
import { controllerService, groupControllerService, identityService } from '../../../src/csi/index.js';
import {
  type Client,
  createClient,
  createServer,
  type csi,
  csiServices,
  type ServiceBinding,
} from '../../../src/rpc/index.js';
import { TestCluster, type TestOptions } from '../control/cluster.js';

const GIB = 1024 ** 3;

class Bench {
  readonly cluster: TestCluster;
  readonly controller: Client<csi.ControllerDefinition, csi.ControllerHandlers>;
  readonly group: Client<csi.GroupControllerDefinition, csi.GroupControllerHandlers>;
  readonly identity: Client<csi.IdentityDefinition, csi.IdentityHandlers>;
  readonly close: () => Promise<void>;

  constructor(cluster: TestCluster, address: string, close: () => Promise<void>) {
    this.cluster = cluster;
    this.controller = createClient(address, csiServices.controller(), { clock: realClock });
    this.group = createClient(address, csiServices.groupController(), { clock: realClock });
    this.identity = createClient(address, csiServices.identity(), { clock: realClock });
    this.close = async () => {
      for (const client of [this.controller, this.group, this.identity]) client.close();
      await close();
    };
  }

  async volume(name: string, more: object = {}): Promise<csi.Volume__Output> {
    const request = { name, volume_capabilities: [mounted], capacity_range: { required_bytes: GIB }, ...more };
    return (await this.controller.CreateVolume(request)).volume!;
  }

  async snapshot(name: string, volumeId: string): Promise<csi.Snapshot__Output> {
    return (await this.controller.CreateSnapshot({ name, source_volume_id: volumeId })).snapshot!;
  }

  async listed(): Promise<csi.ListVolumesResponse__Output> {
    return this.controller.ListVolumes({});
  }
}

const open: Bench[] = [];
afterEach(async () => {
  for (const bench of open.splice(0)) await bench.close();
});

/** `emptied`: calls that answer an empty success instead of doing their work. */
async function start(options: TestOptions = {}, emptied: readonly string[] = []): Promise<Bench> {
  const cluster = await TestCluster.make(options);
  const folder = mkdtempSync(join(tmpdir(), 'holdfast-csi-'));
  const address = `unix://${folder}/csi.sock`;
  const hollow = (binding: ServiceBinding): ServiceBinding => ({
    ...binding,
    handlers: Object.fromEntries(
      Object.entries(binding.handlers).map(([name, work]) => [name, emptied.includes(name) ? async () => ({}) : work]),
    ),
  });
  const services = [
    identityService({ version: '1.2.3', ready: async () => true }),
    controllerService(cluster.control),
    groupControllerService(cluster.control),
  ].map(hollow);
  const server = await createServer({ address, services, logger: silentLogger, clock: realClock });
  const bench = new Bench(cluster, address, async () => {
    await server.close(0);
    rmSync(folder, { recursive: true });
  });
  open.push(bench);
  return bench;
}

const mounted = { mount: {}, access_mode: { mode: 'SINGLE_NODE_WRITER' as const } };
const block = { block: {}, access_mode: { mode: 'SINGLE_NODE_WRITER' as const } };

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
    return 'OK';
  } catch (error) {
    if (error instanceof HoldfastError) return error.code;
    throw error;
  }
}

const publish = (bench: Bench, volumeId: string, more: object = {}) =>
  bench.controller.ControllerPublishVolume({ volume_id: volumeId, node_id: 'n1', volume_capability: mounted, ...more });

/** By capability: what it means to have it, and the calls that must not be hollow. */
const scenarios: Record<string, { calls: readonly string[]; run: (bench: Bench) => Promise<void> }> = {
  CREATE_DELETE_VOLUME: {
    calls: ['CreateVolume', 'DeleteVolume'],
    async run(bench) {
      const { volume_id, capacity_bytes } = await bench.volume('a');
      expect(capacity_bytes).toBe(GIB);
      expect(bench.cluster.daemons.replicas.map((replica) => replica.volumeId)).toEqual([
        volume_id,
        volume_id,
        volume_id,
      ]);
      await bench.controller.DeleteVolume({ volume_id });
      expect(bench.cluster.daemons.replicas).toEqual([]);
    },
  },
  PUBLISH_UNPUBLISH_VOLUME: {
    calls: ['ControllerPublishVolume', 'ControllerUnpublishVolume'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      expect((await publish(bench, volume_id)).publish_context).toEqual({ readOnly: 'false' });
      expect(await codeOf(publish(bench, volume_id, { node_id: 'n2' }))).toBe('FAILED_PRECONDITION');
      await bench.controller.ControllerUnpublishVolume({ volume_id, node_id: 'n1' });
      await publish(bench, volume_id, { node_id: 'n2' });
    },
  },
  LIST_VOLUMES: {
    calls: ['ListVolumes'],
    async run(bench) {
      const made = await Promise.all(['a', 'b', 'c'].map((name) => bench.volume(name)));
      const first = await bench.controller.ListVolumes({ max_entries: 2 });
      await bench.controller.DeleteVolume({ volume_id: first.entries[1]!.volume!.volume_id });
      const rest = await bench.controller.ListVolumes({ starting_token: first.next_token });
      const ids = [...first.entries, ...rest.entries].map((entry) => entry.volume!.volume_id);
      expect(ids).toEqual(made.map((volume) => volume.volume_id).sort());
      expect(await codeOf(bench.controller.ListVolumes({ starting_token: 'invalid-token' }))).toBe('ABORTED');
    },
  },
  LIST_VOLUMES_PUBLISHED_NODES: {
    calls: ['ListVolumes'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      await publish(bench, volume_id);
      expect((await bench.listed()).entries.map((entry) => entry.status?.published_node_ids)).toEqual([['n1']]);
    },
  },
  GET_VOLUME: {
    calls: ['ControllerGetVolume'],
    async run(bench) {
      const volume = await bench.volume('a', { parameters: { fsType: 'xfs' } });
      await publish(bench, volume.volume_id);
      const found = await bench.controller.ControllerGetVolume({ volume_id: volume.volume_id });
      expect(found.volume).toEqual(volume);
      expect(found.status?.published_node_ids).toEqual(['n1']);
    },
  },
  GET_CAPACITY: {
    calls: ['GetCapacity'],
    async run(bench) {
      const ask = (replicas: string) => bench.controller.GetCapacity({ parameters: { replicas } });
      expect((await ask('1')).available_capacity).toBe(3000 * GIB);
      expect((await ask('3')).available_capacity).toBe(1000 * GIB);
      expect((await ask('5')).available_capacity).toBe(0);
      const most = (await ask('3')).maximum_volume_size!.value;
      expect(most).toBe(1000 * GIB);
      expect(await codeOf(bench.volume('a', { capacity_range: { required_bytes: most + 4096 } }))).toBe(
        'RESOURCE_EXHAUSTED',
      );
      await bench.volume('b', { capacity_range: { required_bytes: most } });
      expect((await ask('3')).available_capacity).toBe(0);
    },
  },
  CREATE_DELETE_SNAPSHOT: {
    calls: ['CreateSnapshot', 'DeleteSnapshot'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      const { snapshot_id, ready_to_use, size_bytes, creation_time } = await bench.snapshot('s', volume_id);
      expect([ready_to_use, size_bytes]).toEqual([true, GIB]);
      expect(creation_time!.seconds).toBe(1_700_000_001);
      const { snapshots } = bench.cluster.daemons.volumes.get(volume_id)!;
      expect([...snapshots.keys()]).toEqual([snapshot_id]);
      await bench.controller.DeleteSnapshot({ snapshot_id });
      expect(snapshots.size).toBe(0);
    },
  },
  LIST_SNAPSHOTS: {
    calls: ['ListSnapshots'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      const [one] = [await bench.snapshot('s', volume_id), await bench.snapshot('t', volume_id)];
      const list = async (request: csi.ListSnapshotsRequest) =>
        (await bench.controller.ListSnapshots(request)).entries.length;
      expect(await list({})).toBe(2);
      expect(await list({ snapshot_id: one.snapshot_id })).toBe(1);
      expect(await list({ source_volume_id: volume_id, max_entries: 1 })).toBe(1);
      expect(await list({ source_volume_id: 'nothing' })).toBe(0);
    },
  },
  GET_SNAPSHOT: {
    calls: ['GetSnapshot'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      const snapshot = await bench.snapshot('s', volume_id);
      expect((await bench.controller.GetSnapshot({ snapshot_id: snapshot.snapshot_id })).snapshot).toEqual(snapshot);
      expect(await codeOf(bench.controller.GetSnapshot({ snapshot_id: 'none' }))).toBe('NOT_FOUND');
    },
  },
  CLONE_VOLUME: {
    calls: ['CreateVolume'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      const clone = await bench.volume('b', { volume_content_source: { volume: { volume_id } } });
      expect(clone.content_source?.volume?.volume_id).toBe(volume_id);
      const snapshot = await bench.snapshot('s', volume_id);
      const source = { snapshot: { snapshot_id: snapshot.snapshot_id } };
      const restored = await bench.volume('c', { volume_content_source: source });
      expect(restored.content_source?.snapshot).toEqual(source.snapshot);
      expect(bench.cluster.daemons.calls.filter((call) => call.startsWith('Clone'))).toHaveLength(2);
    },
  },
  PUBLISH_READONLY: {
    calls: ['ControllerPublishVolume'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      expect((await publish(bench, volume_id, { readonly: true })).publish_context).toEqual({ readOnly: 'true' });
      expect(await codeOf(publish(bench, volume_id))).toBe('ALREADY_EXISTS');
    },
  },
  EXPAND_VOLUME: {
    calls: ['ControllerExpandVolume'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      await publish(bench, volume_id);
      await bench.cluster.daemons.attach(volume_id as never, 'n1' as NodeId);
      const grown = await bench.controller.ControllerExpandVolume({
        volume_id,
        capacity_range: { required_bytes: 2 * GIB },
      });
      expect(grown).toEqual({ capacity_bytes: 2 * GIB, node_expansion_required: true });
      expect(bench.cluster.daemons.volumes.get(volume_id)!.sizeBytes).toBe(2 * GIB);
    },
  },
  SINGLE_NODE_MULTI_WRITER: {
    calls: ['ControllerPublishVolume'],
    async run(bench) {
      for (const mode of ['SINGLE_NODE_SINGLE_WRITER', 'SINGLE_NODE_MULTI_WRITER'] as const) {
        const capability = { mount: {}, access_mode: { mode } };
        const { volume_id } = await bench.volume(mode, { volume_capabilities: [capability] });
        await publish(bench, volume_id, { volume_capability: capability });
        const { items } = await bench.cluster.control.volumes.list({ maxEntries: 0, startingToken: '' });
        expect(items.find((record) => record.id === volume_id)?.publications[0]?.accessMode).toBe(mode);
      }
    },
  },
  MODIFY_VOLUME: {
    calls: ['ControllerModifyVolume'],
    async run(bench) {
      const { volume_id } = await bench.volume('a', { mutable_parameters: { maxReadIops: '1k' } });
      await publish(bench, volume_id);
      await bench.cluster.daemons.attach(volume_id as never, 'n1' as NodeId);
      await bench.controller.ControllerModifyVolume({ volume_id, mutable_parameters: { maxWriteBps: '10Mi' } });
      expect(bench.cluster.daemons.volumes.get(volume_id)!.qos).toMatchObject({
        max_read_iops: 1000,
        max_write_bps: 10485760,
      });
    },
  },
  GET_VOLUME_HEALTH: {
    calls: ['ControllerGetVolumeHealth'],
    async run(bench) {
      const { volume_id } = await bench.volume('a');
      const health = async () => (await bench.controller.ControllerGetVolumeHealth({ volume_id })).volume_health!;
      expect(await health()).toEqual({ volume_id, health_statuses: [] });
      await bench.cluster.silence('n1');
      const [entry] = (await health()).health_statuses;
      expect([entry?.status, entry?.reason]).toEqual(['DEGRADED', 'NodeSilent']);
    },
  },
  LIST_VOLUME_HEALTH: {
    calls: ['ControllerListVolumeHealth'],
    async run(bench) {
      const ids = [(await bench.volume('a')).volume_id, (await bench.volume('b')).volume_id].sort();
      await bench.cluster.silence('n2');
      const first = await bench.controller.ControllerListVolumeHealth({ max_entries: 1 });
      const rest = await bench.controller.ControllerListVolumeHealth({ starting_token: first.next_token });
      const entries = [...first.entries, ...rest.entries];
      expect(entries.map((entry) => entry.volume_id)).toEqual(ids);
      expect(entries.map((entry) => entry.health_statuses[0]?.reason)).toEqual(['NodeSilent', 'NodeSilent']);
    },
  },
  CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT: {
    calls: ['CreateVolumeGroupSnapshot', 'GetVolumeGroupSnapshot', 'DeleteVolumeGroupSnapshot'],
    async run(bench) {
      const ids = [(await bench.volume('a')).volume_id, (await bench.volume('b')).volume_id];
      const { group_snapshot } = await bench.group.CreateVolumeGroupSnapshot({ name: 'g', source_volume_ids: ids });
      const { group_snapshot_id, snapshots, ready_to_use } = group_snapshot!;
      expect([snapshots.length, ready_to_use]).toEqual([2, true]);
      expect(snapshots.map((snapshot) => snapshot.group_snapshot_id)).toEqual([group_snapshot_id, group_snapshot_id]);
      const snapshot_ids = snapshots.map((snapshot) => snapshot.snapshot_id);
      const found = await bench.group.GetVolumeGroupSnapshot({ group_snapshot_id, snapshot_ids });
      expect(found.group_snapshot).toEqual(group_snapshot);
      await bench.group.DeleteVolumeGroupSnapshot({ group_snapshot_id, snapshot_ids });
      expect(await codeOf(bench.group.GetVolumeGroupSnapshot({ group_snapshot_id }))).toBe('NOT_FOUND');
      for (const id of ids) expect(bench.cluster.daemons.volumes.get(id)!.snapshots.size).toBe(0);
    },
  },
};

describe('each advertised capability', () => {
  it('has a scenario', async () => {
    const bench = await start();
    const rpcs = (await bench.controller.ControllerGetCapabilities({})).capabilities.map(
      (capability) => capability.rpc!.type,
    );
    const group = (await bench.group.GroupControllerGetCapabilities({})).capabilities.map(
      (capability) => capability.rpc!.type,
    );
    expect([...rpcs, ...group].sort()).toEqual(Object.keys(scenarios).sort());
    const plugin = (await bench.identity.GetPluginCapabilities({})).capabilities;
    expect(plugin.map((capability) => capability.service?.type ?? capability.volume_expansion?.type)).toEqual([
      'CONTROLLER_SERVICE',
      'GROUP_CONTROLLER_SERVICE',
      'SNAPSHOT_METADATA_SERVICE',
      'VOLUME_ACCESSIBILITY_CONSTRAINTS',
      'SNAPSHOT_ACCESSIBILITY_CONSTRAINTS',
      'ONLINE',
    ]);
    expect(await bench.identity.GetPluginInfo({})).toEqual({
      name: 'csi.holdfast.io',
      vendor_version: '1.2.3',
      manifest: {},
    });
    expect((await bench.identity.Probe({})).ready).toEqual({ value: true });
  });

  for (const [capability, { calls, run }] of Object.entries(scenarios)) {
    it(`${capability} does what it says`, async () => {
      await run(await start());
    });
    it.each(calls)(`${capability} is missed when %s is an empty success`, async (call) => {
      const bench = await start({}, [call]);
      await expect(run(bench)).rejects.toThrow();
    });
  }
});

describe('topology', () => {
  it('names nodes only where a volume is bound to its replicas', async () => {
    const bench = await start();
    expect((await bench.volume('free')).accessible_topology).toEqual([]);
    const wish = { requisite: [{ segments: { 'topology.holdfast.io/node': 'n2' } }] };
    const bound = await bench.volume('bound', {
      parameters: { dataLocality: 'required', replicas: '2' },
      accessibility_requirements: wish,
    });
    const nodes = bound.accessible_topology.map((topology) => topology.segments['topology.holdfast.io/node']);
    expect(nodes).toHaveLength(2);
    expect(nodes).toContain('n2');
    const nowhere = { requisite: [{ segments: { 'topology.kubernetes.io/zone': 'mars' } }] };
    expect(await codeOf(bench.volume('x', { accessibility_requirements: nowhere }))).toBe('RESOURCE_EXHAUSTED');
    const snap = (name: string, requirements: csi.TopologyRequirement) =>
      bench.controller.CreateSnapshot({
        name,
        source_volume_id: bound.volume_id,
        accessibility_requirements: requirements,
      });
    expect((await snap('s', wish)).snapshot!.accessible_topology).toEqual(wish.requisite);
    expect(await codeOf(snap('t', nowhere))).toBe('RESOURCE_EXHAUSTED');
    expect((await bench.cluster.keys()).snapshot).toBe(1);
  });
});

describe('bad requests', () => {
  const capability = (mode: string, more: object = { mount: {} }) =>
    ({ ...more, access_mode: { mode } }) as csi.VolumeCapability;
  it.each<[string, object, string]>([
    ['no name', { name: '' }, 'INVALID_ARGUMENT'],
    ['a name of 10,000 bytes', { name: 'x'.repeat(10_000) }, 'INVALID_ARGUMENT'],
    ['a name with a control character', { name: 'a\u0007' }, 'INVALID_ARGUMENT'],
    ['a name that climbs', { name: '../../etc/passwd' }, 'INVALID_ARGUMENT'],
    ['no capabilities', { volume_capabilities: [] }, 'INVALID_ARGUMENT'],
    ['a capability without a mode', { volume_capabilities: [{ mount: {} }] }, 'INVALID_ARGUMENT'],
    [
      'a capability without a type',
      { volume_capabilities: [capability('SINGLE_NODE_WRITER', {})] },
      'INVALID_ARGUMENT',
    ],
    ['a mode for many nodes', { volume_capabilities: [capability('MULTI_NODE_MULTI_WRITER')] }, 'INVALID_ARGUMENT'],
    [
      'another filesystem',
      { volume_capabilities: [capability('SINGLE_NODE_WRITER', { mount: { fs_type: 'ntfs' } })] },
      'INVALID_ARGUMENT',
    ],
    ['size 0', { capacity_range: {} }, 'INVALID_ARGUMENT'],
    ['a negative size', { capacity_range: { required_bytes: -5 } }, 'INVALID_ARGUMENT'],
    ['a limit below the size', { capacity_range: { required_bytes: 2 * GIB, limit_bytes: GIB } }, 'INVALID_ARGUMENT'],
    ['a size above every pool', { capacity_range: { required_bytes: 4096 * GIB } }, 'RESOURCE_EXHAUSTED'],
    ['a size near 2^53', { capacity_range: { required_bytes: Number.MAX_SAFE_INTEGER } }, 'OUT_OF_RANGE'],
    ['an unknown parameter', { parameters: { replica: '1' } }, 'INVALID_ARGUMENT'],
    ['an unknown mutable parameter', { mutable_parameters: { fakeKey: 'x' } }, 'INVALID_ARGUMENT'],
    ['a source that is none', { volume_content_source: {} }, 'INVALID_ARGUMENT'],
    ['a key of the wrong length', { secrets: { encryptionKey: 'abcd' } }, 'INVALID_ARGUMENT'],
    ['an empty topology', { accessibility_requirements: { requisite: [{}] } }, 'INVALID_ARGUMENT'],
  ])('CreateVolume with %s leaves nothing behind', async (_what, more, code) => {
    const bench = await start();
    expect(await codeOf(bench.volume('a', more))).toBe(code);
    expect(await bench.cluster.keys()).toEqual({});
    expect(bench.cluster.daemons.calls).toEqual([]);
  });

  it('of one byte becomes the smallest volume', async () => {
    const bench = await start();
    expect((await bench.volume('a', { capacity_range: { required_bytes: 1 } })).capacity_bytes).toBe(1024 ** 2);
  });

  it('without ids, or with ids that name nothing, get their codes', async () => {
    const { controller, group } = await start();
    const none = '../../etc/passwd';
    const calls: [Promise<unknown>, string][] = [
      [controller.DeleteVolume({}), 'INVALID_ARGUMENT'],
      [controller.DeleteVolume({ volume_id: none }), 'OK'],
      [controller.DeleteVolume({ volume_id: 'x'.repeat(10_000) }), 'INVALID_ARGUMENT'],
      [controller.ControllerPublishVolume({}), 'INVALID_ARGUMENT'],
      [controller.ControllerPublishVolume({ volume_id: none }), 'INVALID_ARGUMENT'],
      [controller.ControllerPublishVolume({ volume_id: none, node_id: 'n1' }), 'INVALID_ARGUMENT'],
      [controller.ControllerPublishVolume({ volume_id: none, node_id: 'n1', volume_capability: block }), 'NOT_FOUND'],
      [controller.ControllerUnpublishVolume({}), 'INVALID_ARGUMENT'],
      [controller.ControllerUnpublishVolume({ volume_id: none }), 'OK'],
      [controller.ValidateVolumeCapabilities({}), 'INVALID_ARGUMENT'],
      [controller.ValidateVolumeCapabilities({ volume_id: none, volume_capabilities: [block] }), 'NOT_FOUND'],
      [controller.ControllerGetVolume({ volume_id: none }), 'NOT_FOUND'],
      [controller.ControllerGetVolumeHealth({}), 'INVALID_ARGUMENT'],
      [controller.ControllerExpandVolume({ volume_id: none }), 'INVALID_ARGUMENT'],
      [controller.ControllerExpandVolume({ volume_id: none, capacity_range: { required_bytes: 1 } }), 'NOT_FOUND'],
      [controller.ControllerModifyVolume({}), 'INVALID_ARGUMENT'],
      [controller.ControllerModifyVolume({ volume_id: none }), 'NOT_FOUND'],
      [controller.CreateSnapshot({ name: 's' }), 'INVALID_ARGUMENT'],
      [controller.CreateSnapshot({ source_volume_id: none }), 'INVALID_ARGUMENT'],
      [controller.CreateSnapshot({ name: 's', source_volume_id: none }), 'NOT_FOUND'],
      [controller.CreateSnapshot({ name: 's', source_volume_id: none, parameters: { a: 'b' } }), 'INVALID_ARGUMENT'],
      [controller.DeleteSnapshot({}), 'INVALID_ARGUMENT'],
      [controller.DeleteSnapshot({ snapshot_id: none }), 'OK'],
      [controller.GetSnapshot({}), 'INVALID_ARGUMENT'],
      [controller.ListVolumes({ max_entries: -1 }), 'INVALID_ARGUMENT'],
      [controller.ListSnapshots({ snapshot_id: none }), 'OK'],
      [group.CreateVolumeGroupSnapshot({ name: 'g' }), 'INVALID_ARGUMENT'],
      [group.CreateVolumeGroupSnapshot({ source_volume_ids: [none] }), 'INVALID_ARGUMENT'],
      [group.CreateVolumeGroupSnapshot({ name: 'g', source_volume_ids: [none] }), 'NOT_FOUND'],
      [group.GetVolumeGroupSnapshot({}), 'INVALID_ARGUMENT'],
      [group.GetVolumeGroupSnapshot({ group_snapshot_id: none }), 'NOT_FOUND'],
      [group.DeleteVolumeGroupSnapshot({}), 'INVALID_ARGUMENT'],
      [group.DeleteVolumeGroupSnapshot({ group_snapshot_id: none }), 'OK'],
    ];
    const codes = await Promise.all(calls.map(([work]) => codeOf(work)));
    expect(codes).toEqual(calls.map(([, code]) => code));
  });

  it('ValidateVolumeCapabilities confirms what is served and says why not otherwise', async () => {
    const bench = await start();
    const { volume_id } = await bench.volume('a');
    const validate = (volume_capabilities: csi.VolumeCapability[], parameters = {}) =>
      bench.controller.ValidateVolumeCapabilities({ volume_id, volume_capabilities, parameters });
    expect((await validate([mounted, block], { replicas: '3' })).confirmed?.volume_capabilities).toHaveLength(2);
    const many = await validate([capability('MULTI_NODE_READER_ONLY')]);
    expect(many.confirmed).toBeNull();
    expect(many.message).toContain('MULTI_NODE_READER_ONLY');
    expect((await validate([mounted], { replicas: '2' })).message).toContain('replicas');
    expect(await codeOf(validate([]))).toBe('INVALID_ARGUMENT');
  });
});
