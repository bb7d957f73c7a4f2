// Keeps one bridge process running on the FUSE connection that the holder keeps open. Purpose: a bridge that crashes is
// replaced, and its successor asks the kernel for the requests it left unanswered, so that users see a pause. Owner: the
// holder. Invariants: at most one bridge has the descriptor at a time (the dead one is reaped before the next starts); a
// new bridge is told everything the old one had been told. What may fail: on a kernel before 6.9 nothing can be asked
// for again; then `broken` is called and the connection has to be given up.

import { type Clock, type Logger, messageOf, type TimerHandle } from '../../base/index.js';
import type { Child, Exec } from '../exec.js';
import type { Endpoint, FromBridge, ToBridge } from './bridge-messages.js';

export interface BridgeCommand {
  readonly program: string;
  readonly args: readonly string[];
}

export interface SupervisorOptions {
  readonly exec: Exec;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly command: BridgeCommand;
  readonly fuseFd: number;
  /** Where to serve from and how much, when the connection is mounted: the first bridge is started before that, and waits for it. */
  readonly ready: Promise<{ readonly endpoint: Endpoint; readonly sizeBytes: number }>;
  /** See bridge-messages.ts. */
  readonly clientId: string;
  readonly readOnly: boolean;
  /** The NBD connection came up or went away (also when the bridge that had it died). */
  readonly onConnection: (connected: boolean, message: string) => void;
  /** A bridge died and its requests can't be recovered. */
  readonly onBroken: (message: string) => void;
}

/** Threads of a bridge's pool: its FUSE readers block one each, the rest is for what Node itself needs. */
const bridgeThreads = 12;
const respawnDelayMinMs = 20;
const respawnDelayMaxMs = 1_000;
/** A bridge that lived this long ends a series of crashes. */
const healthyMs = 10_000;
const reportTimeoutMs = 1_000;
/** A bridge that leaves this many questions in a row unanswered is stuck. Counted, so that a pause of ours counts once. */
const pingMs = 10_000;
const missedMax = 3;

export class BridgeSupervisor {
  readonly #options: SupervisorOptions;
  #endpoint: Endpoint | undefined;
  #sizeBytes: number | undefined;
  #failing = false;
  #canResend: boolean | undefined;
  #stopped = false;
  #child: Child | undefined;
  #spawned = 0;
  #attempts = 0;
  #delayMs = respawnDelayMinMs;
  #retry: TimerHandle | undefined;
  #watch: TimerHandle | undefined;
  #missed = 0;
  #starting: Promise<void> = Promise.resolve();
  #reportWaiters: ((counters: Readonly<Record<string, number>>) => void)[] = [];

  constructor(options: SupervisorOptions) {
    this.#options = options;
    // A program that can't be started is the error to tell then.
    options.ready.catch(() => {});
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  get respawns(): number {
    return Math.max(0, this.#spawned - 1);
  }

  /** Starts the first bridge and tells it what to serve. Rejects when the program can't be started at all, or with `ready`. */
  start(): Promise<void> {
    return this.#spawn();
  }

  setEndpoint(endpoint: Endpoint): void {
    this.#endpoint = endpoint;
    this.#tell({ type: 'endpoint', endpoint });
  }

  setSize(sizeBytes: number): void {
    this.#sizeBytes = sizeBytes;
    this.#tell({ type: 'size', sizeBytes });
  }

  fail(): void {
    this.#failing = true;
    this.#tell({ type: 'fail' });
  }

  /** Counters of the running bridge; empty when there is none or it does not answer within a second. */
  report(): Promise<Readonly<Record<string, number>>> {
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(reportTimeoutMs, () => done({}));
      const done = (counters: Readonly<Record<string, number>>) => {
        timer.cancel();
        this.#reportWaiters = this.#reportWaiters.filter((waiter) => waiter !== done);
        resolve(counters);
      };
      this.#reportWaiters.push(done);
      if (!this.#tell({ type: 'report' })) done({});
    });
  }

  /** From now on the bridge may end: it is not replaced. */
  retire(): void {
    this.#stopped = true;
    this.#retry?.cancel();
    this.#watch?.cancel();
  }

  /** Ends the bridge for good; resolves when it was reaped. */
  async stop(): Promise<void> {
    this.retire();
    await this.#starting.catch(() => {});
    const child = this.#child;
    if (!child) return;
    child.kill('SIGKILL');
    await child.exited;
  }

  #tell(message: ToBridge): boolean {
    return this.#child?.send(message) ?? false;
  }

  #spawn(): Promise<void> {
    this.#starting = this.#spawnOne();
    return this.#starting;
  }

  async #spawnOne(): Promise<void> {
    const { exec, clock, command, fuseFd, clientId, readOnly } = this.#options;
    const startedMs = clock.monotonicMs();
    const serial = ++this.#attempts;
    const child = await exec.spawnChild(command.program, command.args, {
      inheritFd: fuseFd,
      env: { UV_THREADPOOL_SIZE: String(bridgeThreads) },
      // The last words of a dead bridge may come after its successor was started.
      onMessage: (message) => {
        if (serial === this.#attempts) this.#heard(message as FromBridge);
      },
    });
    this.#child = child;
    const takeOver = this.#spawned > 0;
    this.#spawned++;
    void child.exited.then(({ code, signal }) => this.#died(startedMs, signal ?? `code ${code}`));
    const { endpoint, sizeBytes } = await this.#options.ready;
    if (this.#child !== child) return;
    this.#tell({
      type: 'start',
      endpoint: this.#endpoint ?? endpoint,
      clientId,
      sizeBytes: this.#sizeBytes ?? sizeBytes,
      readOnly,
      takeOver,
      failing: this.#failing,
    });
    if (this.#stopped) child.kill('SIGKILL');
    else this.#watchOver(child);
  }

  /** A bridge that hangs without dying would hang its volume: it is ended, and its successor takes over. */
  #watchOver(child: Child): void {
    this.#missed = 0;
    const look = () => {
      if (this.#child !== child || this.#stopped) return;
      if (this.#missed >= missedMax && this.#canResend !== false) {
        this.#options.logger.error({ pid: child.pid }, 'bridge does not answer and is killed');
        child.kill('SIGKILL');
        return;
      }
      this.#missed++;
      this.#tell({ type: 'report' });
      this.#watch = this.#options.clock.after(pingMs, look);
    };
    this.#watch = this.#options.clock.after(pingMs, look);
  }

  #heard(message: FromBridge): void {
    this.#missed = 0;
    switch (message.type) {
      case 'negotiated':
        this.#canResend = message.canResend;
        return;
      case 'connection':
        return this.#options.onConnection(message.connected, message.message);
      case 'report':
        for (const waiter of [...this.#reportWaiters]) waiter(message.counters);
        return;
      case 'ended':
        if (message.message !== null) this.#options.logger.error({ reason: message.message }, 'bridge gave up');
        else if (!this.#stopped) this.#giveUp('the FUSE file was unmounted under the device');
        return;
    }
  }

  #died(startedMs: number, how: string): void {
    this.#child = undefined;
    this.#watch?.cancel();
    if (this.#stopped) return;
    const { clock, logger } = this.#options;
    logger.warn({ how }, 'bridge died');
    this.#options.onConnection(false, `the bridge died (${how})`);
    if (this.#canResend === false) {
      this.#giveUp('the bridge died and this kernel (before 6.9) cannot hand its requests to a successor');
      return;
    }
    if (clock.monotonicMs() - startedMs >= healthyMs) this.#delayMs = respawnDelayMinMs;
    const delayMs = this.#delayMs;
    this.#delayMs = Math.min(respawnDelayMaxMs, delayMs * 2);
    this.#again(delayMs);
  }

  #giveUp(message: string): void {
    this.retire();
    this.#options.onBroken(message);
  }

  #again(delayMs: number): void {
    this.#retry = this.#options.clock.after(delayMs, () => {
      if (this.#stopped) return;
      this.#spawn().catch((error) => {
        // Out of memory or processes: nothing else will serve these requests, so go on trying.
        this.#options.logger.error({ reason: messageOf(error) }, 'bridge cannot be started');
        this.#again(respawnDelayMaxMs);
      });
    });
  }
}
