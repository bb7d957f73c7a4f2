// Holdfast itself: `holdfast dev --nodes 3` (the real processes, as children of its own), a volume made and published by
// CSI calls, opened at the storage daemon of a node that has a replica, and driven through the NBD export that a holder would
// use. Encryption, compression and checksums are on. CPU time counts every process of the cluster.

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
import { type BenchSystem, nbdUri } from '../volume/system.js';

type ControllerClient = Client<csi.ControllerDefinition, csi.ControllerHandlers>;
type VolumeClient = Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
type ReplicaClient = Client<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>;

const READY_MS = 120_000;
const CALL_MS = 60_000;
const RETRY_MS = 200;

interface ClusterNode {
  readonly id: string;
  readonly volumes: VolumeClient;
  readonly replicas: ReplicaClient;
}

/** What `holdfast dev --json` prints once it is up. */
interface ReadyEvent {
  readonly controller: { readonly csi: string };
  readonly nodes: readonly { readonly id: string; readonly runDir: string }[];
}

export interface HoldfastOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly random: Random;
  readonly directory: string;
  readonly sizeBytes: number;
}

/** The cluster that all volumes of a run share. Owner: the run. */
export class HoldfastCluster {
  readonly options: HoldfastOptions;
  #dev: Started | undefined;
  #controller: ControllerClient | undefined;
  #nodes: readonly ClusterNode[] = [];

  constructor(options: HoldfastOptions) {
    this.options = options;
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
    const { processes, clock, directory } = this.options;
    const program = fileURLToPath(new URL('../../src/main/holdfast.js', import.meta.url));
    const args = [program, 'dev', '--nodes', '3', '--dir', join(directory, 'c'), '--json', '--log-level', 'warn'];
    this.#dev = processes.start(process.execPath, args, { HOLDFAST_END_WITH_STDIN: '1' });
    const line = await this.#dev.line((text) => text.includes('"event":"ready"'), READY_MS);
    const ready = JSON.parse(line) as ReadyEvent;
    const options = { clock, deadlineMs: CALL_MS };
    this.#controller = createClient(ready.controller.csi, csiServices.controller(), options);
    this.#nodes = ready.nodes.map(({ id, runDir }) => {
      const address = `unix://${join(runDir, 'storage.sock')}`;
      return {
        id,
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
  }

  /** A node that has a replica of the volume. */
  async home(volumeId: string): Promise<ClusterNode> {
    for (const node of this.#nodes) {
      const { replicas } = await node.replicas.Status({ volume_id: volumeId });
      if (replicas.length > 0) return node;
    }
    throw precondition(`no node has a replica of volume ${volumeId}`);
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
}

interface OpenVolume {
  readonly id: string;
  readonly node: ClusterNode;
  readonly uri: string;
}

const capability = { access_mode: { mode: 'SINGLE_NODE_WRITER' as const }, block: {} };

export class HoldfastSystem implements BenchSystem {
  readonly name: string;
  readonly title: string;
  readonly copies: number;
  readonly flush: string;
  readonly features = 'AES-256-GCM, CRC-32C, LZ4; page cache';
  readonly #cluster: HoldfastCluster;
  #volume: OpenVolume | undefined;
  #made = 0;

  constructor(cluster: HoldfastCluster, copies: number) {
    this.#cluster = cluster;
    this.copies = copies;
    this.name = `holdfast-x${copies}`;
    this.title = `Holdfast, ${copies} ${copies === 1 ? 'replica' : 'replicas'}`;
    this.flush = copies === 1 ? 'yes' : `yes, on all ${copies}`;
  }

  async open(): Promise<void> {
    const { controller } = this.#cluster;
    const { random, sizeBytes } = this.#cluster.options;
    const key = random.bytes(32);
    const name = `bench-x${this.copies}-${++this.#made}`;
    const { volume } = await this.#cluster.persist(() =>
      controller.CreateVolume({
        name,
        capacity_range: { required_bytes: sizeBytes },
        volume_capabilities: [capability],
        parameters: { replicas: String(this.copies), encryption: 'aes-256-gcm', compression: 'lz4' },
        secrets: { [SECRET_FIELD]: key.toString('hex') },
      }),
    );
    if (!volume) throw precondition(`CreateVolume answered without a volume for ${name}`);
    const id = volume.volume_id;
    const node = await this.#cluster.home(id);
    const publication = { volume_id: id, node_id: node.id, volume_capability: capability, readonly: false };
    await this.#cluster.persist(() => controller.ControllerPublishVolume(publication));
    const opened = await this.#cluster.persist(() =>
      node.volumes.Open({ volume_id: id, export: true, wrapping_key: key }),
    );
    this.#volume = { id, node, uri: nbdUri(opened.socket_path, opened.export_name) };
  }

  uri(): string {
    if (this.#volume === undefined) throw precondition(`${this.title} is not open`);
    return this.#volume.uri;
  }
  pids(): number[] {
    return [this.#cluster.pid];
  }

  async close(): Promise<void> {
    const volume = this.#volume;
    if (volume === undefined) return;
    this.#volume = undefined;
    const { controller } = this.#cluster;
    await this.#cluster.persist(() => volume.node.volumes.Close({ volume_id: volume.id, epoch: 0 }));
    await this.#cluster.persist(() =>
      controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: volume.node.id }),
    );
    await this.#cluster.persist(() => controller.DeleteVolume({ volume_id: volume.id }));
  }
}
