// A cluster of real processes (`holdfast dev`) and CSI calls to it, as a container orchestrator makes them.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { realClock } from '../../src/base/index.js';
import {
  type Client,
  createClient,
  type csi,
  csiServices,
  type holdfast,
  holdfastServices,
} from '../../src/rpc/index.js';
import { distFolder } from './build-once.js';

interface DevNodeReport {
  readonly id: string;
  readonly csi: string;
  readonly zone: string;
  readonly poolDir: string;
  readonly runDir: string;
}

export interface TestNode extends DevNodeReport {
  readonly client: Client<csi.NodeDefinition, csi.NodeHandlers>;
  readonly volumes: Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
}

export interface TestVolume {
  readonly id: string;
  readonly context: Record<string, string>;
  readonly secrets: Record<string, string>;
  readonly capability: csi.VolumeCapability;
}

const readyMs = 60_000;
const endMs = 60_000;

export const mountCapability = (fsType: string): csi.VolumeCapability => ({
  access_mode: { mode: 'SINGLE_NODE_WRITER' },
  mount: { fs_type: fsType, mount_flags: [] },
});
export const blockCapability: csi.VolumeCapability = { access_mode: { mode: 'SINGLE_NODE_WRITER' }, block: {} };

export class DevCluster {
  readonly dir: string;
  readonly nodes: TestNode[] = [];
  controller!: Client<csi.ControllerDefinition, csi.ControllerHandlers>;
  readonly events: { event: string; role?: string; node?: string; pid?: number; signal?: string | null }[] = [];
  readonly #process: ChildProcess;
  readonly #ended: Promise<number | null>;
  #stderr = '';
  #names = 0;

  private constructor(dir: string, args: readonly string[]) {
    this.dir = dir;
    const command = [join(distFolder, 'src/main/holdfast.js'), 'dev', '--json', '--dir', dir, ...args];
    this.#process = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.#ended = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#process.stderr!.on('data', (chunk) => {
      this.#stderr = (this.#stderr + chunk).slice(-8_192);
    });
  }

  /** `prepare` is given the directory before anything runs in it. */
  static async start(args: readonly string[] = [], prepare?: (dir: string) => void): Promise<DevCluster> {
    const dir = join(tmpdir(), `hfdev-${randomBytes(4).toString('hex')}`);
    prepare?.(dir);
    const cluster = new DevCluster(dir, args);
    try {
      await cluster.#ready();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  async #ready(): Promise<void> {
    const lines = createInterface({ input: this.#process.stdout! });
    // As sidecars do: a server that restarts is waited for.
    const options = { clock: realClock, deadlineMs: 120_000, waitForReady: true };
    const ready = new Promise<void>((resolve) => {
      lines.on('line', (line) => {
        const event = JSON.parse(line);
        this.events.push(event);
        if (event.event !== 'ready') return;
        this.controller = createClient(event.controller.csi, csiServices.controller(), options);
        for (const node of event.nodes as DevNodeReport[]) {
          const client = createClient(node.csi, csiServices.node(), options);
          const storage = `unix://${node.runDir}/storage.sock`;
          this.nodes.push({ ...node, client, volumes: createClient(storage, holdfastServices.volume(), options) });
        }
        resolve();
      });
    });
    const failed = this.#ended.then((code) => {
      throw new Error(`holdfast dev ended with ${code}: ${this.#stderr}`);
    });
    const late = realClock.sleep(readyMs).then(() => {
      throw new Error(`holdfast dev was not ready in time: ${this.#stderr}\n${this.logs()}`);
    });
    await Promise.race([ready, failed, late]);
    failed.catch(() => {});
    late.catch(() => {});
  }

  /** The newest process of that kind. */
  pid(role: string, node = ''): number {
    const started = this.events.findLast((one) => one.event === 'started' && one.role === role && one.node === node);
    return started!.pid!;
  }

  kill(role: string, node = ''): void {
    process.kill(this.pid(role, node), 'SIGKILL');
  }

  /** Ends the cluster as Ctrl-C does. Resolves with its exit code. */
  async stop(): Promise<number | null> {
    for (const node of this.nodes) {
      node.client.close();
      node.volumes.close();
    }
    this.controller?.close();
    this.#process.kill('SIGINT');
    const code = await Promise.race([this.#ended, realClock.sleep(endMs).then(() => -1)]);
    if (code === -1) this.#process.kill('SIGKILL');
    return code;
  }

  get stderr(): string {
    return this.#stderr;
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

/** Processes, mounts, loop devices and files that mention the directory: what must be gone after a cluster. */
export function leftovers(dir: string): string[] {
  const found: string[] = [];
  for (const [program, ...args] of [
    ['ps', '-eo', 'pid,args'],
    ['findmnt', '-rn'],
    ['losetup', '-l', '-n'],
  ] as const) {
    const { stdout } = spawnSync(program, args, { encoding: 'utf8' });
    found.push(...stdout.split('\n').filter((line) => line.includes(dir)));
  }
  if (existsSync(dir)) found.push(dir);
  return found;
}
