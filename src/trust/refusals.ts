// Log lines about peers that were refused. Whoever can reach a port can make any number of them, so that few are written.

import type { Clock, Logger } from '../base/index.js';

const LINES_MAX = 20;
const PERIOD_MS = 60_000;

export class Refusals {
  readonly #clock: Clock;
  readonly #logger: Logger;
  #sinceMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #unsaid = 0;

  constructor(clock: Clock, logger: Logger) {
    this.#clock = clock;
    this.#logger = logger;
  }

  note(peer: string, why: string): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#sinceMs >= PERIOD_MS) {
      this.#sinceMs = nowMs;
      this.#lines = 0;
    }
    if (++this.#lines > LINES_MAX) {
      this.#unsaid++;
      return;
    }
    const unsaid = this.#unsaid > 0 ? { unsaid: this.#unsaid } : {};
    this.#unsaid = 0;
    this.#logger.warn({ peer, error: why, ...unsaid }, 'a peer was refused');
  }
}
