// Connecting and listening over the native crate's sockets. Owner: one thread; make one for each.
//
// All streams of a net share its receive slabs and its list of those to flush: what handlers write while an event is handled
// leaves when that event has been handled, everything else at the end of the turn.

import { lookup } from 'node:dns/promises';
import { unlinkSync } from 'node:fs';
import { isIP } from 'node:net';
import { constants } from 'node:os';
import { type Clock, HoldfastError, messageOf, unavailable } from '../base/index.js';
import type { NativeNet as Binding, NativeSockets } from '../hotpath/index.js';
import { boundAddress, clearUnixPath, listenError, parseStreamAddress, type StreamAddress } from './address.js';
import type { ByteStream, StreamListener, StreamNet } from './byte-stream.js';
import { Inbox } from './inbox.js';
import { BROKEN, NativeStream, type NativeStreamOwner, READABLE, systemError, WRITABLE } from './native-stream.js';
import { NativeTls } from './native-tls.js';
import type { StreamSecurity } from './security.js';
import { SlabPool } from './slab-pool.js';

/** Connections accepted before other sockets get their turn. */
const ACCEPTS_MAX = 64;
/** When descriptors have run out: until some are closed, those who connect wait in the system's queue. */
const ACCEPT_AGAIN_MS = 100;

const EAGAIN = -constants.errno.EAGAIN;

export interface Target {
  ready(events: number): void;
}

export class NativeNet implements StreamNet, NativeStreamOwner {
  readonly sockets: NativeSockets;
  readonly pool = new SlabPool();
  readonly #clock: Clock;
  /** By socket number. */
  readonly #targets: (Target | undefined)[] = [];
  readonly #flushes: NativeStream[] = [];
  readonly #tls: NativeTls | null;
  #dispatching = false;
  #scheduled = false;

  /** With `security` every stream is TLS with certificates on both ends; without it none. Throws FAILED_PRECONDITION/BadCertificate. */
  constructor(binding: Binding, clock: Clock, security: StreamSecurity | null = null) {
    this.#clock = clock;
    this.sockets = binding.openNet((id, events) => this.#ready(id, events));
    this.#tls = security === null ? null : new NativeTls(this, security, clock);
  }

  #ready(id: number, events: number): void {
    this.#dispatching = true;
    try {
      this.#targets[id]?.ready(events);
    } finally {
      this.#dispatching = false;
      this.#flush();
    }
  }

  #flush(): void {
    const flushes = this.#flushes;
    // A stream that is flushed may tell its handler, which may write to others.
    for (let i = 0; i < flushes.length; i++) flushes[i]!.endOfTurn();
    flushes.length = 0;
  }

  flushLater(stream: NativeStream): void {
    this.#flushes.push(stream);
    if (this.#dispatching || this.#scheduled) return;
    this.#scheduled = true;
    process.nextTick(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  inbox(): Inbox {
    return new Inbox(this.pool);
  }

  errorOf(_id: number, negative: number, what: string): Error {
    return systemError(negative, what);
  }

  /** Who is told of the socket's events from now on. */
  aim(id: number, target: Target): void {
    this.#targets[id] = target;
  }

  forget(id: number): void {
    this.#targets[id] = undefined;
  }

  async connect(address: string, timeoutMs: number): Promise<ByteStream> {
    const target = parseStreamAddress(address);
    const endMs = this.#clock.monotonicMs() + timeoutMs;
    let failure: unknown;
    for (const host of await resolveHost(target, address)) {
      const leftMs = endMs - this.#clock.monotonicMs();
      if (failure !== undefined && leftMs <= 0) break;
      try {
        const id = await this.#connected(this.#open(target, host), Math.max(1, leftMs), timeoutMs);
        const peer = target.kind === 'unix' ? address : this.sockets.peer(id);
        if (this.#tls !== null) return await this.#tls.connect(id, peer, endMs - this.#clock.monotonicMs());
        return this.#stream(id, peer);
      } catch (error) {
        failure = error;
      }
    }
    throw unreachable(address, failure);
  }

  #open(target: StreamAddress, host: string): number {
    return target.kind === 'unix' ? this.sockets.connectUnix(target.path) : this.sockets.connectTcp(host, target.port);
  }

  /** Waits until the system says how it went. */
  #connected(id: number, leftMs: number, timeoutMs: number): Promise<number> {
    const { sockets } = this;
    return new Promise((resolve, reject) => {
      if (id < 0) return reject(systemError(id, 'connecting failed'));
      const end = (error: Error | null) => {
        timer.cancel();
        this.forget(id);
        sockets.watch(id, 0);
        if (error === null) return resolve(id);
        sockets.close(id);
        reject(error);
      };
      const timer = this.#clock.after(leftMs, () => end(new Error(`no connection within ${timeoutMs} ms`)));
      this.#targets[id] = {
        ready: (events) => {
          const failed = sockets.failure(id);
          if (failed < 0) end(systemError(failed, 'connecting failed'));
          else if ((events & BROKEN) !== 0) end(new Error('the connection broke at once'));
          else end(null);
        },
      };
      const status = sockets.watch(id, WRITABLE);
      if (status < 0) end(systemError(status, 'connecting failed'));
    });
  }

  #stream(id: number, peer: string): NativeStream {
    const stream = new NativeStream(this, id, peer);
    this.#targets[id] = stream;
    return stream;
  }

  async listen(address: string, accepted: (stream: ByteStream) => void): Promise<StreamListener> {
    const target = parseStreamAddress(address);
    const { sockets } = this;
    let id: number;
    if (target.kind === 'unix') {
      await clearUnixPath(this, target.path);
      id = sockets.listenUnix(target.path);
    } else {
      const [host] = await resolveHost(target, address);
      id = sockets.listenTcp(host!, target.port);
    }
    if (id < 0) throw listenError(address, systemError(id, 'listening failed'));
    const bound = target.kind === 'unix' ? address : boundAddress(target, sockets.port(id));
    const acceptor = new Acceptor(this, id, this.#clock, (one) => {
      const peer = target.kind === 'unix' ? address : sockets.peer(one);
      if (this.#tls !== null) this.#tls.accept(one, peer, accepted);
      else accepted(this.#stream(one, peer));
    });
    this.#targets[id] = acceptor;
    acceptor.watch();
    const close = async () => {
      if (!acceptor.close()) return;
      if (target.kind === 'unix') removeSocket(target.path);
    };
    return { address: bound, close };
  }
}

class Acceptor {
  readonly #net: NativeNet;
  readonly #id: number;
  readonly #clock: Clock;
  readonly #accepted: (id: number) => void;
  #closed = false;

  constructor(net: NativeNet, id: number, clock: Clock, accepted: (id: number) => void) {
    this.#net = net;
    this.#id = id;
    this.#clock = clock;
    this.#accepted = accepted;
  }

  watch(): void {
    if (!this.#closed) this.#net.sockets.watch(this.#id, READABLE);
  }

  ready(): void {
    for (let i = 0; i < ACCEPTS_MAX && !this.#closed; i++) {
      const id = this.#net.sockets.accept(this.#id);
      if (id >= 0) {
        this.#accepted(id);
        continue;
      }
      if (id === EAGAIN) return;
      // A connection that ended before it was accepted is the peer's loss; what else fails would fail at once again.
      if (id === -constants.errno.ECONNABORTED) continue;
      this.#net.sockets.watch(this.#id, 0);
      this.#clock.after(ACCEPT_AGAIN_MS, () => this.watch());
      return;
    }
  }

  close(): boolean {
    if (this.#closed) return false;
    this.#closed = true;
    this.#net.forget(this.#id);
    this.#net.sockets.close(this.#id);
    return true;
  }
}

/** The addresses to try, in order; one empty one for a unix socket. */
async function resolveHost(target: StreamAddress, address: string): Promise<string[]> {
  if (target.kind === 'unix') return [''];
  if (isIP(target.host) !== 0) return [target.host];
  try {
    const found = await lookup(target.host, { all: true });
    return found.map((one) => one.address);
  } catch (error) {
    throw unreachable(address, error);
  }
}

function unreachable(address: string, failure: unknown): HoldfastError {
  return failure instanceof HoldfastError
    ? failure
    : unavailable(`${address} can't be reached: ${messageOf(failure)}`, failure);
}

function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Somebody else has removed it, or its directory.
  }
}
