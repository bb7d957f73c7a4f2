// A cluster of real processes as `holdfast dev` starts them.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { realClock } from '../../src/base/index.js';
import { distFolder } from './build-once.js';
import { CsiCluster, type NodePlace } from './csi-cluster.js';

export { blockCapability, mountCapability, type TestNode, type TestVolume } from './csi-cluster.js';

interface DevNodeReport extends NodePlace {
  readonly zone: string;
}

const readyMs = 60_000;
const endMs = 60_000;

export class DevCluster extends CsiCluster {
  readonly events: { event: string; role?: string; node?: string; pid?: number; signal?: string | null }[] = [];
  readonly #process: ChildProcess;
  readonly #ended: Promise<number | null>;
  #stderr = '';

  private constructor(dir: string, args: readonly string[]) {
    super(dir);
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
    const ready = new Promise<void>((resolve) => {
      lines.on('line', (line) => {
        const event = JSON.parse(line);
        this.events.push(event);
        if (event.event !== 'ready') return;
        this.connect(event.controller.csi, event.nodes as DevNodeReport[]);
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
    this.disconnect();
    this.#process.kill('SIGINT');
    const code = await Promise.race([this.#ended, realClock.sleep(endMs).then(() => -1)]);
    if (code === -1) this.#process.kill('SIGKILL');
    return code;
  }

  get stderr(): string {
    return this.#stderr;
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
