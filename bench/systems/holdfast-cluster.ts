// `holdfast dev`: the real processes, as children of its own, with volumes made, published and snapshot by CSI calls and opened
// at the storage daemon of a node that has a replica, as a holder would. Owner: one part of a run.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Clock, HoldfastError, precondition, type Random, SECRET_FIELD } from '../../src/base/index.js';
import {
  type Client,
  createClient,
  type csi,
  csiServices,
  type holdfast,
  holdfastServices,
} from '../../src/rpc/index.js';
import type { Processes, Started } from '../processes.js';
import { nbdUri } from './system.js';

type ControllerClient = Client<csi.ControllerDefinition, csi.ControllerHandlers>;
type VolumeClient = Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
type ReplicaClient = Client<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>;

const READY_MS = 120_000;
const CALL_MS = 60_000;
const RETRY_MS = 200;
const NODES = 3;

export interface ClusterNode {
  readonly id: string;
  readonly poolDir: string;
  readonly volumes: VolumeClient;
  readonly replicas: ReplicaClient;
}

/** What `holdfast dev --json` prints once it is up. */
interface ReadyEvent {
  readonly controller: { readonly csi: string };
  readonly nodes: readonly { readonly id: string; readonly runDir: string; readonly poolDir: string }[];
}

export interface ClusterOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly random: Random;
  /** The cluster lives in a folder `c` of it, one with certificates in `c-tls`. */
  readonly directory: string;
  /** Certificates and TLS on all connections between processes, as outside of `dev`. */
  readonly tls?: boolean;
}

export interface VolumeWish {
  readonly name: string;
  readonly copies: number;
  readonly sizeBytes: number;
  /** Of the class; encryption and compression are on unless it says otherwise. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** A snapshot to start from. */
  readonly snapshotId?: string;
  /** Of the snapshot's volume. */
  readonly key?: Buffer;
}

export interface BenchVolume {
  readonly id: string;
  readonly key: Buffer;
  readonly sizeBytes: number;
}

export interface AttachedVolume extends BenchVolume {
  readonly node: ClusterNode;
  readonly socket: string;
  readonly exportName: string;
  readonly uri: string;
  /** How long the daemon took to open it. */
  readonly openMs: number;
}

const capability = { access_mode: { mode: 'SINGLE_NODE_WRITER' as const }, block: {} };

/** Where the pool of node `number` (from 1) will lie, for who wants to mount something there first. */
export function poolPath(directory: string, number: number): string {
  return join(directory, 'c', `node-${number}`, 'pool');
}

export class HoldfastCluster {
  readonly options: ClusterOptions;
  #dev: Started | undefined;
  #controller: ControllerClient | undefined;
  #nodes: readonly ClusterNode[] = [];

  constructor(options: ClusterOptions) {
    this.options = options;
  }

  get started(): boolean {
    return this.#dev !== undefined;
  }
  get pid(): number {
    return this.#dev?.pid ?? -1;
  }
  get controller(): ControllerClient {
    if (this.#controller === undefined) throw precondition('the cluster was not started');
    return this.#controller;
  }
  get nodes(): readonly ClusterNode[] {
    return this.#nodes;
  }

  async start(): Promise<void> {
    const { processes, clock, directory, tls } = this.options;
    const program = fileURLToPath(new URL('../../src/main/holdfast.js', import.meta.url));
    const place = ['--nodes', String(NODES), '--dir', join(directory, tls ? 'c-tls' : 'c'), ...(tls ? ['--tls'] : [])];
    const args = [program, 'dev', ...place, '--json', '--log-level', 'warn'];
    this.#dev = processes.start(process.execPath, args, { HOLDFAST_END_WITH_STDIN: '1' });
    const line = await this.#dev.line((text) => text.includes('"event":"ready"'), READY_MS);
    const ready = JSON.parse(line) as ReadyEvent;
    const options = { clock, deadlineMs: CALL_MS };
    this.#controller = createClient(ready.controller.csi, csiServices.controller(), options);
    this.#nodes = ready.nodes.map(({ id, runDir, poolDir }) => {
      const address = `unix://${join(runDir, 'storage.sock')}`;
      return {
        id,
        poolDir,
        volumes: createClient(address, holdfastServices.volume(), options),
        replicas: createClient(address, holdfastServices.replica(), options),
      };
    });
  }

  async stop(): Promise<void> {
    this.#controller?.close();
    for (const node of this.#nodes) {
      node.volumes.close();
      node.replicas.close();
    }
    await this.#dev?.stop();
    this.#dev = undefined;
  }

  /** Process of a node's storage daemon. */
  storagePid(nodeId: string): number {
    for (const line of this.#dev?.lines() ?? []) {
      if (!line.includes('"started"')) continue;
      const event = JSON.parse(line) as { role?: string; node?: string; pid?: number };
      if (event.role === 'storage' && event.node === nodeId && event.pid !== undefined) return event.pid;
    }
    throw precondition(`no storage daemon of ${nodeId} was started`);
  }

  /** Repeats a call that met a passing trouble, as Kubernetes does. */
  async persist<T>(call: () => Promise<T>): Promise<T> {
    const { clock } = this.options;
    const deadline = clock.monotonicMs() + CALL_MS;
    for (;;) {
      try {
        return await call();
      } catch (error) {
        const passing =
          error instanceof HoldfastError && ['UNAVAILABLE', 'ABORTED', 'DEADLINE_EXCEEDED'].includes(error.code);
        if (!passing || clock.monotonicMs() > deadline) throw error;
        await clock.sleep(RETRY_MS);
      }
    }
  }

  async create(wish: VolumeWish): Promise<BenchVolume> {
    const key = wish.key ?? this.options.random.bytes(32);
    const { name, sizeBytes, snapshotId } = wish;
    const { volume } = await this.persist(() =>
      this.controller.CreateVolume({
        name,
        capacity_range: { required_bytes: sizeBytes },
        volume_capabilities: [capability],
        parameters: {
          replicas: String(wish.copies),
          encryption: 'aes-256-gcm',
          compression: 'lz4',
          ...wish.parameters,
        },
        secrets: { [SECRET_FIELD]: key.toString('hex') },
        ...(snapshotId === undefined ? {} : { volume_content_source: { snapshot: { snapshot_id: snapshotId } } }),
      }),
    );
    if (!volume) throw precondition(`CreateVolume answered without a volume for ${name}`);
    return { id: volume.volume_id, key, sizeBytes };
  }

  async attach(volume: BenchVolume): Promise<AttachedVolume> {
    const { clock } = this.options;
    const node = await this.#home(volume.id);
    const publication = { volume_id: volume.id, node_id: node.id, volume_capability: capability, readonly: false };
    await this.persist(() => this.controller.ControllerPublishVolume(publication));
    const startMs = clock.monotonicMs();
    const opened = await this.persist(() =>
      node.volumes.Open({ volume_id: volume.id, export: true, wrapping_key: volume.key }),
    );
    const openMs = clock.monotonicMs() - startMs;
    const { socket_path: socket, export_name: exportName } = opened;
    return { ...volume, node, socket, exportName, uri: nbdUri(socket, exportName), openMs };
  }

  async detach(volume: AttachedVolume): Promise<void> {
    await this.persist(() => volume.node.volumes.Close({ volume_id: volume.id, epoch: 0 }));
    const publication = { volume_id: volume.id, node_id: volume.node.id };
    await this.persist(() => this.controller.ControllerUnpublishVolume(publication));
  }

  async remove(volume: BenchVolume): Promise<void> {
    await this.persist(() => this.controller.DeleteVolume({ volume_id: volume.id }));
  }

  /** Returns the snapshot's id. */
  async snapshot(volume: BenchVolume, name: string): Promise<string> {
    const { snapshot } = await this.persist(() =>
      this.controller.CreateSnapshot({ source_volume_id: volume.id, name }),
    );
    if (!snapshot) throw precondition(`CreateSnapshot answered without a snapshot for ${name}`);
    return snapshot.snapshot_id;
  }

  async removeSnapshot(snapshotId: string): Promise<void> {
    await this.persist(() => this.controller.DeleteSnapshot({ snapshot_id: snapshotId }));
  }

  /** What the volume's engine says of itself. */
  async status(volume: AttachedVolume): Promise<holdfast.VolumeStatus__Output> {
    const { volumes } = await volume.node.volumes.Status({ volume_id: volume.id });
    const status = volumes[0];
    if (status === undefined) throw precondition(`volume ${volume.id} is not open at ${volume.node.id}`);
    return status;
  }

  /** A node that has a replica of the volume. */
  async #home(volumeId: string): Promise<ClusterNode> {
    for (const node of this.#nodes) {
      const { replicas } = await node.replicas.Status({ volume_id: volumeId });
      if (replicas.length > 0) return node;
    }
    throw precondition(`no node has a replica of volume ${volumeId}`);
  }
}
