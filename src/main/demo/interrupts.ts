// Why the demo ends early: the user's signals, a part that died, a mistake nobody caught. The first reason lets it clean up in
// order; a second signal cuts that short, a third ends the process.

import { type Clock, HoldfastError, messageOf } from '../../base/index.js';

export class Interrupted extends HoldfastError {
  readonly exitCode: number;

  constructor(name: string, exitCode: number) {
    super('CANCELLED', `interrupted by ${name}`);
    this.exitCode = exitCode;
  }
}

const signals: Readonly<Record<'SIGINT' | 'SIGTERM' | 'SIGHUP', number>> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

/** One Ctrl-C may arrive twice: from the terminal, and from an npm that passes it on. */
const sameKeyMs = 1_000;

export class Interrupts {
  readonly #clock: Clock;
  readonly #stop = new AbortController();
  readonly #force = new AbortController();
  readonly #onFirst: (reason: string) => void;
  readonly #listeners: [string, (...args: unknown[]) => void][] = [];

  #lastMs = Number.NEGATIVE_INFINITY;

  /** `onFirst` is told of a signal as soon as it comes. */
  constructor(clock: Clock, onFirst: (reason: string) => void) {
    this.#clock = clock;
    this.#onFirst = onFirst;
    for (const [name, exitCode] of Object.entries(signals)) this.#listen(name, () => this.#signalled(name, exitCode));
    for (const event of ['uncaughtException', 'unhandledRejection']) this.#listen(event, (error) => this.end(error));
  }

  /** Aborts with the reason why the story can't go on. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Aborts when cleaning up must not take its time. */
  get force(): AbortSignal {
    return this.#force.signal;
  }

  end(error: unknown): void {
    this.#stop.abort(error instanceof Error ? error : new HoldfastError('INTERNAL', messageOf(error)));
  }

  dispose(): void {
    for (const [event, listener] of this.#listeners) process.removeListener(event, listener);
  }

  #listen(event: string, listener: (...args: unknown[]) => void): void {
    this.#listeners.push([event, listener]);
    process.on(event, listener);
  }

  #signalled(name: string, exitCode: number): void {
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#lastMs < sameKeyMs) return;
    this.#lastMs = nowMs;
    if (this.#force.signal.aborted) process.exit(exitCode);
    if (this.#stop.signal.aborted) return this.#force.abort(new Interrupted(name, exitCode));
    this.#onFirst(name);
    this.#stop.abort(new Interrupted(name, exitCode));
  }
}
