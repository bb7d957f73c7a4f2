// Keeps the order of a replica's operations. Appends and syncs run at once, unless an operation that must come before them
// (a barrier: cut, a change of the joining mark) is still under way; then they wait behind it in the order of the calls.
//
// Owner: one Replica. Invariants: queued operations run one at a time, in the order of their calls; an action handed to
// pass() after a barrier was queued runs after that barrier and before the next. What may fail: the operations; a failed one
// does not stop those behind it, which look at the replica's state themselves.

/** Actions that may wait behind one barrier; the engine's own credits bound what they hold. */
const WAITING_MAX = 65_536;

export class OperationQueue {
  #last: Promise<unknown> = Promise.resolve();
  /** One list per queued barrier: what was called after it. */
  readonly #barriers: (() => void)[][] = [];

  /** True while pass() would not run at once. */
  get blocked(): boolean {
    return this.#barriers.length > 0;
  }

  /** Runs `action` behind the barrier queued last. Only when blocked; false when too many wait. */
  pass(action: () => void): boolean {
    const waiting = this.#barriers.at(-1);
    if (waiting === undefined || waiting.length >= WAITING_MAX) return false;
    waiting.push(action);
    return true;
  }

  /** Runs `operation` after those queued before it. */
  run<T>(operation: () => Promise<T>): Promise<T> {
    const result = this.#last.then(operation);
    this.#last = result.catch(() => undefined);
    return result;
  }

  /** The same, and everything passed later waits for it. */
  barrier<T>(operation: () => Promise<T>): Promise<T> {
    const waiting: (() => void)[] = [];
    this.#barriers.push(waiting);
    return this.run(async () => {
      try {
        return await operation();
      } finally {
        this.#barriers.shift();
        for (const action of waiting) action();
      }
    });
  }

  /** Resolves when everything queued so far has run. */
  async drained(): Promise<void> {
    await this.#last;
  }
}
