// One thing after another for each volume. A caller waits for those before it; the wait is bounded by their number.

import { HoldfastError } from './errors.js';

/** Callers that wait for one volume; each is a repeat of some client, so a few would do. */
const waitingMax = 128;

interface Queue {
  tail: Promise<unknown>;
  length: number;
}

export class SerialQueues {
  readonly #queues = new Map<string, Queue>();

  /** Runs `work` after everything queued under `name` before it has ended, well or not. */
  run<T>(name: string, work: () => Promise<T>): Promise<T> {
    const queue = this.#queues.get(name) ?? { tail: Promise.resolve(), length: 0 };
    if (queue.length >= waitingMax) {
      return Promise.reject(
        new HoldfastError('ABORTED', `${waitingMax} calls wait for ${name}: try again later`, { reason: 'Busy' }),
      );
    }
    queue.length++;
    this.#queues.set(name, queue);
    const mine = queue.tail.then(work);
    const done = () => {
      queue.length--;
      if (queue.length === 0) this.#queues.delete(name);
    };
    queue.tail = mine.then(done, done);
    return mine;
  }
}
