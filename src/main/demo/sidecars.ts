// The calls that Kubernetes makes, with the fields that its sidecars and kubelet fill in, over the same gRPC sockets:
// external-provisioner, -attacher, -snapshotter and -resizer at the controller, kubelet at the nodes. Like them, a call that
// met a passing trouble is repeated as it was.

import { type Clock, HoldfastError, SECRET_FIELD, type SnapshotId, type VolumeId } from '../../base/index.js';
import { type CallOptions, type Client, createClient, type csi, csiServices } from '../../rpc/index.js';

type ControllerClient = Client<csi.ControllerDefinition, csi.ControllerHandlers>;
type NodeClient = Client<csi.NodeDefinition, csi.NodeHandlers>;

export type Use = 'mount' | 'block';

export interface DemoVolume {
  readonly id: VolumeId;
  readonly name: string;
  readonly sizeBytes: number;
  /** Hexadecimal; null for a plain volume. */
  readonly key: string | null;
  readonly use: Use;
}

export interface CreateOrder {
  readonly name: string;
  readonly sizeBytes: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly key: string | null;
  readonly use: Use;
  readonly fromSnapshot?: SnapshotId;
}

export interface Paths {
  readonly staging: string;
  readonly target: string;
}

const callTimeoutMs = 60_000;
const retryForMs = 60_000;
const retryPauseMs = 250;

function capability(use: Use): csi.VolumeCapability {
  const access = { access_mode: { mode: 'SINGLE_NODE_WRITER' as const } };
  return use === 'block' ? { ...access, block: {} } : { ...access, mount: { fs_type: 'ext4', mount_flags: [] } };
}

function secretsOf(key: string | null): Record<string, string> {
  return key === null ? {} : { [SECRET_FIELD]: key };
}

export class Sidecars {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #controller: ControllerClient;
  readonly #nodes: ReadonlyMap<string, NodeClient>;
  readonly #topologies = new Map<string, Record<string, string>>();

  constructor(
    cluster: {
      readonly controllerCsi: string;
      readonly nodes: readonly { readonly id: string; readonly csi: string }[];
    },
    clock: Clock,
    signal: AbortSignal,
  ) {
    const options = { clock, deadlineMs: callTimeoutMs };
    this.#clock = clock;
    this.#signal = signal;
    this.#controller = createClient(cluster.controllerCsi, csiServices.controller(), options);
    this.#nodes = new Map(cluster.nodes.map((node) => [node.id, createClient(node.csi, csiServices.node(), options)]));
  }

  close(): void {
    this.#controller.close();
    for (const node of this.#nodes.values()) node.close();
  }

  /** What node-driver-registrar asks first; external-provisioner passes the topology on. */
  async register(node: string): Promise<Readonly<Record<string, string>>> {
    const info = await this.#call((options) => this.#node(node).NodeGetInfo({}, options));
    const segments = info.accessible_topology?.segments ?? {};
    this.#topologies.set(node, segments);
    return segments;
  }

  /** `nearNode`: where the scheduler wants to run the pod. */
  async createVolume(order: CreateOrder, nearNode: string): Promise<DemoVolume> {
    const near = this.#topologies.get(nearNode) ?? {};
    const others = [...this.#topologies].filter(([id]) => id !== nearNode).map(([, segments]) => ({ segments }));
    const places = [{ segments: near }, ...others];
    const request: csi.CreateVolumeRequest = {
      name: order.name,
      capacity_range: { required_bytes: order.sizeBytes },
      volume_capabilities: [capability(order.use)],
      parameters: { ...order.parameters },
      secrets: secretsOf(order.key),
      accessibility_requirements: { requisite: places, preferred: places },
      volume_content_source: order.fromSnapshot ? { snapshot: { snapshot_id: order.fromSnapshot } } : null,
    };
    const { volume } = await this.#call((options) => this.#controller.CreateVolume(request, options));
    const { name, key, use } = order;
    return { id: volume?.volume_id as VolumeId, name, sizeBytes: volume?.capacity_bytes ?? 0, key, use };
  }

  async publish(volume: DemoVolume, node: string): Promise<void> {
    const request = { volume_id: volume.id, node_id: node, volume_capability: capability(volume.use), readonly: false };
    await this.#call((options) => this.#controller.ControllerPublishVolume(request, options));
  }

  async unpublish(volume: DemoVolume, node: string): Promise<void> {
    const request = { volume_id: volume.id, node_id: node };
    await this.#call((options) => this.#controller.ControllerUnpublishVolume(request, options));
  }

  async nodeStage(volume: DemoVolume, node: string, paths: Paths, secretKey = volume.key): Promise<void> {
    const request: csi.NodeStageVolumeRequest = {
      volume_id: volume.id,
      publish_context: {},
      staging_target_path: paths.staging,
      volume_capability: capability(volume.use),
      secrets: secretsOf(secretKey),
      volume_context: {},
    };
    await this.#call((options) => this.#node(node).NodeStageVolume(request, options));
  }

  async nodePublish(volume: DemoVolume, node: string, paths: Paths): Promise<void> {
    const request: csi.NodePublishVolumeRequest = {
      volume_id: volume.id,
      publish_context: {},
      staging_target_path: paths.staging,
      target_path: paths.target,
      volume_capability: capability(volume.use),
      readonly: false,
      volume_context: {},
    };
    await this.#call((options) => this.#node(node).NodePublishVolume(request, options));
  }

  async nodeUnpublish(volume: DemoVolume, node: string, paths: Paths): Promise<void> {
    await this.#call((options) =>
      this.#node(node).NodeUnpublishVolume({ volume_id: volume.id, target_path: paths.target }, options),
    );
  }

  async nodeUnstage(volume: DemoVolume, node: string, paths: Paths): Promise<void> {
    const request = { volume_id: volume.id, staging_target_path: paths.staging };
    await this.#call((options) => this.#node(node).NodeUnstageVolume(request, options));
  }

  async createSnapshot(volume: DemoVolume, name: string): Promise<SnapshotId> {
    const request = { source_volume_id: volume.id, name, secrets: {}, parameters: {} };
    for (;;) {
      const { snapshot } = await this.#call((options) => this.#controller.CreateSnapshot(request, options));
      if (snapshot?.ready_to_use) return snapshot.snapshot_id as SnapshotId;
      await this.#clock.sleep(retryPauseMs, this.#signal);
    }
  }

  async deleteSnapshot(id: SnapshotId): Promise<void> {
    await this.#call((options) => this.#controller.DeleteSnapshot({ snapshot_id: id, secrets: {} }, options));
  }

  async deleteVolume(volume: DemoVolume): Promise<void> {
    await this.#call((options) => this.#controller.DeleteVolume({ volume_id: volume.id, secrets: {} }, options));
  }

  /** Of the controller's part. */
  async expand(volume: DemoVolume, sizeBytes: number): Promise<DemoVolume> {
    const range = { required_bytes: sizeBytes };
    const request = {
      volume_id: volume.id,
      capacity_range: range,
      volume_capability: capability(volume.use),
      secrets: {},
    };
    const answer = await this.#call((options) => this.#controller.ControllerExpandVolume(request, options));
    return { ...volume, sizeBytes: answer.capacity_bytes };
  }

  async nodeExpand(volume: DemoVolume, node: string, paths: Paths): Promise<void> {
    const request: csi.NodeExpandVolumeRequest = {
      volume_id: volume.id,
      volume_path: paths.target,
      staging_target_path: paths.staging,
      capacity_range: { required_bytes: volume.sizeBytes },
      volume_capability: capability(volume.use),
      secrets: {},
    };
    await this.#call((options) => this.#node(node).NodeExpandVolume(request, options));
  }

  /** Bytes that a volume of this class may have. */
  async capacity(parameters: Readonly<Record<string, string>>): Promise<number> {
    const request = { volume_capabilities: [capability('block')], parameters: { ...parameters } };
    const answer = await this.#call((options) => this.#controller.GetCapacity(request, options));
    return Math.min(answer.available_capacity, answer.maximum_volume_size?.value ?? answer.available_capacity);
  }

  /** How many volumes and snapshots the controller lists. */
  async counts(): Promise<{ volumes: number; snapshots: number }> {
    const volumes = await this.#call((options) =>
      this.#controller.ListVolumes({ max_entries: 0, starting_token: '' }, options),
    );
    const snapshots = await this.#call((options) =>
      this.#controller.ListSnapshots({ max_entries: 0, starting_token: '' }, options),
    );
    return { volumes: volumes.entries.length, snapshots: snapshots.entries.length };
  }

  #node(id: string): NodeClient {
    const client = this.#nodes.get(id);
    if (!client) throw new HoldfastError('NOT_FOUND', `the demo's cluster has no node ${id}`);
    return client;
  }

  async #call<T>(call: (options: CallOptions) => Promise<T>): Promise<T> {
    const endMs = this.#clock.monotonicMs() + retryForMs;
    for (;;) {
      this.#signal.throwIfAborted();
      try {
        return await call({ signal: this.#signal });
      } catch (error) {
        const passing =
          error instanceof HoldfastError && ['UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED'].includes(error.code);
        if (!passing || this.#clock.monotonicMs() > endMs) throw error;
        await this.#clock.sleep(retryPauseMs, this.#signal);
      }
    }
  }
}
