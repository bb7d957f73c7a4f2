// A byte stream over a non-blocking socket of the native crate: one system call to receive and one to send, and nothing of
// Node's streams in between.
//
// Owner: whoever connected or accepted it. States: open -> destroyed. An open one may have ended its own side (end()), and
// the peer its (ended()); when both have, it closes itself. Invariants: readiness to send is watched only while `#blocked`,
// readiness to receive only between start() and the peer's end, and not while paused; closed() is called once, after all else.

import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';
import { assert } from '../base/index.js';
import type { NativeSockets } from '../hotpath/index.js';
import type { ByteStream, StreamHandler } from './byte-stream.js';
import type { Inbox } from './inbox.js';

export const READABLE = 1;
export const WRITABLE = 2;
/** The system reported an error and no longer watches the socket. */
export const BROKEN = 4;

/** Pieces of one vectored send; the crate takes no more. */
const PIECES_MAX = 64;
/** Full reads in a row before other sockets get their turn. */
const READS_MAX = 4;

const EAGAIN = -constants.errno.EAGAIN;
const ECONNRESET = -constants.errno.ECONNRESET;

/** What a stream needs of the net it belongs to. */
export interface NativeStreamOwner {
  readonly sockets: NativeSockets;
  /** For one stream. */
  inbox(): Inbox;
  /** The stream has something to send at the end of this turn. */
  flushLater(stream: NativeStream): void;
  /** Its number may mean another socket from now on. */
  forget(id: number): void;
  /** What a negative errno of a stream's socket stands for; asked before it is closed. */
  errorOf(id: number, negative: number, what: string): Error;
}

/** The error of a system call that returned `negative` errno, with the name as its code. */
export function systemError(negative: number, what: string): Error {
  const code = getSystemErrorName(negative);
  return Object.assign(new Error(`${what}: ${code}`), { code });
}

/** Bytes waiting to be sent, as columns: no object per write. Several pieces may leave in one call. */
class SendQueue {
  readonly pieces: Uint8Array[] = [];
  readonly #from: number[] = [];
  readonly #to: number[] = [];
  readonly spans = new Uint32Array(2 * PIECES_MAX);
  first = 0;
  bytes = 0;

  get count(): number {
    return this.pieces.length - this.first;
  }
  add(bytes: Uint8Array, from: number, to: number): void {
    this.pieces.push(bytes);
    this.#from.push(from);
    this.#to.push(to);
    this.bytes += to - from;
  }
  from(index: number): number {
    return this.#from[index]!;
  }
  to(index: number): number {
    return this.#to[index]!;
  }
  /** Fills `spans` for the first pieces; returns how many. */
  gather(): number {
    const count = Math.min(this.count, PIECES_MAX);
    for (let i = 0; i < count; i++) {
      this.spans[2 * i] = this.#from[this.first + i]!;
      this.spans[2 * i + 1] = this.#to[this.first + i]!;
    }
    return count;
  }
  /** The system took that many bytes. */
  sent(count: number): void {
    this.bytes -= count;
    if (this.bytes === 0) return this.clear();
    let left = count;
    while (left > 0) {
      const size = this.#to[this.first]! - this.#from[this.first]!;
      if (size > left) {
        this.#from[this.first] = this.#from[this.first]! + left;
        break;
      }
      left -= size;
      this.first++;
    }
    // What was sent is let go of at times, at a cost in proportion to what is let go of.
    if (this.first < 1024 || this.first < this.count) return;
    this.pieces.splice(0, this.first);
    this.#from.splice(0, this.first);
    this.#to.splice(0, this.first);
    this.first = 0;
  }
  clear(): void {
    this.pieces.length = 0;
    this.#from.length = 0;
    this.#to.length = 0;
    this.first = 0;
    this.bytes = 0;
  }
}

/** Made by a NativeNet for a socket that is connected. */
export class NativeStream implements ByteStream {
  readonly peer: string;
  readonly #owner: NativeStreamOwner;
  readonly #id: number;
  readonly #inbox: Inbox;
  readonly #queue = new SendQueue();
  #handler: StreamHandler | null = null;
  #watched = 0;
  #paused = false;
  /** The system took less than all at the last flush. */
  #blocked = false;
  /** In the owner's list of those to flush. */
  #listed = false;
  #offering = false;
  #offerDue = false;
  #broken = false;
  #peerEnded = false;
  /** end() was called; `#shut` once the system knows. */
  #ending = false;
  #shut = false;
  #destroyed = false;

  constructor(owner: NativeStreamOwner, id: number, peer: string) {
    this.#owner = owner;
    this.#id = id;
    this.peer = peer;
    this.#inbox = owner.inbox();
  }

  get unsentBytes(): number {
    return this.#queue.bytes;
  }
  get destroyed(): boolean {
    return this.#destroyed;
  }

  start(handler: StreamHandler): void {
    assert(this.#handler === null, 'a stream is started once');
    this.#handler = handler;
    if (this.#destroyed) process.nextTick(() => handler.closed(null));
    else this.#watch();
  }

  // --- Sending

  write(bytes: Uint8Array, from = 0, to: number = bytes.length): void {
    if (this.#destroyed || this.#ending || to <= from) return;
    this.#queue.add(bytes, from, to);
    if (this.#blocked || this.#listed) return;
    this.#listed = true;
    this.#owner.flushLater(this);
  }

  flush(): void {
    if (!this.#blocked) this.#send();
  }

  /** The turn ends. */
  endOfTurn(): void {
    this.#listed = false;
    this.flush();
  }

  #send(): void {
    const queue = this.#queue;
    const { sockets } = this.#owner;
    while (queue.bytes > 0) {
      const { first } = queue;
      let taken: number;
      if (queue.count === 1) taken = sockets.send(this.#id, queue.pieces[first]!, queue.from(first), queue.to(first));
      else taken = sockets.sendAll(this.#id, queue.pieces, queue.spans, first, queue.gather());
      if (taken < 0) {
        if (taken !== EAGAIN) return this.#fail(taken, 'sending failed');
        this.#blocked = true;
        return this.#watch();
      }
      queue.sent(taken);
    }
    if (this.#ending && !this.#shut && !this.#shutDown()) return;
    if (!this.#blocked || this.#destroyed) return;
    this.#blocked = false;
    this.#watch();
    this.#handler?.drained();
  }

  end(): void {
    if (this.#destroyed || this.#ending) return;
    this.#ending = true;
    this.flush();
  }

  /** False when it has to wait: where the end has words of its own, they may find no room. */
  #shutDown(): boolean {
    if (this.#owner.sockets.shutdown(this.#id) === EAGAIN) {
      this.#blocked = true;
      this.#watch();
      return false;
    }
    // When it fails otherwise the peer has gone altogether, which receiving will tell.
    this.#shut = true;
    if (this.#peerEnded) this.destroy();
    return true;
  }

  // --- Receiving

  pause(): void {
    this.#paused = true;
    this.#watch();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#watch();
    if (this.#offerDue || this.#destroyed || (this.#inbox.length === 0 && !this.#broken)) return;
    this.#offerDue = true;
    process.nextTick(() => this.#offerAgain());
  }

  #offerAgain(): void {
    this.#offerDue = false;
    if (this.#destroyed || this.#paused || this.#handler === null) return;
    if (this.#inbox.length > 0) {
      this.#inbox.prepare(this.#handler.wanted);
      this.#offer(0);
    }
    if (this.#broken && !this.#paused && !this.#destroyed) this.#receive();
    this.#settle();
  }

  /** The event loop says that something can be done. */
  ready(events: number): void {
    if ((events & BROKEN) !== 0) {
      this.#broken = true;
      this.#watched = 0;
    }
    if ((events & WRITABLE) !== 0 && this.#blocked) this.#send();
    // Nothing more can be sent and nobody would tell of it again: a handler that paused until it was sent would wait for ever.
    if (this.#broken && this.#blocked && this.#paused && !this.#destroyed)
      return this.#fail(this.#owner.sockets.failure(this.#id), 'the connection broke');
    if (this.#destroyed || this.#paused || this.#handler === null) return;
    if ((events & (READABLE | BROKEN)) !== 0) this.#receive();
    this.#settle();
  }

  #receive(): void {
    const { sockets } = this.#owner;
    const inbox = this.#inbox;
    // What a broken socket still holds is received to its end: nobody would tell of it again.
    for (let reads = 0; !this.#peerEnded && (reads < READS_MAX || this.#broken); reads++) {
      const bytes = inbox.prepare(this.#handler!.wanted);
      const room = bytes.length - inbox.to;
      const count = sockets.receive(this.#id, bytes, inbox.to, bytes.length);
      if (count === EAGAIN && !this.#broken) return;
      if (count < 0) return this.#fail(count, 'receiving failed');
      if (count === 0) return this.#endOfPeer();
      this.#offer(count);
      if (this.#paused || this.#destroyed || (count < room && !this.#broken)) return;
    }
    if (this.#broken) this.#fail(sockets.failure(this.#id), 'the connection broke');
  }

  #offer(count: number): void {
    this.#offering = true;
    this.#inbox.offer(this.#handler!, count);
    this.#offering = false;
  }

  #endOfPeer(): void {
    this.#peerEnded = true;
    this.#watch();
    this.#handler!.ended();
    if (this.#shut) this.destroy();
  }

  /** After receiving: memory is given back. */
  #settle(): void {
    if (this.#destroyed) this.#inbox.clear();
    else this.#inbox.rest();
  }

  #watch(): void {
    if (this.#destroyed) return;
    const receiving = this.#handler !== null && !this.#paused && !this.#peerEnded;
    const events = (receiving ? READABLE : 0) | (this.#blocked ? WRITABLE : 0);
    if (events === this.#watched) return;
    this.#watched = events;
    const status = this.#owner.sockets.watch(this.#id, events);
    if (status < 0) this.#fail(status, 'the connection can not be watched');
  }

  // --- The end

  #fail(errno: number, what: string): void {
    this.destroy(this.#owner.errorOf(this.#id, errno === 0 ? ECONNRESET : errno, `${what} (${this.peer})`));
  }

  destroy(error?: Error): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#queue.clear();
    this.#owner.sockets.close(this.#id);
    this.#owner.forget(this.#id);
    // While the handler looks at what was received, it stays.
    if (!this.#offering) this.#inbox.clear();
    const handler = this.#handler;
    if (handler !== null) process.nextTick(() => handler.closed(error ?? null));
  }
}
