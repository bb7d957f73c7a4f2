// CSI calls to a cluster of real processes, as a container orchestrator makes them; who starts the processes is a subclass's.

import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { realClock } from '../../src/base/index.js';
import {
  type Client,
  createClient,
  type csi,
  csiServices,
  type holdfast,
  holdfastServices,
} from '../../src/rpc/index.js';

/** Where one node's processes are found. */
export interface NodePlace {
  readonly id: string;
  readonly csi: string;
  readonly poolDir: string;
  readonly runDir: string;
}

export interface TestNode extends NodePlace {
  readonly client: Client<csi.NodeDefinition, csi.NodeHandlers>;
  readonly volumes: Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
}

export interface TestVolume {
  readonly id: string;
  readonly context: Record<string, string>;
  readonly secrets: Record<string, string>;
  readonly capability: csi.VolumeCapability;
}

export const mountCapability = (fsType: string): csi.VolumeCapability => ({
  access_mode: { mode: 'SINGLE_NODE_WRITER' },
  mount: { fs_type: fsType, mount_flags: [] },
});
export const blockCapability: csi.VolumeCapability = { access_mode: { mode: 'SINGLE_NODE_WRITER' }, block: {} };

export class CsiCluster {
  readonly dir: string;
  readonly nodes: TestNode[] = [];
  controller!: Client<csi.ControllerDefinition, csi.ControllerHandlers>;
  #names = 0;

  constructor(dir: string) {
    this.dir = dir;
  }

  protected connect(controllerCsi: string, nodes: readonly NodePlace[]): void {
    // As sidecars do: a server that restarts is waited for.
    const options = { clock: realClock, deadlineMs: 120_000, waitForReady: true };
    this.controller = createClient(controllerCsi, csiServices.controller(), options);
    for (const node of nodes) {
      const client = createClient(node.csi, csiServices.node(), options);
      const storage = `unix://${node.runDir}/storage.sock`;
      this.nodes.push({ ...node, client, volumes: createClient(storage, holdfastServices.volume(), options) });
    }
  }

  protected disconnect(): void {
    for (const node of this.nodes) {
      node.client.close();
      node.volumes.close();
    }
    this.controller?.close();
  }

  /** The last lines of every log, for a failure's message. */
  logs(lines = 12): string {
    const folder = join(this.dir, 'logs');
    if (!existsSync(folder)) return '';
    const tail = (name: string) => readFileSync(join(folder, name), 'utf8').trim().split('\n').slice(-lines).join('\n');
    return readdirSync(folder)
      .map((name) => `--- ${name}\n${tail(name)}`)
      .join('\n');
  }

  async createVolume(options: {
    bytes: number;
    parameters?: Record<string, string>;
    secrets?: Record<string, string>;
    capability?: csi.VolumeCapability;
    source?: csi.VolumeContentSource;
  }): Promise<TestVolume> {
    const capability = options.capability ?? mountCapability('ext4');
    const secrets = options.secrets ?? {};
    const { volume } = await this.controller.CreateVolume({
      name: `pvc-${++this.#names}`,
      capacity_range: { required_bytes: options.bytes },
      volume_capabilities: [capability],
      parameters: options.parameters ?? { replicas: '3' },
      secrets,
      volume_content_source: options.source,
    });
    return { id: volume!.volume_id, context: volume!.volume_context, secrets, capability };
  }

  staging(node: TestNode, volume: TestVolume): string {
    const path = join(this.dir, `${node.id}-staging`, volume.id);
    mkdirSync(path, { recursive: true });
    return path;
  }

  target(node: TestNode, volume: TestVolume): string {
    mkdirSync(join(this.dir, `${node.id}-pods`), { recursive: true });
    return join(this.dir, `${node.id}-pods`, volume.id);
  }

  /** ControllerPublish, NodeStage, NodePublish. Resolves with the target path. */
  async use(node: TestNode, volume: TestVolume, options: { readOnly?: boolean } = {}): Promise<string> {
    const { publish_context } = await this.controller.ControllerPublishVolume({
      volume_id: volume.id,
      node_id: node.id,
      volume_capability: volume.capability,
      volume_context: volume.context,
      readonly: options.readOnly ?? false,
      secrets: volume.secrets,
    });
    const common = {
      volume_id: volume.id,
      volume_capability: volume.capability,
      publish_context,
      volume_context: volume.context,
    };
    const staging = this.staging(node, volume);
    await node.client.NodeStageVolume({ ...common, staging_target_path: staging, secrets: volume.secrets });
    const target = this.target(node, volume);
    await node.client.NodePublishVolume({ ...common, staging_target_path: staging, target_path: target });
    return target;
  }

  /** The reverse of use(). */
  async release(node: TestNode, volume: TestVolume): Promise<void> {
    await node.client.NodeUnpublishVolume({ volume_id: volume.id, target_path: this.target(node, volume) });
    await node.client.NodeUnstageVolume({ volume_id: volume.id, staging_target_path: this.staging(node, volume) });
    await this.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: node.id });
  }

  async status(
    node: TestNode,
    volume: TestVolume,
    deadlineMs?: number,
  ): Promise<holdfast.VolumeStatus__Output | undefined> {
    return (await node.volumes.Status({ volume_id: volume.id }, { deadlineMs })).volumes[0];
  }

  /** Waits until every replica of an attached volume is in sync. */
  async healed(node: TestNode, volume: TestVolume, timeoutMs = 30_000): Promise<void> {
    const end = realClock.monotonicMs() + timeoutMs;
    let seen = '';
    while (realClock.monotonicMs() < end) {
      const status = await this.status(node, volume).catch(() => undefined);
      if (status?.state === 'serving' && status.replicas.every((replica) => replica.state === 'in-sync')) return;
      seen = JSON.stringify(status?.replicas.map((replica) => [replica.node_id, replica.state, replica.message]));
      await realClock.sleep(100);
    }
    throw new Error(`volume ${volume.id} did not heal: ${seen}`);
  }
}
