// One process of a cluster under faults: started, killed, stopped, started again as a service manager would, or kept down.

import { realClock } from '../../src/base/index.js';
import { type ServiceProcess, spawnService } from '../../src/platform/index.js';

const restartAfterMs = 200;
const endWithinMs = 15_000;

export interface ServiceSpec {
  /** controller, storage or node. */
  readonly role: string;
  /** Empty for the controller. */
  readonly node: string;
  readonly command: readonly string[];
  readonly logFile: string;
}

export class Service {
  readonly spec: ServiceSpec;
  #process: ServiceProcess | undefined;
  #watching: Promise<void> = Promise.resolve();
  #wanted = false;
  #starts = 0;
  #over = false;

  constructor(spec: ServiceSpec) {
    this.spec = spec;
  }

  get name(): string {
    return `${this.spec.role} ${this.spec.node}`.trim();
  }

  /** 0 while it does not run. */
  get pid(): number {
    return this.#process?.pid ?? 0;
  }

  /** How often it was started. */
  get starts(): number {
    return this.#starts;
  }

  /** Starts it, and again each time it ends by itself. */
  async start(): Promise<void> {
    if (this.#wanted || this.#over) return;
    await this.#watching;
    if (this.#over) return;
    this.#wanted = true;
    await this.#spawn();
    this.#watching = this.#watch();
  }

  async #spawn(): Promise<void> {
    const [program, ...args] = this.spec.command;
    const env = { HOLDFAST_END_WITH_STDIN: '1', UV_THREADPOOL_SIZE: '16' };
    this.#process = await spawnService(program!, args, { logFile: this.spec.logFile, env });
    this.#starts++;
  }

  async #watch(): Promise<void> {
    while (this.#process) {
      await this.#process.exited;
      this.#process = undefined;
      if (!this.#wanted) return;
      await realClock.sleep(restartAfterMs);
      if (this.#wanted) await this.#spawn();
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#process?.kill(signal);
  }

  /** Ended, and not started again before start(). Resolves when it is gone. */
  async down(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.#wanted = false;
    this.signal(signal);
    const killer = realClock.after(endWithinMs, () => this.signal('SIGKILL'));
    await this.#watching;
    killer.cancel();
  }

  /** Ended in good order, and for good: a fault that is still under way does not bring it back. */
  async end(): Promise<void> {
    this.#over = true;
    this.signal('SIGCONT');
    await this.down('SIGTERM');
  }
}
