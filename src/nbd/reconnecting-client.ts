// An NBD client that outlives its connections: what the bridge of an attached volume speaks. Owner: the bridge.
//
// A request is kept until it is answered. When the connection is lost, what was unanswered is sent again over the next
// one, in the order it was submitted. A reply ESHUTDOWN counts as a lost connection: the daemon is being restarted, the
// volume lives on. This goes on until fail() or close(); the caller sees it as requests that take long, and by onState().
//
// Invariants
// - done() is called exactly once per submitted request.
// - At most one connection exists. The next one is dialled when the old socket has closed on this side, and used when the
//   server has confirmed (OPT_HOLDFAST_CLIENT) that it dropped the old one with everything unread in it and that nothing
//   of it is in flight any more. So a write of an old connection can't land after newer ones.
// - Never connected to a smaller export than before: that would be another volume.
//
// Why replay in order is enough. A flush covers writes that were *answered* before it was sent. Answered but unflushed writes are
// in the replicas' page caches and survive the death of the daemon; the flush is sent again and syncs them. Writes still
// pending when the flush was submitted were never covered by it. A replayed request may take effect twice; both times lie
// before its answer, so nobody who waits for answers before reusing a block can tell.

import { asHoldfastError, type Clock, HoldfastError, type Logger, precondition } from '../base/index.js';
import type { BlockError } from '../engine/index.js';
import { CLIENT_REQUESTS_MAX } from './client.js';
import type { ExportInfo } from './client-handshake.js';
import type { ClientLink } from './client-link.js';
import { type ClientCallback, type ClientRequest, checkRequest, PendingRequest } from './client-request.js';
import { askInfo, connectionLost, establish, type NbdDialer } from './dial.js';
import type { NbdSocket } from './socket.js';

export interface ReconnectingOptions {
  readonly dial: NbdDialer;
  readonly exportName: string;
  /** A UUID of this device's own; the same over restarts of the bridge. */
  readonly clientId: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Pause before the first attempt after a loss, doubled per attempt up to the maximum. Default 50 and 1000. */
  readonly backoffMinMs?: number;
  readonly backoffMaxMs?: number;
  /** A handshake that takes longer is given up and tried again. Default 30000. */
  readonly handshakeTimeoutMs?: number;
}

/** 'connecting' until the first connection; 'paused' while there is none; the last two are final. */
export type ClientState = 'connecting' | 'connected' | 'paused' | 'failed' | 'closed';

export type StateListener = (state: ClientState, cause: HoldfastError | undefined) => void;

export class ReconnectingNbdClient {
  readonly #options: ReconnectingOptions;
  readonly #stop = new AbortController();
  readonly #stateListeners: StateListener[] = [];
  #state: ClientState = 'connecting';
  #cause: HoldfastError | undefined;
  #info: ExportInfo | undefined;
  #sizeBytes = 0;
  #link: ClientLink | undefined;
  /** Unanswered requests that no link has, in order of serial. Empty while connected. */
  #waiting: PendingRequest[] = [];
  /** Answered with ESHUTDOWN: to be sent again. */
  #held: PendingRequest[] = [];
  #nextSerial = 1;
  #outstanding = 0;
  #backoffMs: number;
  /** With what late requests are answered once failed or closed. */
  #finalError: BlockError | undefined;
  readonly #running: Promise<void>;

  /** Starts connecting right after this turn, so that the caller can finish what dial() and its listeners need. */
  constructor(options: ReconnectingOptions) {
    this.#options = options;
    this.#backoffMs = this.#backoffMinMs;
    this.#running = Promise.resolve().then(() => this.#run());
  }

  get state(): ClientState {
    return this.#state;
  }

  /** Bytes of the export as last told; 0 before the first connection. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** What the server said at the newest connection; undefined before the first. */
  get info(): ExportInfo | undefined {
    return this.#info;
  }

  /** Requests submitted and not answered. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Calls `listener` at each change of the state, or of the cause why there is no connection. */
  onState(listener: StateListener): void {
    this.#stateListeners.push(listener);
  }

  /** Resolves once connected for the first time; rejects when failed or closed before. */
  connected(): Promise<void> {
    return new Promise((resolve, reject) => {
      const look = (): boolean => {
        if (this.#info !== undefined) resolve();
        else if (this.#finalError === undefined) return false;
        else reject(precondition('the NBD client was stopped before it was connected', 'Closed'));
        return true;
      };
      if (!look()) this.onState(() => void look());
    });
  }

  /**
   * Sends a request, now or when there is a connection. `done` is called exactly once: later, or at once when the client is
   * failed or closed. Throws INVALID_ARGUMENT for a request that can't be sent, RESOURCE_EXHAUSTED above 16384 unanswered
   * ones; `done` is not called then.
   */
  submit(request: ClientRequest, done: ClientCallback): void {
    checkRequest(request);
    if (this.#finalError !== undefined) {
      done(this.#finalError);
      return;
    }
    if (this.#outstanding >= CLIENT_REQUESTS_MAX) {
      throw new HoldfastError('RESOURCE_EXHAUSTED', `${CLIENT_REQUESTS_MAX} requests are unanswered`, {
        reason: 'Busy',
      });
    }
    const pending = new PendingRequest(request, this.#nextSerial++, done, this.#answered);
    this.#outstanding++;
    const link = this.#link;
    if (link === undefined || link.lost !== undefined || this.#waiting.length > 0) this.#waiting.push(pending);
    else link.send(pending);
  }

  /** Asks over a connection of its own how large the export is now; requests go on meanwhile. Rejects when nobody answers. */
  async refreshSize(): Promise<number> {
    const info = await askInfo(await this.#options.dial(), this.#options.exportName);
    this.#sizeBytes = Math.max(this.#sizeBytes, info.sizeBytes);
    return this.#sizeBytes;
  }

  /** Gives up for good (the engine was deposed, the device is torn down): all requests, also later ones, get `error`. */
  fail(error: BlockError): void {
    this.#link?.lose(new HoldfastError('CANCELLED', 'the NBD client was failed', { reason: 'Closed' }));
    this.#finish('failed', error);
  }

  /** Leaves, politely when nothing is unanswered; what is gets ESHUTDOWN. Resolves when no socket is left. */
  async close(): Promise<void> {
    if (this.#link?.lost === undefined && this.#link?.inFlight === 0) this.#link.disconnect();
    else this.#link?.lose(new HoldfastError('CANCELLED', 'the NBD client was closed', { reason: 'Closed' }));
    this.#finish('closed', 'ESHUTDOWN');
    await this.#running;
  }

  /** A link brought an answer. */
  readonly #answered = (pending: PendingRequest, error: BlockError | null): void => {
    if (error === 'ESHUTDOWN') {
      this.#held.push(pending);
      this.#link?.lose(connectionLost('the server shuts the export down'));
      return;
    }
    this.#backoffMs = this.#backoffMinMs;
    this.#outstanding--;
    pending.callback(error);
  };

  #finish(state: 'failed' | 'closed', error: BlockError): void {
    if (this.#finalError !== undefined) return;
    this.#finalError = error;
    this.#collect();
    const unanswered = this.#waiting;
    this.#waiting = [];
    this.#outstanding = 0;
    this.#stop.abort();
    this.#tell(state, undefined);
    for (const pending of unanswered) pending.callback(error);
  }

  /** Dials, serves, waits, again and again. Ends when failed or closed. */
  async #run(): Promise<void> {
    while (this.#finalError === undefined) {
      const cause = await this.#session().catch(asHoldfastError);
      if (this.#finalError !== undefined) return;
      this.#tell(this.#info === undefined ? 'connecting' : 'paused', cause);
      await this.#options.clock.sleep(this.#backoffMs, this.#stop.signal).catch(() => undefined);
      this.#backoffMs = Math.min(2 * this.#backoffMs, this.#backoffMaxMs);
    }
  }

  /** One connection, from dialling until its socket has closed. Returns why it was lost, or rejects if it never stood. */
  async #session(): Promise<HoldfastError> {
    const { exportName, clientId, clock } = this.#options;
    const socket = await this.#dial();
    const destroy = (): void => {
      socket.destroy();
    };
    this.#stop.signal.addEventListener('abort', destroy, { once: true });
    const timeout = clock.after(this.#handshakeTimeoutMs, destroy);
    let gone = (): void => {};
    const closed = new Promise<void>((resolve) => {
      gone = resolve;
    });
    const established = establish(socket, { exportName, clientId }, () => gone());
    const link = await established.finally(() => {
      timeout.cancel();
      this.#stop.signal.removeEventListener('abort', destroy);
    });
    if (this.#finalError === undefined) this.#adopt(link);
    else link.lose(connectionLost('stopped'));
    await closed;
    this.#collect();
    this.#link = undefined;
    return link.lost!;
  }

  /** A fresh socket. Rejects at once when the client is stopped; a socket that comes later is destroyed. */
  #dial(): Promise<NbdSocket> {
    const { signal } = this.#stop;
    return new Promise((resolve, reject) => {
      const stopped = (): void => reject(connectionLost('stopped'));
      signal.addEventListener('abort', stopped, { once: true });
      this.#options
        .dial()
        .then((socket) => {
          if (signal.aborted) socket.destroy();
          resolve(socket);
        }, reject)
        .finally(() => signal.removeEventListener('abort', stopped));
    });
  }

  #adopt(link: ClientLink): void {
    const { info } = link;
    if (info.sizeBytes < this.#sizeBytes) {
      const text = `export ${this.#options.exportName} has ${info.sizeBytes} bytes and had ${this.#sizeBytes}`;
      link.lose(precondition(`${text}: it is another volume; nothing is sent to it`));
      return;
    }
    this.#info = info;
    this.#sizeBytes = info.sizeBytes;
    this.#link = link;
    const replayed = this.#waiting.length;
    // What submit() adds meanwhile queues up behind; nothing overtakes.
    while (this.#waiting.length > 0 && link.lost === undefined) link.send(this.#waiting.shift()!);
    if (!info.replaced) this.#options.logger.warn({}, 'the NBD server does not know about replaced clients');
    this.#options.logger.info({ export: this.#options.exportName, replayed }, 'nbd connected');
    this.#tell('connected', undefined);
  }

  /** Takes back what the lost link, if any, left unanswered. */
  #collect(): void {
    const pending = this.#link?.lost === undefined ? [] : (this.#link.takePending() as PendingRequest[]);
    this.#waiting = [...this.#held, ...pending, ...this.#waiting].sort((a, b) => a.serial - b.serial);
    this.#held = [];
  }

  #tell(state: ClientState, cause: HoldfastError | undefined): void {
    const news = state !== this.#state || cause?.message !== this.#cause?.message;
    this.#state = state;
    this.#cause = cause;
    if (!news) return;
    if (cause !== undefined) this.#options.logger.warn({ state, cause: cause.message }, 'nbd connection missing');
    for (const listener of this.#stateListeners) listener(state, cause);
  }

  get #backoffMinMs(): number {
    return this.#options.backoffMinMs ?? 50;
  }

  get #backoffMaxMs(): number {
    return this.#options.backoffMaxMs ?? 1000;
  }

  get #handshakeTimeoutMs(): number {
    return this.#options.handshakeTimeoutMs ?? 30_000;
  }
}
