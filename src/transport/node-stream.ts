// A byte stream over a socket of node:net (or node:tls, which looks the same): where the native crate is not at hand. What arrives
// is copied into the slabs that handlers expect.
//
// Owner: whoever connected or accepted it. Node reads ahead a little before start() and after pause(); what it read is not lost.

import type { Socket } from 'node:net';
import { assert } from '../base/index.js';
import { handshakeProblem, type Identity } from '../trust/index.js';
import type { ByteStream, StreamHandler } from './byte-stream.js';
import { Inbox } from './inbox.js';
import type { SlabPool } from './slab-pool.js';

export class NodeStream implements ByteStream {
  readonly peer: string;
  readonly identity?: Identity;
  readonly #socket: Socket;
  readonly #inbox: Inbox;
  #handler: StreamHandler | null = null;
  #failure: Error | null = null;
  /** Writes since the last flush are held back. */
  #corked = false;
  /** The last flush left something. */
  #waiting = false;
  #paused = false;
  #offering = false;
  #offerDue = false;
  #ending = false;
  #destroyed = false;
  #ended = false;

  constructor(socket: Socket, pool: SlabPool, peer: string, identity?: Identity) {
    this.#socket = socket;
    this.#inbox = new Inbox(pool);
    this.peer = peer;
    if (identity !== undefined) this.identity = identity;
    socket.on('error', (error) => {
      this.#failure ??= identity === undefined ? error : new Error(handshakeProblem(error), { cause: error });
      // A socket of node:tls that can't open what it receives only says so.
      socket.destroy();
    });
    socket.on('close', () => this.#closed());
  }

  get unsentBytes(): number {
    return this.#destroyed ? 0 : this.#socket.writableLength;
  }
  get destroyed(): boolean {
    return this.#destroyed;
  }

  start(handler: StreamHandler): void {
    assert(this.#handler === null, 'a stream is started once');
    this.#handler = handler;
    if (this.#destroyed) {
      process.nextTick(() => handler.closed(this.#failure));
      return;
    }
    this.#socket.on('data', (chunk: Buffer) => this.#received(chunk));
    this.#socket.on('end', () => this.#endOfPeer());
    // It may have been paused before it was started.
    if (this.#paused) this.#socket.pause();
  }

  write(bytes: Uint8Array, from = 0, to: number = bytes.length): void {
    if (this.#destroyed || this.#ending || to <= from) return;
    if (!this.#corked) {
      this.#corked = true;
      this.#socket.cork();
      process.nextTick(() => this.flush());
    }
    this.#socket.write(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to), this.#written);
  }

  readonly #written = (): void => {
    if (!this.#waiting || this.#destroyed || this.#socket.writableLength > 0) return;
    this.#waiting = false;
    this.#handler?.drained();
  };

  flush(): void {
    if (!this.#corked || this.#destroyed) return;
    this.#corked = false;
    this.#socket.uncork();
    if (this.#socket.writableLength > 0) this.#waiting = true;
  }

  pause(): void {
    this.#paused = true;
    this.#socket.pause();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    if (this.#handler === null) return;
    this.#socket.resume();
    if (this.#offerDue || this.#destroyed || this.#inbox.length === 0) return;
    this.#offerDue = true;
    process.nextTick(() => {
      this.#offerDue = false;
      if (this.#destroyed || this.#paused || this.#inbox.length === 0) return;
      this.#inbox.prepare(this.#handler!.wanted);
      this.#offer(0);
    });
  }

  #received(chunk: Buffer): void {
    if (this.#destroyed) return;
    const bytes = this.#inbox.prepare(this.#handler!.wanted, chunk.length);
    chunk.copy(bytes, this.#inbox.to);
    this.#offer(chunk.length);
  }

  #offer(count: number): void {
    this.#offering = true;
    this.#inbox.offer(this.#handler!, count);
    this.#offering = false;
    if (this.#destroyed) this.#inbox.clear();
    else this.#inbox.rest();
  }

  #endOfPeer(): void {
    if (this.#destroyed || this.#ended) return;
    this.#ended = true;
    this.#handler!.ended();
  }

  end(): void {
    if (this.#destroyed || this.#ending) return;
    this.flush();
    this.#ending = true;
    this.#socket.end();
  }

  destroy(error?: Error): void {
    if (this.#destroyed) return;
    this.#failure = error ?? null;
    this.#destroyed = true;
    if (!this.#offering) this.#inbox.clear();
    this.#socket.destroy();
  }

  #closed(): void {
    this.#destroyed = true;
    if (!this.#offering) this.#inbox.clear();
    this.#handler?.closed(this.#failure);
  }
}
