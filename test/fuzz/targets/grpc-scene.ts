// Everything that answers gRPC calls, over stores and daemons in memory, and calls that hold.

import { replicaService, type WorkerCalls } from '../../../src/agent/index.js';
import { volumeService } from '../../../src/agent/volume-service.js';
import { operatorService } from '../../../src/control/index.js';
import { nodeService } from '../../../src/control/node-service.js';
import {
  controllerService,
  groupControllerService,
  identityService,
  snapshotMetadataService,
} from '../../../src/csi/index.js';
import { metadataService } from '../../../src/meta/index.js';
import type { ServiceBinding } from '../../../src/rpc/index.js';
import { type Bench, makeBench, replicaIds, volumeId, volumeRecord } from '../../unit/agent/fakes.js';
import { TestCluster } from '../../unit/control/cluster.js';
import { FakeNode } from '../../unit/csi-node/fakes.js';

export const SECRET = 'canary-of-a-secret-that-must-not-leave';

/** What the calls of one input act on: made when first used. */
export class GrpcScene {
  #cluster: Promise<TestCluster> | null = null;
  #bench: Promise<Bench> | null = null;
  #node: FakeNode | null = null;

  async cluster(): Promise<TestCluster> {
    this.#cluster ??= TestCluster.make();
    return await this.#cluster;
  }

  async #volumes(): Promise<Bench> {
    this.#bench ??= makeBench(volumeRecord());
    return await this.#bench;
  }

  async #csiNode(): Promise<FakeNode> {
    if (this.#node === null) {
      this.#node = new FakeNode();
      await this.#node.put(volumeRecord());
    }
    return this.#node;
  }

  async services(part: Part): Promise<ServiceBinding[]> {
    if (part === 'cluster') {
      const { control, store } = await this.cluster();
      return [
        controllerService(control),
        groupControllerService(control),
        snapshotMetadataService(control),
        identityService({ version: '1.2.3', ready: async () => true }),
        nodeService(control.nodes, store),
        metadataService(store),
        operatorService(control),
      ];
    }
    if (part === 'node') return [(await this.#csiNode()).service()];
    const { volumes } = await this.#volumes();
    const worker = {
      call: async (name: string) => (name === 'replicaStatus' ? { replicas: [], unread: [] } : undefined),
    } as unknown as WorkerCalls;
    return [
      volumeService(volumes, { acceptsKeys: true }),
      replicaService({ workers: [worker], workerFor: () => worker, checkStore: async () => {} }),
    ];
  }

  async close(): Promise<void> {
    await (await this.#cluster)?.store.close();
    await (await this.#bench)?.stop();
    await this.#node?.remove();
  }
}

export const parts = ['cluster', 'agent', 'node'] as const;
export type Part = (typeof parts)[number];

export interface Step {
  readonly part: Part;
  readonly service: string;
  readonly method: string;
  readonly request: object;
}

const mount = { access_mode: { mode: 'SINGLE_NODE_WRITER' }, mount: { fs_type: 'ext4' } };
const call =
  (part: Part, service: string) =>
  (method: string, request: object): Step => ({ part, service, method, request });
const controller = call('cluster', 'csi.v1.Controller');
const groups = call('cluster', 'csi.v1.GroupController');
const blocks = call('cluster', 'csi.v1.SnapshotMetadata');
const daemons = call('cluster', 'holdfast.v1.Node');
const metadata = call('cluster', 'holdfast.v1.Metadata');
const operator = call('cluster', 'holdfast.v1.Operator');
const volumes = call('agent', 'holdfast.v1.Volume');
const replicas = call('agent', 'holdfast.v1.Replica');
const node = call('node', 'csi.v1.Node');
const uuid = (n: number) => `50000000-0000-4000-8000-${String(n).padStart(12, '0')}`;

/** A volume, a snapshot, a clone and a group, from making to deleting; the ids are those that the seeded cluster gives. */
export function controllerSteps(volume: string, snapshot: string): Step[] {
  const volume_capabilities = [mount];
  const capacity_range = { required_bytes: 2 ** 30 };
  const topology = { requisite: [{ segments: { 'topology.holdfast.io/node': 'n1' } }] };
  return [
    controller('CreateVolume', {
      ...{ name: 'pvc-a', capacity_range, volume_capabilities, secrets: { encryptionPassphrase: SECRET } },
      parameters: { replicas: '2', compression: 'lz4', 'csi.storage.k8s.io/pvc/name': 'data' },
      accessibility_requirements: topology,
    }),
    controller('ControllerPublishVolume', { volume_id: volume, node_id: 'n1', volume_capability: mount }),
    controller('ValidateVolumeCapabilities', { volume_id: volume, volume_capabilities, parameters: { replicas: '2' } }),
    controller('CreateSnapshot', { source_volume_id: volume, name: 'snap-a' }),
    controller('CreateVolume', {
      ...{ name: 'pvc-b', capacity_range, volume_capabilities },
      volume_content_source: { snapshot: { snapshot_id: snapshot } },
    }),
    controller('ControllerExpandVolume', { volume_id: volume, capacity_range: { required_bytes: 2 ** 31 } }),
    controller('ControllerModifyVolume', { volume_id: volume, mutable_parameters: { maxReadIops: '500' } }),
    controller('ListVolumes', { max_entries: 1 }),
    controller('ListSnapshots', { source_volume_id: volume, max_entries: 5 }),
    controller('GetSnapshot', { snapshot_id: snapshot }),
    controller('GetCapacity', { volume_capabilities, parameters: { replicas: '1' } }),
    controller('ControllerGetVolume', { volume_id: volume }),
    controller('ControllerGetVolumeHealth', { volume_id: volume }),
    controller('ControllerListVolumeHealth', {}),
    groups('CreateVolumeGroupSnapshot', { name: 'group-a', source_volume_ids: [volume] }),
    groups('GetVolumeGroupSnapshot', { group_snapshot_id: uuid(1), snapshot_ids: [snapshot] }),
    groups('DeleteVolumeGroupSnapshot', { group_snapshot_id: uuid(1), snapshot_ids: [snapshot] }),
    blocks('GetMetadataAllocated', { snapshot_id: snapshot, starting_offset: 0, max_results: 10 }),
    blocks('GetMetadataDelta', { base_snapshot_id: snapshot, target_snapshot_id: snapshot, max_results: 10 }),
    operator('ListNodes', {}),
    operator('ListVolumeStates', { volume_id: volume }),
    operator('Drain', { node_id: 'n3', pool: '/pools/n3', dry_run: true, by: 'me' }),
    operator('Drain', { node_id: 'n3', by: 'me' }),
    operator('ReplaceReplica', { volume_id: volume, node_id: 'n2', by: 'me' }),
    operator('AcceptLoss', { volume_id: volume, confirmed: true, by: 'me', give_up_nodes: ['n2'] }),
    operator('ForgetNode', { node_id: 'n3', by: 'me' }),
    controller('ControllerUnpublishVolume', { volume_id: volume, node_id: 'n1' }),
    controller('DeleteSnapshot', { snapshot_id: snapshot }),
    controller('DeleteVolume', { volume_id: volume }),
  ];
}

export function otherSteps(dir: string): Step[][] {
  const described = {
    ...{ node_id: 'n9', control_address: '127.0.0.1:7009', topology: { zone: 'a' }, tags: ['ssd'], instance: 'i' },
    pools: [{ pool_id: uuid(7), path: '/pool', capacity_bytes: 2 ** 40, free_bytes: 2 ** 39, tags: ['x'] }],
    replica_addresses: ['127.0.0.1:7100'],
    store_version_seen: 3,
  };
  const at = { volume_id: volumeId };
  const stage = { ...at, staging_target_path: `${dir}/staging`, volume_capability: mount };
  return [
    [daemons('Register', { node: described }), daemons('Heartbeat', { node: described })],
    [
      metadata('CompareAndSwap', {
        key: 'volume/x',
        expected_version: 0,
        value_json: '{"state":"ready"}',
        operation_id: 'o',
      }),
      metadata('Get', { key: 'volume/x' }),
      metadata('List', { prefix: 'volume/', limit: 5, only_unfinished: true }),
      metadata('Watch', { prefix: 'volume/', from_version: 0 }),
    ],
    [
      volumes('Open', { ...at, export: true, wrapping_key: Buffer.alloc(0) }),
      volumes('Hold', { ...at, hold_token: 'group-1', deadline_ms: 500 }),
      volumes('Freeze', { ...at, snapshot_id: uuid(2), hold_token: 'group-1' }),
      volumes('Release', { ...at, hold_token: 'group-1' }),
      volumes('Clone', {
        ...{ ...at, snapshot_id: uuid(2), new_volume_id: uuid(3), parameters: { name: 'c' } },
        targets: [{ source_replica_id: replicaIds[0], replica_id: uuid(4), incarnation_id: uuid(5) }],
      }),
      volumes('Resize', { ...at, size_bytes: 2 ** 21 }),
      volumes('SetQos', { ...at, qos: { max_read_iops: 100 } }),
      volumes('Changed', { ...at, target_snapshot_id: uuid(2), max_results: 5 }),
      volumes('Status', at),
      volumes('DeleteSnapshot', { ...at, snapshot_id: uuid(2) }),
      volumes('Close', { ...at, epoch: 1 }),
    ],
    [
      replicas('Create', {
        ...{
          ...at,
          lineage_id: uuid(1),
          replica_id: uuid(2),
          incarnation_id: uuid(3),
          pool_id: uuid(4),
          size_bytes: 2 ** 30,
        },
        ...{ members: [{ replica_id: uuid(2), incarnation_id: uuid(3) }], set_version: 1, parameters: { a: 'b' } },
      }),
      replicas('Status', {}),
      replicas('Retire', { ...at, replica_id: uuid(2) }),
    ],
    [
      node('NodeGetInfo', {}),
      node('NodeStageVolume', stage),
      node('NodePublishVolume', { ...stage, target_path: `${dir}/target` }),
      node('NodeGetVolumeStats', { ...at, volume_path: `${dir}/target` }),
      node('NodeExpandVolume', { ...at, volume_path: `${dir}/target`, capacity_range: { required_bytes: 2 ** 20 } }),
      node('NodeUnpublishVolume', { ...at, target_path: `${dir}/target` }),
      node('NodeUnstageVolume', { ...at, staging_target_path: `${dir}/staging` }),
    ],
  ];
}
