// One process of the simulated cluster and its clock. Everything that happens in it begins with an event that came through
// run(): so it can be stopped and continued, and once it is dead nothing of it happens any more.

import type { Clock, TimerHandle } from '../../src/base/index.js';
import type { Chance, VirtualTime } from '../lib/crash/virtual-time.js';

interface Waiting {
  readonly timer: boolean;
  readonly fn: () => void;
}

export class SimProcess implements Clock {
  readonly name: string;
  state: 'running' | 'paused' | 'dead' = 'running';
  readonly #time: VirtualTime;
  /** Its clock runs so many times as fast as the world's. */
  readonly #rate: number;
  readonly #bootMs: number;
  #backlog: Waiting[] = [];

  constructor(time: VirtualTime, name: string, rate = 1) {
    this.#time = time;
    this.name = name;
    this.#rate = rate;
    this.#bootMs = time.now - 1_000;
  }

  get dead(): boolean {
    return this.state === 'dead';
  }

  monotonicMs(): number {
    return (this.#time.now - this.#bootMs) * this.#rate;
  }
  wallMs(): number {
    return 1_700_000_000_000 + Math.floor(this.#time.now);
  }
  after(delayMs: number, fn: () => void): TimerHandle {
    let cancelled = false;
    const timer = this.#time.after(delayMs / this.#rate, () =>
      this.#event(true, () => {
        if (!cancelled) fn();
      }),
    );
    return {
      cancel: () => {
        cancelled = true;
        timer.cancel();
      },
    };
  }
  sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const timer = this.after(delayMs, () => {
        signal?.removeEventListener('abort', onAbort);
        resolve();
      });
      const onAbort = () => {
        timer.cancel();
        reject(signal?.reason);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** Something reaches the process from outside. */
  run(fn: () => void): void {
    this.#event(false, fn);
  }

  #event(timer: boolean, fn: () => void): void {
    if (this.state === 'dead') return;
    if (this.state === 'paused' || this.#backlog.length > 0) this.#backlog.push({ timer, fn });
    else fn();
  }

  /** SIGSTOP. Its clock goes on. */
  pause(): void {
    if (this.state === 'running') this.state = 'paused';
  }

  /** SIGCONT. What came meanwhile is handled one by one; an event loop looks at its timers first, or in the middle. */
  resume(chance: Chance): void {
    if (this.state !== 'paused') return;
    this.state = 'running';
    if (chance.hit(0.5))
      this.#backlog = [...this.#backlog.filter((one) => one.timer), ...this.#backlog.filter((one) => !one.timer)];
    if (this.#backlog.length > 0) this.#time.after(0, () => this.#next());
  }

  #next(): void {
    if (this.state !== 'running') return;
    // It stays in the list while it runs, so that nothing overtakes those behind it.
    this.#backlog[0]?.fn();
    this.#backlog.shift();
    if (this.#backlog.length > 0) this.#time.after(0, () => this.#next());
  }

  kill(): void {
    this.state = 'dead';
    this.#backlog = [];
  }
}
