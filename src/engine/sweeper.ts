// Takes pages of the map that nobody sees any more off the counts: what a large trim, a deleted snapshot or a clone's beginning left behind.
// They are read some at a time with pauses, since nobody waits for the space that well. Owner: one engine.

import { type Clock, type Logger, messageOf } from '../base/index.js';
import type { BlockMap } from '../hotpath/index.js';
import { RECONNECT_MS, SWEEP_PAUSE_MS } from './limits.js';

export interface SweeperParts {
  readonly map: BlockMap;
  readonly closed: () => boolean;
  /** Something was taken off: segments may have died. */
  readonly swept: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class Sweeper {
  readonly #parts: SweeperParts;
  #running = false;

  constructor(parts: SweeperParts) {
    this.#parts = parts;
  }

  /** Called whenever pages may have been given up. */
  kick(): void {
    if (this.#running || this.#parts.map.sweepsLeft === 0) return;
    this.#running = true;
    void this.#run().finally(() => {
      this.#running = false;
    });
  }

  async #run(): Promise<void> {
    const { map, closed, swept, clock, logger } = this.#parts;
    let pause = SWEEP_PAUSE_MS;
    while (map.sweepsLeft > 0 && !closed()) {
      const error = await new Promise<Error | null>((resolve) => map.sweep(resolve));
      if (error !== null && !closed()) {
        pause = Math.min(Math.max(pause * 2, RECONNECT_MS.first), SWEEP_RETRY_MS);
        logger.warn({ error: messageOf(error), left: map.sweepsLeft }, 'pages that nobody needs can not be read');
      } else pause = SWEEP_PAUSE_MS;
      await clock.sleep(pause);
    }
    if (!closed()) swept();
  }
}

/** Pages that can't be read keep their segments; they are tried again now and then, since another replica may come back. */
const SWEEP_RETRY_MS = 60_000;
