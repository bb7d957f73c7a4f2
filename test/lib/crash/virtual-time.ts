// Virtual time and seeded chance, so that a run of many machines in one process takes no real time and repeats exactly.

import type { Clock, Random, TimerHandle } from '../../../src/base/index.js';
import { uuidFromRandom } from '../../../src/base/index.js';

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly fn: () => void;
  cancelled: boolean;
}

/** A binary heap of timers, earliest first, equal ones in the order they were set. */
class TimerHeap {
  readonly #timers: Timer[] = [];

  push(timer: Timer): void {
    const timers = this.#timers;
    let i = timers.push(timer) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!before(timer, timers[parent]!)) break;
      timers[i] = timers[parent]!;
      i = parent;
    }
    timers[i] = timer;
  }

  pop(): Timer | undefined {
    const timers = this.#timers;
    const first = timers[0];
    const last = timers.pop();
    if (first === undefined || last === undefined || timers.length === 0) return first;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= timers.length) break;
      if (child + 1 < timers.length && before(timers[child + 1]!, timers[child]!)) child++;
      if (!before(timers[child]!, last)) break;
      timers[i] = timers[child]!;
      i = child;
    }
    timers[i] = last;
    return first;
  }
}

function before(a: Timer, b: Timer): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** The time of all machines of one world. */
export class VirtualTime {
  now = 0;
  #order = 0;
  readonly #timers = new TimerHeap();

  after(delayMs: number, fn: () => void): TimerHandle {
    const timer: Timer = { at: this.now + Math.max(0, delayMs), order: this.#order++, fn, cancelled: false };
    this.#timers.push(timer);
    return {
      cancel: () => {
        timer.cancelled = true;
      },
    };
  }

  /** Lets everything that waits for nothing but promises run, then the next timer. False when there is none. */
  async step(): Promise<boolean> {
    await new Promise<void>((resolve) => setImmediate(resolve));
    for (;;) {
      const timer = this.#timers.pop();
      if (timer === undefined) return false;
      if (timer.cancelled) continue;
      this.now = timer.at;
      timer.fn();
      return true;
    }
  }

  /** Runs until the promise has settled. Throws when nothing is left to happen, or `limitMs` of virtual time have passed. */
  async until<T>(promise: Promise<T>, what: string, limitMs = 600_000): Promise<T> {
    let settled = false;
    const mark = () => {
      settled = true;
    };
    promise.then(mark, mark);
    const deadline = this.now + limitMs;
    for (;;) {
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (settled) return await promise;
      if (this.now > deadline) throw new Error(`hangs: ${what} took longer than ${limitMs} ms of virtual time`);
      if (!(await this.step()) && !settled) throw new Error(`hangs: ${what} waits and nothing is left to happen`);
    }
  }
}

/** The clock of one process: it stops when the process is killed. */
export class ProcessClock implements Clock {
  readonly #time: VirtualTime;
  readonly #bootMs: number;
  #killed = false;

  constructor(time: VirtualTime, bootMs: number) {
    this.#time = time;
    this.#bootMs = bootMs;
  }
  kill(): void {
    this.#killed = true;
  }
  monotonicMs(): number {
    return this.#time.now - this.#bootMs;
  }
  wallMs(): number {
    return 1_700_000_000_000 + Math.floor(this.#time.now);
  }
  after(delayMs: number, fn: () => void): TimerHandle {
    return this.#time.after(delayMs, () => {
      if (!this.#killed) fn();
    });
  }
  sleep(delayMs: number): Promise<void> {
    return new Promise((resolve) => this.after(delayMs, resolve));
  }
}

/** mulberry32, with what the ports ask of it. */
export class Chance implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  /** In 0..below-1. */
  below(below: number): number {
    return Math.floor(this.next() * below);
  }
  /** In from..to, both included. */
  between(from: number, to: number): number {
    return from + this.below(to - from + 1);
  }
  hit(probability: number): boolean {
    return this.next() < probability;
  }
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
  bytes(length: number): Buffer {
    const bytes = Buffer.alloc(length);
    for (let i = 0; i < length; i++) bytes[i] = this.below(256);
    return bytes;
  }
  uuid(): string {
    return uuidFromRandom(this.bytes(16));
  }
}
