// Limits on operations and bytes a second: token buckets in front of the engine, one queue for reads and one for writes.
// Flushes pass behind the writes that came before them only if those were answered, so they need no queue.

import type { Clock, TimerHandle } from '../base/index.js';
import type { BlockRequest } from './block-device.js';
import type { QosLimits } from './engine-api.js';

/** A bucket may be this far ahead: short bursts pass, a sustained load is held at the limit. */
const BURST_MS = 100;

class Bucket {
  perSecond = 0;
  /** Time (monotonic ms) at which everything admitted so far is paid for. */
  #paidUntil = 0;

  /** Milliseconds until one more may pass; 0 = now. */
  wait(now: number): number {
    return this.perSecond === 0 ? 0 : Math.max(0, this.#paidUntil - BURST_MS - now);
  }
  take(amount: number, now: number): void {
    if (this.perSecond === 0) return;
    this.#paidUntil = Math.max(this.#paidUntil, now) + (amount * 1000) / this.perSecond;
  }
}

class Lane {
  readonly operations = new Bucket();
  readonly bytes = new Bucket();
  readonly queue: BlockRequest[] = [];
  timer: TimerHandle | undefined;

  get unlimited(): boolean {
    return this.operations.perSecond === 0 && this.bytes.perSecond === 0;
  }
}

export class QosGate {
  readonly #clock: Clock;
  readonly #pass: (requests: readonly BlockRequest[]) => void;
  readonly #reads = new Lane();
  readonly #writes = new Lane();

  /** `pass` receives what may go on, later, when it had to wait. */
  constructor(clock: Clock, limits: QosLimits, pass: (requests: readonly BlockRequest[]) => void) {
    this.#clock = clock;
    this.#pass = pass;
    this.set(limits);
  }

  set(limits: QosLimits): void {
    this.#reads.operations.perSecond = limits.maxReadIops;
    this.#reads.bytes.perSecond = limits.maxReadBps;
    this.#writes.operations.perSecond = limits.maxWriteIops;
    this.#writes.bytes.perSecond = limits.maxWriteBps;
    this.#drain(this.#reads);
    this.#drain(this.#writes);
  }

  /** True when no limit is set and nothing waits: the caller may skip admit(). */
  get open(): boolean {
    return (
      this.#reads.unlimited &&
      this.#writes.unlimited &&
      this.#reads.queue.length === 0 &&
      this.#writes.queue.length === 0
    );
  }

  /** What of the batch may go on now; the rest is passed later. */
  admit(requests: readonly BlockRequest[]): BlockRequest[] {
    const now: BlockRequest[] = [];
    for (const request of requests) {
      if (request.op === 'flush') {
        now.push(request);
        continue;
      }
      const lane = request.op === 'read' ? this.#reads : this.#writes;
      if (lane.queue.length > 0 || !this.#take(lane, request)) lane.queue.push(request);
      else now.push(request);
    }
    this.#arm(this.#reads);
    this.#arm(this.#writes);
    return now;
  }

  /** Everything that waits, handed back (the engine closes). */
  drop(): BlockRequest[] {
    const all = [...this.#reads.queue.splice(0), ...this.#writes.queue.splice(0)];
    this.#reads.timer?.cancel();
    this.#writes.timer?.cancel();
    return all;
  }

  #take(lane: Lane, request: BlockRequest): boolean {
    const now = this.#clock.monotonicMs();
    if (lane.operations.wait(now) > 0 || lane.bytes.wait(now) > 0) return false;
    lane.operations.take(1, now);
    // A discard moves no data, whatever its length.
    lane.bytes.take(request.op === 'trim' || request.op === 'zero' ? 0 : request.length, now);
    return true;
  }

  #arm(lane: Lane): void {
    if (lane.queue.length === 0 || lane.timer !== undefined) return;
    const now = this.#clock.monotonicMs();
    const wait = Math.max(1, lane.operations.wait(now), lane.bytes.wait(now));
    lane.timer = this.#clock.after(wait, () => {
      lane.timer = undefined;
      this.#drain(lane);
    });
  }

  #drain(lane: Lane): void {
    const ready: BlockRequest[] = [];
    while (lane.queue.length > 0 && this.#take(lane, lane.queue[0]!)) ready.push(lane.queue.shift()!);
    this.#arm(lane);
    if (ready.length > 0) this.#pass(ready);
  }
}
