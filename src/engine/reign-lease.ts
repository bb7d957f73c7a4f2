// Proof that this reign still stands, at most one lease old: every counting remote replica took a question or a frame that was
// sent within that time, and a replica takes neither once it has promised itself to a later reign. No reply leaves the
// engine without it, of a read, a write or a flush: a process that was stopped for long and goes on finds its lease over,
// asks, and hears that it was deposed before it tells its client anything. Owner: the replica set of one engine.
//
// A frame's acknowledgement confirms the reign as of when the frame was sent, so whoever writes asks nothing extra.

import { type Clock, HoldfastError } from '../base/index.js';
import type { Link } from './replica-link.js';
import type { ReplicaPort } from './replica-port.js';

/** While a member is away: until the set was settled without it, or it is back. */
const RETRY_MS = 20;

type Done = (error: Error | null) => void;

export class ReignLease {
  readonly #links: readonly Link[];
  readonly #clock: Clock;
  readonly #leaseMs: number;
  readonly #failed: (link: Link, port: ReplicaPort, error: Error) => void;
  #waiters: { readonly sinceMs: number; readonly done: Done }[] = [];
  #asking = false;
  #closed = false;

  /**
   * `leaseMs`: how long an answer is trusted, counted from when the question was sent; 0: not at all, every reply asks.
   * `failed`: a replica answered with an error or was lost over the question.
   */
  constructor(
    links: readonly Link[],
    parts: { clock: Clock; leaseMs: number; failed: (link: Link, port: ReplicaPort, error: Error) => void },
  ) {
    this.#links = links;
    this.#clock = parts.clock;
    this.#leaseMs = parts.leaseMs;
    this.#failed = parts.failed;
  }

  held(): boolean {
    return this.#alone() || this.#confirmedSince(this.#clock.monotonicMs() - this.#leaseMs);
  }

  /** The only replica is here, as often: then not even the clock is looked at. */
  #alone(): boolean {
    for (const { counted, port } of this.#links) if (counted && !port?.local) return false;
    return true;
  }

  /**
   * Calls back when the reign is known to have stood within the lease, or, without one, after this call; with an error when the
   * engine ends. An answer that came long ago, and is looked at only now, counts for nothing with a lease.
   */
  ask(done: Done): void {
    if (this.#closed) return done(closedError());
    if (this.held()) return done(null);
    this.#waiters.push({ sinceMs: this.#clock.monotonicMs(), done });
    this.#renew();
  }

  /** Renews in the background when half of the lease is gone, so that steady readers never wait. */
  keep(): void {
    if (this.#leaseMs > 0 && !this.#confirmedSince(this.#clock.monotonicMs() - this.#leaseMs / 2)) this.#renew();
  }

  /** Frames through `seq` are about to be sent to the replica. */
  sends(link: Link, seq: number): void {
    if (link.questionSeq !== 0) return;
    link.questionSeq = seq;
    link.questionMs = this.#clock.monotonicMs();
  }

  /** The replica has acknowledged frames through `seq`. */
  acknowledged(link: Link, seq: number): void {
    if (link.questionSeq === 0 || seq < link.questionSeq) return;
    link.questionSeq = 0;
    if (link.questionMs > link.confirmedMs) link.confirmedMs = link.questionMs;
  }

  close(): void {
    this.#closed = true;
    for (const { done } of this.#waiters.splice(0)) done(closedError());
  }

  #confirmedSince(sinceMs: number): boolean {
    for (const { counted, port, confirmedMs } of this.#links) {
      if (!counted || port?.local) continue;
      if (port === undefined || confirmedMs < sinceMs) return false;
    }
    return true;
  }

  #renew(): void {
    if (this.#asking || this.#closed) return;
    this.#asking = true;
    let open = 1;
    let whole = true;
    const finished = () => {
      if (--open > 0) return;
      this.#asking = false;
      this.#answerWaiters();
      if (this.#waiters.length === 0) return;
      // Whoever asked while the question was under way is served by the next one.
      if (whole) this.#renew();
      else this.#clock.after(RETRY_MS, () => this.#renew());
    };
    for (const link of this.#links) {
      const { port, counted } = link;
      if (!counted || port?.local) continue;
      if (port === undefined) {
        whole = false;
        continue;
      }
      open++;
      const sentMs = this.#clock.monotonicMs();
      port.confirm((error) => {
        if (error !== null) whole = false;
        if (link.port === port) {
          if (error === null) link.confirmedMs = Math.max(link.confirmedMs, sentMs);
          else this.#failed(link, port, error);
        }
        finished();
      });
    }
    finished();
  }

  #answerWaiters(): void {
    const held = this.held();
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) {
      if (held || (this.#leaseMs === 0 && this.#confirmedSince(waiter.sinceMs))) waiter.done(null);
      else this.#waiters.push(waiter);
    }
  }
}

function closedError(): HoldfastError {
  return new HoldfastError('UNAVAILABLE', 'the volume is closed', { reason: 'Closed' });
}
