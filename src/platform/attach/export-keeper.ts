// Keeps an attached volume's export open. Purpose: after the storage daemon restarted, the engine is opened again with
// the key, for as long as it takes. Owner: the holder. Invariants: one `open` call runs at a time; it goes on until the
// bridge reports a connection, the volume turns out to be another node's, or stop(). What may fail: nothing ends it but
// those three; errors on the way are kept in `lastError`.

import { type Clock, HoldfastError, type Logger, messageOf, type VolumeId } from '../../base/index.js';
import type { ExportAddress, ExportSource } from './port.js';

export interface KeeperOptions {
  readonly source: ExportSource;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly volumeId: VolumeId;
  readonly key: Buffer | null;
  readonly readOnly: boolean;
  /** The export is at this address now (possibly the same as before). */
  readonly onOpened: (address: ExportAddress) => void;
  /** Another node took the volume. Nothing is tried any more. */
  readonly onDeposed: (error: HoldfastError) => void;
}

const delayMinMs = 100;
const delayMaxMs = 1_000;
/** While no daemon runs: users wait for the next one, and asking a unix socket costs next to nothing. */
const awayDelayMs = 100;
/** How long a bridge may take to connect to an address before the daemon is asked again. */
const settleMs = 5_000;
/** How long the end waits for an `open` that is under way. */
const stopPatienceMs = 20_000;
/** One log line in so many failed tries. */
const logEvery = 300;

/** True for the one refusal that time can't cure. */
export function isDeposed(error: unknown): error is HoldfastError {
  return error instanceof HoldfastError && error.code === 'FAILED_PRECONDITION' && error.reason === 'StaleReign';
}

export class ExportKeeper {
  readonly #options: KeeperOptions;
  readonly #stop = new AbortController();
  #connected = false;
  #running: Promise<void> | undefined;
  #settled: (() => void) | undefined;
  lastError = '';
  reconnects = 0;

  constructor(options: KeeperOptions) {
    this.#options = options;
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** Opens for the first time. Tries again within `patienceMs` while the daemon is away; rejects with its last answer. */
  async openFirst(patienceMs: number): Promise<ExportAddress> {
    const { clock } = this.#options;
    const endMs = clock.monotonicMs() + patienceMs;
    for (let delayMs = delayMinMs; ; delayMs = Math.min(delayMaxMs, delayMs * 2)) {
      try {
        return await this.open();
      } catch (error) {
        const passing = error instanceof HoldfastError && error.code === 'UNAVAILABLE';
        if (!passing || clock.monotonicMs() + delayMs >= endMs) throw error;
      }
      await clock.sleep(delayMs);
    }
  }

  /** Asks the daemon where the export is. */
  async open(): Promise<ExportAddress> {
    const { source, volumeId, key, readOnly } = this.#options;
    const address = await source.open(volumeId, key, readOnly);
    const { socketPath, sizeBytes } = address;
    if (socketPath === '' || !Number.isSafeInteger(sizeBytes) || sizeBytes <= 0 || sizeBytes % 4096 !== 0) {
      const text = `the storage daemon opened volume ${volumeId} without a usable export (${sizeBytes} bytes)`;
      throw new HoldfastError('INTERNAL', text, { reason: 'Protocol' });
    }
    return address;
  }

  /** The bridge's connection changed. */
  setConnected(connected: boolean, message: string): void {
    const before = this.#connected;
    this.#connected = connected;
    if (connected) {
      this.lastError = '';
      this.#settled?.();
      return;
    }
    this.lastError = message;
    if (before) {
      this.reconnects++;
      this.#options.logger.warn({ reason: message }, 'connection to the storage daemon lost');
      this.reopen();
    }
  }

  /** Starts looking for the export unless that is already going on. */
  reopen(): void {
    if (this.#running || this.#stop.signal.aborted) return;
    this.#running = this.#run().finally(() => {
      this.#running = undefined;
    });
  }

  /**
   * Resolves when no `open` is under way any more, so that a close after it is the last word. A daemon that does not
   * answer is left behind after a while: what it opens then, the next reign fences.
   */
  async stop(): Promise<void> {
    this.#stop.abort();
    this.#settled?.();
    const waiting = new AbortController();
    const patience = this.#options.clock.sleep(stopPatienceMs, waiting.signal).catch(() => {});
    await Promise.race([this.#running, patience]);
    waiting.abort();
  }

  async #run(): Promise<void> {
    const { clock, logger } = this.#options;
    let delayMs = delayMinMs;
    for (let tries = 1; !this.#connected && !this.#stop.signal.aborted; tries++) {
      try {
        const address = await this.open();
        if (this.#stop.signal.aborted) return;
        this.#options.onOpened(address);
        await this.#settle();
      } catch (error) {
        if (this.#stop.signal.aborted) return;
        if (isDeposed(error)) {
          this.#options.onDeposed(error);
          return;
        }
        this.lastError = messageOf(error);
        if (error instanceof HoldfastError && error.reason === 'Unreachable') delayMs = awayDelayMs;
        if (tries % logEvery === 1) logger.warn({ tries, reason: this.lastError }, 'export is not open yet');
      }
      if (this.#connected) break;
      await clock.sleep(delayMs, this.#stop.signal).catch(() => {});
      delayMs = Math.min(delayMaxMs, delayMs * 2);
    }
  }

  /** Waits until the bridge is connected, at most `settleMs`. */
  #settle(): Promise<void> {
    if (this.#connected) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(settleMs, () => done());
      const done = () => {
        timer.cancel();
        this.#settled = undefined;
        resolve();
      };
      this.#settled = done;
    });
  }
}
