// The last thing before the replies of writes, trims and flushes leave: they need the lease of the reign, and are withheld while
// a group is being frozen. The engine goes on appending, so a hold costs latency, not throughput; it ends by release or by its
// own deadline, whichever comes first.

import { type Clock, HoldfastError, invalid, type TimerHandle } from '../base/index.js';
import type { BlockError, BlockRequest } from './block-device.js';
import { HOLD_MAX_MS } from './limits.js';
import type { ReignLease } from './reign-lease.js';

interface Withheld {
  readonly requests: readonly BlockRequest[];
  readonly error: BlockError | null;
}

export class ReplyGate {
  readonly #clock: Clock;
  readonly #lease: ReignLease;
  #token: string | undefined;
  #timer: TimerHandle | undefined;
  #withheld: Withheld[] = [];

  constructor(clock: Clock, lease: ReignLease) {
    this.#clock = clock;
    this.#lease = lease;
  }

  /**
   * Completes the requests now, when the lease was renewed, or when the hold ends. Success is not told by an engine that was deposed
   * meanwhile: whether such a write happened, the next reign says.
   */
  reply(requests: readonly BlockRequest[], error: BlockError | null): void {
    if (this.#token !== undefined) this.#withheld.push({ requests, error });
    else if (error !== null || this.#lease.held()) complete(requests, error);
    else
      this.#lease.ask((failure) => {
        if (failure !== null) complete(requests, 'ESHUTDOWN');
        else if (this.#token !== undefined) this.#withheld.push({ requests, error });
        else complete(requests, null);
      });
  }

  get token(): string | undefined {
    return this.#token;
  }

  /** Repeating it with the same token changes nothing. ABORTED while another hold stands. */
  hold(token: string, deadlineMs: number): void {
    if (token === '' || !(deadlineMs > 0) || deadlineMs > HOLD_MAX_MS)
      throw invalid(`a hold needs a token and a deadline of 1 to ${HOLD_MAX_MS} ms, not ${deadlineMs}`);
    if (this.#token === token) return;
    if (this.#token !== undefined)
      throw new HoldfastError('ABORTED', 'another group snapshot holds this volume; retry', { reason: 'Busy' });
    this.#token = token;
    this.#timer = this.#clock.after(deadlineMs, () => this.end());
  }

  /** False when the token's hold no longer stands. */
  release(token: string): boolean {
    if (this.#token !== token) return false;
    this.end();
    return true;
  }

  end(): void {
    this.#token = undefined;
    this.#timer?.cancel();
    this.#timer = undefined;
    const withheld = this.#withheld;
    this.#withheld = [];
    for (const { requests, error } of withheld) this.reply(requests, error);
  }
}

function complete(requests: readonly BlockRequest[], error: BlockError | null): void {
  for (let i = 0; i < requests.length; i++) requests[i]!.complete(error);
}
