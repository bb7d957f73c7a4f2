// Keeps the controller told about this node: registers, then sends heartbeats, for as long as the daemon lives. A controller
// that is away costs nothing but placement (attached volumes go on), so it is tried for ever with a bounded backoff.

import { type Clock, type Logger, messageOf } from '../base/index.js';
import type { Client, holdfast } from '../rpc/index.js';

export type NodeClient = Pick<Client<holdfast.NodeDefinition, holdfast.NodeHandlers>, 'Register' | 'Heartbeat'>;

export interface RegistrationOptions {
  readonly client: NodeClient;
  /** The node as it is now; asked before each message. */
  readonly describe: () => Promise<holdfast.NodeDescription>;
  /** Told with each answer which version the metadata store has. */
  readonly storeVersion: (version: number) => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

const callTimeoutMs = 10_000;
const backoffMinMs = 100;
const backoffMaxMs = 5_000;
const intervalMinMs = 500;
const intervalMaxMs = 60_000;
/** One log line in so many failures. */
const logEvery = 30;

export class Registration {
  readonly #options: RegistrationOptions;
  readonly #stop = new AbortController();
  #wake = new AbortController();
  #registered = false;
  #running: Promise<void> | null = null;

  constructor(options: RegistrationOptions) {
    this.#options = options;
  }

  get registered(): boolean {
    return this.#registered;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Something changed that the controller should know before the next heartbeat is due. */
  announce(): void {
    this.#wake.abort();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#wake.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    const { logger } = this.#options;
    let intervalMs = intervalMinMs;
    let failures = 0;
    while (!this.#stop.signal.aborted) {
      try {
        const node = await this.#options.describe();
        if (this.#registered) {
          this.#registered = await this.#heartbeat(node);
          if (!this.#registered) continue;
        } else {
          intervalMs = await this.#register(node);
          this.#registered = true;
          logger.info({ intervalMs }, 'registered at the controller');
        }
        failures = 0;
        await this.#sleep(intervalMs);
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (failures % logEvery === 0)
          logger.warn({ failures, error: messageOf(error) }, 'the controller is not reachable');
        failures++;
        await this.#sleep(Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(failures, 10)));
      }
    }
  }

  async #register(node: holdfast.NodeDescription): Promise<number> {
    const answer = await this.#options.client.Register({ node }, this.#call());
    this.#options.storeVersion(answer.store_version);
    return Math.min(intervalMaxMs, Math.max(intervalMinMs, answer.heartbeat_interval_ms));
  }

  async #heartbeat(node: holdfast.NodeDescription): Promise<boolean> {
    const answer = await this.#options.client.Heartbeat({ node }, this.#call());
    this.#options.storeVersion(answer.store_version);
    return answer.known;
  }

  #call() {
    return { deadlineMs: callTimeoutMs, signal: this.#stop.signal };
  }

  async #sleep(delayMs: number): Promise<void> {
    await this.#options.clock.sleep(delayMs, this.#wake.signal).catch(() => {});
    if (this.#wake.signal.aborted && !this.#stop.signal.aborted) this.#wake = new AbortController();
  }
}
