// Notices a server that stopped answering. A check runs every second while something is outstanding, and no timer exists
// otherwise; appends and acknowledgements themselves cost nothing here, the checks look at how far they came. Given up is a server that left a request unanswered past its deadline, acknowledged nothing of what was appended
// for the timeout, or sent nothing at all on a connection since it was asked for a sign of life that long ago.

import type { Clock, TimerHandle } from '../base/index.js';
import type { WireConnection } from './connection.js';
import { PING_EVERY_MS } from './limits.js';
import type { Channel } from './message.js';
import type { PendingRequests } from './pending-requests.js';

export interface PeerWatchParts {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly pending: PendingRequests;
  readonly connections: ReadonlyMap<Channel, WireConnection>;
  /** The last seq appended, and the last one acknowledged. */
  appends(): { readonly sent: number; readonly acked: number };
  /** Told at most once in a check, what the server did ("is silent on ..."). */
  giveUp(what: string): void;
}

export class PeerWatch {
  readonly #parts: PeerWatchParts;
  #timer: TimerHandle | null = null;
  #dueMs = 0;
  /** At the last check: how far acknowledgements had come, and whether something waited for one. */
  #ackedSeq = 0;
  #waited = false;
  /** When they were last seen to have moved, or something to have begun to wait. */
  #progressMs = 0;
  #stopped = false;

  constructor(parts: PeerWatchParts) {
    this.#parts = parts;
  }

  /** Something is outstanding. */
  start(): void {
    if (this.#timer !== null || this.#stopped) return;
    const now = this.#parts.clock.monotonicMs();
    const { sent, acked } = this.#parts.appends();
    this.#ackedSeq = acked;
    this.#waited = acked < sent;
    this.#progressMs = now;
    this.#arm(now);
  }

  #arm(now: number): void {
    this.#dueMs = now + PING_EVERY_MS;
    this.#timer = this.#parts.clock.after(PING_EVERY_MS, () => {
      this.#timer = null;
      this.#check();
    });
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = null;
  }

  #check(): void {
    const { clock, pending, connections } = this.#parts;
    const { sent, acked } = this.#parts.appends();
    const appends = acked < sent;
    if (!appends && pending.size === 0) return;
    const now = clock.monotonicMs();
    if (!this.#waited || acked !== this.#ackedSeq) this.#progressMs = now;
    this.#ackedSeq = acked;
    this.#waited = appends;
    // When this process itself stood still, what arrived meanwhile has not been read yet.
    const verdict = now - this.#dueMs < PING_EVERY_MS ? this.#verdict(now, appends) : null;
    if (verdict !== null) return this.#parts.giveUp(verdict);
    for (const [channel, connection] of connections) {
      if ((appends && channel === 'data') || pending.waitsOn(connection)) connection.ping();
    }
    this.#arm(now);
  }

  #verdict(now: number, appends: boolean): string | null {
    const { timeoutMs, pending, connections } = this.#parts;
    if (pending.overdue(now) !== undefined) return 'left a request unanswered';
    if (appends && now - this.#progressMs > timeoutMs) return `acknowledged nothing for ${timeoutMs} ms`;
    for (const [channel, connection] of connections) {
      if (connection.pingSentMs !== null && now - connection.pingSentMs > timeoutMs)
        return `is silent on its ${channel} connection`;
    }
    return null;
  }
}
