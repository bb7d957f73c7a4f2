// The processes of one node of a dev cluster that runs with --no-restart: ended together, and started again later with the
// command lines they had.

import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { realClock } from '../../src/base/index.js';
import type { DevCluster } from './dev-cluster.js';

const goneTimeoutMs = 10_000;

export class NodeProcesses {
  readonly #cluster: DevCluster;
  readonly #nodeId: string;
  readonly #commands = new Map<string, string[]>();
  readonly #children: ChildProcess[] = [];

  /** Remembers how the node's processes were started. */
  constructor(cluster: DevCluster, nodeId: string) {
    this.#cluster = cluster;
    this.#nodeId = nodeId;
    for (const role of ['storage', 'node']) {
      const command = readFileSync(`/proc/${cluster.pid(role, nodeId)}/cmdline`, 'utf8').split('\0');
      this.#commands.set(role, command.slice(0, -1));
    }
  }

  /** Sends a signal to all of them. Resolves when those that SIGKILL ended are gone. */
  async signal(
    signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT',
    roles: readonly string[] = ['storage', 'node'],
  ): Promise<void> {
    for (const role of roles) process.kill(this.#cluster.pid(role, this.#nodeId), signal);
    if (signal !== 'SIGKILL') return;
    const gone = (role: string) =>
      this.#cluster.events.some(({ event, pid }) => event === 'ended' && pid === this.#cluster.pid(role, this.#nodeId));
    for (const endMs = realClock.monotonicMs() + goneTimeoutMs; !roles.every(gone); await realClock.sleep(20)) {
      if (realClock.monotonicMs() > endMs) throw new Error(`the processes of ${this.#nodeId} did not end`);
    }
  }

  /** Starts one of them again, as another build of the program if `holdfast` names one. It ends with this process at the latest. */
  start(role: 'storage' | 'node', holdfast?: string): void {
    const [program, ...args] = this.#commands.get(role)!;
    if (holdfast !== undefined) args[args.findIndex((arg) => arg.endsWith('holdfast.js'))] = holdfast;
    const log = openSync(join(this.#cluster.dir, 'logs', `${this.#nodeId}-${role}.log`), 'a');
    const child = spawn(program!, args, {
      stdio: ['pipe', log, log],
      env: { PATH: process.env.PATH, LC_ALL: 'C', HOLDFAST_END_WITH_STDIN: '1', UV_THREADPOOL_SIZE: '16' },
    });
    closeSync(log);
    child.stdin!.on('error', () => {});
    this.#children.push(child);
  }

  /** Ends what start() started. Resolves when all of it is gone. */
  async stop(): Promise<void> {
    const running = this.#children.filter(({ exitCode, signalCode }) => exitCode === null && signalCode === null);
    const ended = running.map((child) => new Promise((resolve) => child.once('exit', resolve)));
    for (const child of running) child.kill('SIGTERM');
    const killer = realClock.after(goneTimeoutMs, () => {
      for (const child of running) child.kill('SIGKILL');
    });
    await Promise.all(ended);
    killer.cancel();
  }
}
