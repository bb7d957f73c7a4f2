// Requests and responses between the daemon's main thread and its workers, over a message port. Both ends may call. Every
// call has a deadline; an error arrives as the HoldfastError it was. A failed assertion on either side is not an answer: it
// is handed to `onFatal`, because a broken invariant must stop the whole daemon and not just the call that met it.
//
// Bounds: calls in flight per end. A late answer (after its deadline) is dropped.

import {
  AssertionError,
  asHoldfastError,
  type Clock,
  type ErrorCode,
  type ErrorReason,
  errorCodes,
  errorReasons,
  HoldfastError,
  type TimerHandle,
} from '../base/index.js';

/** What can be called: by method name, its parameter and its result. Both must survive structured cloning. */
export type RpcApi<Api> = { readonly [Method in keyof Api]: { readonly params: unknown; readonly result: unknown } };

export type RpcHandlers<Api extends RpcApi<Api>> = {
  readonly [Method in keyof Api]: (
    params: Api[Method]['params'],
  ) => Promise<Api[Method]['result']> | Api[Method]['result'];
};

/** A MessagePort, a Worker or a parentPort. */
export interface RpcChannel {
  postMessage(message: unknown): void;
  on(event: 'message', listener: (message: unknown) => void): unknown;
}

type Wire =
  | { readonly rpc: 'call'; readonly id: number; readonly method: string; readonly params: unknown }
  | { readonly rpc: 'done'; readonly id: number; readonly result: unknown }
  | { readonly rpc: 'failed'; readonly id: number; readonly error: WireError }
  | { readonly rpc: 'fatal'; readonly message: string; readonly stack: string };

interface WireError {
  readonly code: string;
  readonly reason: string;
  readonly message: string;
}

interface Pending {
  readonly timer: TimerHandle;
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** Orders for volumes of one worker that may wait at once; far above what a controller sends. */
const callsInFlightMax = 4096;

export class PortRpc<Remote extends RpcApi<Remote>, Local extends RpcApi<Local>> {
  readonly #channel: RpcChannel;
  readonly #clock: Clock;
  readonly #handlers: RpcHandlers<Local>;
  readonly #onFatal: (error: Error) => void;
  readonly #pending = new Map<number, Pending>();
  #nextId = 1;
  #serving = 0;
  #closed: HoldfastError | null = null;

  constructor(
    channel: RpcChannel,
    options: { readonly clock: Clock; readonly handlers: RpcHandlers<Local>; readonly onFatal: (error: Error) => void },
  ) {
    this.#channel = channel;
    this.#clock = options.clock;
    this.#handlers = options.handlers;
    this.#onFatal = options.onFatal;
    channel.on('message', (message) => this.#receive(message as Wire));
  }

  /** Rejects with the other side's HoldfastError, DEADLINE_EXCEEDED after `timeoutMs`, or UNAVAILABLE once closed. */
  call<Method extends keyof Remote & string>(
    method: Method,
    params: Remote[Method]['params'],
    timeoutMs: number,
  ): Promise<Remote[Method]['result']> {
    if (this.#closed) return Promise.reject(this.#closed);
    if (this.#pending.size >= callsInFlightMax) {
      return Promise.reject(
        new HoldfastError('RESOURCE_EXHAUSTED', `${callsInFlightMax} calls wait for a worker: try later`),
      );
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const timer = this.#clock.after(timeoutMs, () => {
        this.#pending.delete(id);
        const text = `"${method}" was not answered within ${Math.round(timeoutMs)} ms`;
        reject(new HoldfastError('DEADLINE_EXCEEDED', text, { reason: 'Deadline' }));
      });
      this.#pending.set(id, { timer, resolve, reject });
      this.#channel.postMessage({ rpc: 'call', id, method, params } satisfies Wire);
    });
  }

  /** Fails every waiting and later call; used when the other thread is gone. */
  close(why: string): void {
    if (this.#closed) return;
    this.#closed = new HoldfastError('UNAVAILABLE', why, { reason: 'Closed' });
    for (const pending of this.#pending.values()) {
      pending.timer.cancel();
      pending.reject(this.#closed);
    }
    this.#pending.clear();
  }

  #receive(message: Wire): void {
    switch (message.rpc) {
      case 'call':
        void this.#serve(message.id, message.method, message.params);
        return;
      case 'done':
        this.#settle(message.id)?.resolve(message.result);
        return;
      case 'failed':
        this.#settle(message.id)?.reject(fromWire(message.error));
        return;
      case 'fatal':
        this.#onFatal(Object.assign(new AssertionError(message.message), { stack: message.stack }));
        return;
    }
  }

  #settle(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    if (!pending) return undefined;
    this.#pending.delete(id);
    pending.timer.cancel();
    return pending;
  }

  async #serve(id: number, method: string, params: unknown): Promise<void> {
    if (this.#serving >= callsInFlightMax) {
      const error = { code: 'RESOURCE_EXHAUSTED', reason: 'Generic', message: 'too many calls at once: try later' };
      this.#channel.postMessage({ rpc: 'failed', id, error } satisfies Wire);
      return;
    }
    this.#serving++;
    try {
      const handlers = this.#handlers as Readonly<Record<string, (params: unknown) => unknown>>;
      const handler = Object.hasOwn(handlers, method) ? handlers[method] : undefined;
      if (!handler) throw new HoldfastError('UNIMPLEMENTED', `no method "${method}"`);
      const result = await handler(params);
      this.#channel.postMessage({ rpc: 'done', id, result } satisfies Wire);
    } catch (error) {
      if (error instanceof AssertionError) {
        this.#channel.postMessage({ rpc: 'fatal', message: error.message, stack: error.stack ?? '' } satisfies Wire);
        this.#onFatal(error);
        return;
      }
      this.#channel.postMessage({ rpc: 'failed', id, error: toWire(asHoldfastError(error)) } satisfies Wire);
    } finally {
      this.#serving--;
    }
  }
}

function toWire(error: HoldfastError): WireError {
  return { code: error.code, reason: error.reason, message: error.message };
}

function fromWire(error: WireError): HoldfastError {
  const code = (errorCodes as readonly string[]).includes(error.code) ? (error.code as ErrorCode) : 'INTERNAL';
  const reason = (errorReasons as readonly string[]).includes(error.reason) ? (error.reason as ErrorReason) : 'Generic';
  return new HoldfastError(code, error.message, { reason });
}
