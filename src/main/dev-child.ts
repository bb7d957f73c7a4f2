// One child process of `holdfast dev`: started, started again when it dies (as kubelet would, with a growing pause), ended.

import { readFileSync, statSync } from 'node:fs';
import { type Clock, messageOf } from '../base/index.js';
import { type ServiceProcess, spawnService } from '../platform/index.js';

export interface DevChildSpec {
  /** controller, storage or node. */
  readonly role: string;
  /** Empty for the controller. */
  readonly node: string;
  readonly args: readonly string[];
  readonly logFile: string;
}

export type DevEvent =
  | { readonly event: 'started'; readonly role: string; readonly node: string; readonly pid: number }
  | {
      readonly event: 'ended';
      readonly role: string;
      readonly node: string;
      readonly pid: number;
      readonly code: number | null;
      readonly signal: string | null;
    };

export interface DevChildOptions {
  readonly clock: Clock;
  readonly restart: boolean;
  readonly onEvent: (event: DevEvent) => void;
}

const pauseMinMs = 200;
const pauseMaxMs = 5_000;
/** A child that ran for this long starts over with the shortest pause. */
const steadyMs = 1_000;
const killAfterMs = 15_000;
const logTailBytes = 4_096;

export class DevChild {
  readonly spec: DevChildSpec;
  readonly #program: readonly string[];
  readonly #options: DevChildOptions;
  readonly #stop = new AbortController();
  #process: ServiceProcess | undefined;
  #running: Promise<void> | undefined;
  /** Times it ended without being told to. */
  deaths = 0;

  constructor(program: readonly string[], spec: DevChildSpec, options: DevChildOptions) {
    this.#program = program;
    this.spec = spec;
    this.#options = options;
  }

  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  get name(): string {
    return this.spec.node === '' ? this.spec.role : `${this.spec.role} of ${this.spec.node}`;
  }

  /** Resolves when it runs for the first time. */
  async start(): Promise<void> {
    const first = await this.#spawn();
    this.#running = this.#watch(first);
  }

  async #spawn(): Promise<ServiceProcess> {
    const [program, ...args] = this.#program;
    const { role, node, logFile } = this.spec;
    const env = { HOLDFAST_END_WITH_STDIN: '1', UV_THREADPOOL_SIZE: '16' };
    const child = await spawnService(program!, [...args, role, ...this.spec.args], { logFile, env });
    this.#process = child;
    this.#options.onEvent({ event: 'started', role, node, pid: child.pid });
    return child;
  }

  async #watch(first: ServiceProcess): Promise<void> {
    const { clock, restart, onEvent } = this.#options;
    const { role, node } = this.spec;
    let child: ServiceProcess | undefined = first;
    let pauseMs = pauseMinMs;
    while (child) {
      const sinceMs = clock.monotonicMs();
      const { code, signal } = await child.exited;
      this.#process = undefined;
      onEvent({ event: 'ended', role, node, pid: child.pid, code, signal });
      if (this.#stop.signal.aborted) return;
      this.deaths++;
      if (!restart) return;
      pauseMs = clock.monotonicMs() - sinceMs >= steadyMs ? pauseMinMs : pauseMs;
      await clock.sleep(pauseMs, this.#stop.signal).catch(() => {});
      pauseMs = Math.min(pauseMaxMs, pauseMs * 2);
      if (this.#stop.signal.aborted) return;
      child = await this.#spawn();
    }
  }

  /** SIGTERM, then SIGKILL. Resolves when it is gone. */
  async stop(): Promise<void> {
    const { clock } = this.#options;
    this.#stop.abort();
    this.#process?.kill('SIGTERM');
    const killer = clock.after(killAfterMs, () => this.#process?.kill('SIGKILL'));
    await this.#running?.catch(() => {});
    killer.cancel();
  }

  /** What it said last, for the message that explains its end. */
  lastWords(): string {
    try {
      const { size } = statSync(this.spec.logFile);
      const tail = readFileSync(this.spec.logFile)
        .subarray(Math.max(0, size - logTailBytes))
        .toString('utf8');
      return tail.trim().split('\n').at(-1)?.slice(0, 600) ?? '';
    } catch (error) {
      return messageOf(error);
    }
  }
}
