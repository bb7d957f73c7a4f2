// How much may still be appended in a pool: what the filesystem says is free, less a reserve that keeps deletion, checkpoints
// and superblocks possible on a full disk. Asked after every append, so the filesystem is asked now and then only and
// appended bytes are subtracted in between.

import { type Clock, type Logger, MiB, messageOf } from '../base/index.js';
import type { Pool } from '../segment/index.js';

/** Others (deletions, other programs) change the free space too. */
const STALE_AFTER_MS = 500;
/** A share of the pool, within bounds: several volumes may have their in-flight bytes on the way when it runs full. */
const RESERVE = { share: 1 / 32, least: 64 * MiB, leastShare: 1 / 16, most: 512 * MiB };
/** With less than this nothing is taken that is not needed yet. */
const ROOMY = 128 * MiB;

export class SpaceGauge {
  readonly #pool: Pool;
  readonly #clock: Clock;
  readonly #logger: Logger;
  #free = 0;
  #readAtMs = Number.NEGATIVE_INFINITY;

  constructor(pool: Pool, clock: Clock, logger: Logger) {
    this.#pool = pool;
    this.#clock = clock;
    this.#logger = logger;
  }

  taken(bytes: number): void {
    this.#free -= bytes;
  }
  /** Files are gone: asks anew. Who waits for that room, or cleans because there is none, is not to wait for the next time. */
  given(): void {
    this.#readAtMs = Number.NEGATIVE_INFINITY;
  }

  /** Bytes, never below 0; 0 when the filesystem can't be asked. */
  freeBytes(): number {
    const now = this.#clock.monotonicMs();
    if (now - this.#readAtMs > STALE_AFTER_MS) {
      this.#readAtMs = now;
      this.#free = this.#read();
    }
    return Math.max(0, this.#free);
  }

  /** Whether the pool can spare what makes things faster only. */
  hasRoom(): boolean {
    return this.freeBytes() > ROOMY;
  }

  #read(): number {
    try {
      const { capacityBytes, freeBytes } = this.#pool.space();
      const least = Math.min(RESERVE.least, capacityBytes * RESERVE.leastShare);
      return freeBytes - Math.floor(Math.min(RESERVE.most, Math.max(least, capacityBytes * RESERVE.share)));
    } catch (error) {
      this.#logger.error({ pool: this.#pool.path, error: messageOf(error) }, 'free space is unknown');
      return 0;
    }
  }
}
