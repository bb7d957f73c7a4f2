// The demo's cluster: `holdfast dev` as a child process, watched through the lines it prints. Owner: the demo. If the demo is
// killed, its end of the child's standard input closes and the cluster ends itself.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Clock, HoldfastError, unavailable, type VolumeId } from '../../base/index.js';
import { type ServiceProcess, spawnService } from '../../platform/index.js';
import { type Client, createClient, type holdfast, holdfastServices } from '../../rpc/index.js';
import type { DevNode } from '../dev-cluster.js';

type VolumeClient = Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
type ReplicaClient = Client<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>;

/** A node of the cluster, and its storage daemon's own API over its private socket. */
export interface ClusterNode extends DevNode {
  readonly volumes: VolumeClient;
  readonly replicas: ReplicaClient;
}

interface Ready {
  readonly controller: { readonly csi: string };
  readonly nodes: readonly DevNode[];
}

const readyTimeoutMs = 120_000;
const stopTimeoutMs = 90_000;
const pollMs = 50;
const callTimeoutMs = 10_000;
const wordsMax = 12;

export class Cluster {
  readonly #process: ServiceProcess;
  readonly #clock: Clock;
  readonly #output: string;
  readonly #directory: string;
  #ended = false;
  #stopping = false;
  #controllerCsi = '';
  #nodes: readonly ClusterNode[] = [];

  /** Starts it in `directory`/c; its output goes to `directory`/dev.log. Call ready() next. */
  static async start(directory: string, zones: readonly string[], clock: Clock): Promise<Cluster> {
    const program = fileURLToPath(new URL('../holdfast.js', import.meta.url));
    const output = join(directory, 'dev.log');
    const args = ['dev', '--nodes', String(zones.length), '--zones', zones.join(','), '--json'];
    const child = await spawnService(process.execPath, [program, ...args, '--dir', join(directory, 'c')], {
      logFile: output,
      env: { HOLDFAST_END_WITH_STDIN: '1' },
    });
    return new Cluster(child, clock, directory, output);
  }

  private constructor(child: ServiceProcess, clock: Clock, directory: string, output: string) {
    this.#process = child;
    this.#clock = clock;
    this.#directory = directory;
    this.#output = output;
    void child.exited.then(() => {
      this.#ended = true;
    });
  }

  /** Calls `listener` if the cluster ends without having been told to. */
  onDeath(listener: (error: HoldfastError) => void): void {
    void this.#process.exited.then(({ signal }) => {
      const why = signal === null ? this.#lastWords() : `by ${signal}`;
      if (!this.#stopping) listener(unavailable(`the cluster ended, though nobody asked it to: ${why}`));
    });
  }

  get controllerCsi(): string {
    return this.#controllerCsi;
  }

  get nodes(): readonly ClusterNode[] {
    return this.#nodes;
  }

  node(id: string): ClusterNode {
    const node = this.#nodes.find((one) => one.id === id);
    if (!node) throw new HoldfastError('NOT_FOUND', `the demo's cluster has no node ${id}`);
    return node;
  }

  /** Resolves when every part answers. Throws UNAVAILABLE with the parts' own words when they do not. */
  async ready(signal: AbortSignal): Promise<void> {
    const endMs = this.#clock.monotonicMs() + readyTimeoutMs;
    for (;;) {
      signal.throwIfAborted();
      const ready = this.#lines().find((line) => line.event === 'ready');
      if (ready) return this.#connect(ready as unknown as Ready);
      const late = this.#clock.monotonicMs() > endMs;
      if (late || this.#ended) throw unavailable(`the cluster did not start: ${this.#lastWords()}`);
      await this.#clock.sleep(pollMs, signal);
    }
  }

  #connect(ready: Ready): void {
    this.#controllerCsi = ready.controller.csi;
    this.#nodes = ready.nodes.map((node) => {
      const address = `unix://${join(node.runDir, 'storage.sock')}`;
      const options = { clock: this.#clock, deadlineMs: callTimeoutMs };
      return {
        ...node,
        volumes: createClient(address, holdfastServices.volume(), options),
        replicas: createClient(address, holdfastServices.replica(), options),
      };
    });
  }

  /** Of the part that runs now; 0 while there is none. */
  pidOf(role: 'storage' | 'node' | 'controller', node: string): number {
    const last = this.#lines()
      .filter((line) => line.role === role && line.node === node)
      .at(-1);
    return last?.event === 'started' && typeof last.pid === 'number' ? last.pid : 0;
  }

  /** Signal 9, as the kernel's memory killer sends it: no goodbye, no flush. */
  kill(role: 'storage' | 'node' | 'controller', node: string): number {
    const pid = this.pidOf(role, node);
    if (pid === 0) throw unavailable(`the ${role} process of ${node} does not run`);
    process.kill(pid, 'SIGKILL');
    return pid;
  }

  /** The volume's engine as the daemon of `node` sees it; undefined where it is not open or nobody answers. */
  async engine(node: string, volumeId: VolumeId): Promise<holdfast.VolumeStatus__Output | undefined> {
    try {
      const { volumes } = await this.node(node).volumes.Status({ volume_id: volumeId });
      return volumes[0];
    } catch (error) {
      if (error instanceof HoldfastError && ['UNAVAILABLE', 'DEADLINE_EXCEEDED'].includes(error.code)) return undefined;
      throw error;
    }
  }

  /** What each node's pool holds of the volume, by node; of all volumes without an id. */
  async replicas(volumeId: VolumeId | null): Promise<Map<string, readonly holdfast.ReplicaInfo__Output[]>> {
    const request = { volume_id: volumeId ?? '' };
    const asked = this.#nodes.map(async (node) => {
      const { replicas } = await node.replicas.Status(request, { waitForReady: true });
      return [node.id, replicas] as const;
    });
    return new Map(await Promise.all(asked));
  }

  /** Lets everything end in order; resolves when it has. Throws when it takes too long or `signal` aborts. */
  async stop(signal: AbortSignal): Promise<void> {
    this.#stopping = true;
    for (const node of this.#nodes) {
      node.volumes.close();
      node.replicas.close();
    }
    if (this.#ended) return;
    this.#process.kill('SIGTERM');
    const timer = new AbortController();
    const late = this.#clock.sleep(stopTimeoutMs, AbortSignal.any([signal, timer.signal]));
    try {
      await Promise.race([
        this.#process.exited,
        late.then(() => {
          throw unavailable(`the cluster did not end within ${stopTimeoutMs / 1000} s`);
        }),
      ]);
    } finally {
      timer.abort();
      late.catch(() => {});
    }
  }

  /** What the parts complained of last, newest at the end. */
  complaints(): string[] {
    const names = ['controller', ...this.#nodes.flatMap(({ id }) => [`${id}-storage`, `${id}-node`])];
    const found = names.flatMap((name) => complaintsIn(name, join(this.#directory, 'c', 'logs', `${name}.log`)));
    return found
      .sort((a, b) => a.time.localeCompare(b.time))
      .slice(-wordsMax)
      .map(({ time, name, text }) => `${time.slice(11, 23)} ${name}: ${text}`);
  }

  #lines(): Record<string, unknown>[] {
    return textOf(this.#output).split('\n').flatMap(parsed);
  }

  #lastWords(): string {
    const words = textOf(this.#output)
      .split('\n')
      .filter((line) => line !== '' && !line.startsWith('{'));
    return words.at(-1)?.replace(/^holdfast dev: /, '') ?? 'it gave no reason';
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function parsed(line: string): Record<string, unknown>[] {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? [value as Record<string, unknown>] : [];
  } catch {
    // Not every line is an event, and the last one may be half written.
    return [];
  }
}

/** pino's levels; below are information and debugging. */
const warnLevel = 40;

function complaintsIn(name: string, path: string): { time: string; name: string; text: string }[] {
  return textOf(path)
    .split('\n')
    .flatMap(parsed)
    .filter((line) => typeof line.level === 'number' && line.level >= warnLevel)
    .map((line) => {
      const { time, msg, level: _, process: __, ...rest } = line;
      return { time: String(time), name, text: `${String(msg)} ${JSON.stringify(rest)}`.slice(0, 300) };
    });
}
