// Withholds the replies of writes, trims and flushes while a group is being frozen. The engine goes on appending, so the
// hold costs latency, not throughput; it ends by release or by its own deadline, whichever comes first.

import { type Clock, HoldfastError, invalid, type TimerHandle } from '../base/index.js';
import type { BlockError, BlockRequest } from './block-device.js';
import { HOLD_MAX_MS } from './limits.js';

export class ReplyGate {
  readonly #clock: Clock;
  #token: string | undefined;
  #timer: TimerHandle | undefined;
  #withheld: { request: BlockRequest; error: BlockError | null }[] = [];

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Completes the request now or when the hold ends. */
  reply(request: BlockRequest, error: BlockError | null): void {
    if (this.#token === undefined) request.complete(error);
    else this.#withheld.push({ request, error });
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
    for (const { request, error } of withheld) request.complete(error);
  }
}
