// One operation at a time per name. CSI callers repeat themselves while the first call still runs; the second gets ABORTED,
// as the CSI specification asks, with what runs and since when. Nobody waits here, so nothing can pile up or deadlock.

import { type Clock, HoldfastError, printable } from '../base/index.js';

interface Held {
  readonly operation: string;
  readonly sinceMs: number;
}

export class KeyedLocks {
  readonly #clock: Clock;
  readonly #held = new Map<string, Held>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Runs `work` while holding all of `names` ("volume pvc-1", as they shall read in the message). Throws ABORTED, reason
   * Busy, without running it when one of them is held.
   */
  async run<T>(operation: string, names: string | readonly string[], work: () => Promise<T>): Promise<T> {
    const wanted = new Set(typeof names === 'string' ? [names] : names);
    for (const name of wanted) {
      const held = this.#held.get(name);
      if (held !== undefined) throw this.#busy(name, held);
    }
    const mine: Held = { operation, sinceMs: this.#clock.monotonicMs() };
    for (const name of wanted) this.#held.set(name, mine);
    try {
      return await work();
    } finally {
      for (const name of wanted) this.#held.delete(name);
    }
  }

  /** How many names are held. */
  get size(): number {
    return this.#held.size;
  }

  #busy(name: string, held: Held): HoldfastError {
    const seconds = ((this.#clock.monotonicMs() - held.sinceMs) / 1000).toFixed(1);
    const text = printable(name).slice(1, -1);
    return new HoldfastError('ABORTED', `${held.operation} for ${text} has been running for ${seconds} s; retry`, {
      reason: 'Busy',
    });
  }
}
