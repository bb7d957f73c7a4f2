// Byte streams in memory that behave like node:net sockets as far as NbdSocket asks: what one end writes the other end gets,
// in later turns, in chunks of a chosen size; a reader that pauses makes the writer's queue grow.

import type { NbdSocket } from '../../../src/nbd/index.js';

type Listener = (value: Buffer & Error) => void;

export class FakeSocket implements NbdSocket {
  destroyed = false;
  /** Largest piece handed to the peer at once. */
  chunkBytes = 64 * 1024;
  /** Bytes the "kernel" holds between the ends; more stays in the writer's queue. */
  kernelBytes = 256 * 1024;
  /** How often write() was called from outside cork(), plus once for each uncork(): what would be system calls. */
  sends = 0;
  paused = false;
  peer: FakeSocket | undefined;
  readonly #listeners = new Map<string, Listener[]>();
  #corked = 0;
  #queue: { bytes: Buffer; written: ((error?: Error | null) => void) | undefined }[] = [];
  #queuedBytes = 0;
  /** Arrived here, not yet emitted. */
  #inbox: Buffer[] = [];
  #inboxBytes = 0;
  #ended = false;
  #peerEnded = false;
  #endTold = false;
  #finished: (() => void) | undefined;
  #scheduled = false;

  get writableLength(): number {
    return this.#queuedBytes;
  }

  write(bytes: Uint8Array, written?: (error?: Error | null) => void): boolean {
    if (this.destroyed || this.#ended) {
      if (written !== undefined) process.nextTick(() => written(new Error('write after end')));
      return false;
    }
    // A view, not a copy: whoever changes bytes that wait here is found out.
    this.#queue.push({ bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), written });
    this.#queuedBytes += bytes.length;
    if (this.#corked === 0) {
      this.sends++;
      this.#push();
    }
    return this.#queuedBytes < 16 * 1024;
  }

  cork(): void {
    this.#corked++;
  }

  uncork(): void {
    this.#corked--;
    if (this.#corked === 0 && this.#queue.length > 0) {
      this.sends++;
      this.#push();
    }
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.#schedule();
  }

  end(finished?: () => void): void {
    this.#ended = true;
    this.#finished = finished;
    this.#push();
  }

  destroy(): void {
    if (this.destroyed) return;
    this.destroyed = true;
    this.#inbox = [];
    for (const { written } of this.#queue.splice(0)) {
      if (written !== undefined) process.nextTick(() => written(new Error('destroyed')));
    }
    this.#queuedBytes = 0;
    setImmediate(() => this.#emit('close', undefined));
    this.peer?.hangUp();
  }

  /** The other end is gone: what it sent before still arrives. */
  hangUp(): void {
    this.#peerEnded = true;
    this.#schedule();
  }

  on(event: string, listener: (value: never) => void): void {
    const list = this.#listeners.get(event) ?? [];
    list.push(listener as Listener);
    this.#listeners.set(event, list);
    this.#schedule();
  }

  #emit(event: string, value: Buffer | Error | undefined): void {
    for (const listener of this.#listeners.get(event) ?? []) listener(value as Buffer & Error);
  }

  /** Moves queued bytes to the peer as far as its kernel has room. */
  #push(): void {
    const peer = this.peer;
    if (peer === undefined) return;
    while (this.#queue.length > 0 && (peer.destroyed || peer.#inboxBytes < this.kernelBytes)) {
      const { bytes, written } = this.#queue.shift()!;
      this.#queuedBytes -= bytes.length;
      if (!peer.destroyed) peer.#deliver(Buffer.from(bytes));
      if (written !== undefined) process.nextTick(() => written());
    }
    if (this.#ended && this.#queue.length === 0 && !this.destroyed) {
      peer.hangUp();
      const finished = this.#finished;
      this.#finished = undefined;
      if (finished !== undefined) process.nextTick(finished);
    }
  }

  #peerPush(): void {
    if (this.peer !== undefined) this.peer.#push();
  }

  #deliver(bytes: Buffer): void {
    this.#inbox.push(bytes);
    this.#inboxBytes += bytes.length;
    this.#schedule();
  }

  #schedule(): void {
    if (this.#scheduled || this.destroyed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#emitSome();
    });
  }

  #emitSome(): void {
    if (this.paused || this.destroyed || !this.#listeners.has('data')) return;
    if (this.#inbox.length > 0) {
      const all = this.#inbox.length === 1 ? this.#inbox[0]! : Buffer.concat(this.#inbox);
      const chunk = all.subarray(0, this.chunkBytes);
      this.#inbox = chunk.length < all.length ? [all.subarray(chunk.length)] : [];
      this.#inboxBytes -= chunk.length;
      this.#emit('data', chunk);
      this.#peerPush();
      this.#schedule();
    } else if (this.#peerEnded && !this.#endTold) {
      this.#endTold = true;
      this.#emit('end', undefined);
    }
  }
}

/** Two ends of one stream. */
export function socketPair(): [FakeSocket, FakeSocket] {
  const a = new FakeSocket();
  const b = new FakeSocket();
  a.peer = b;
  b.peer = a;
  return [a, b];
}

/** Lets everything happen that is due without time passing. */
export async function settle(turns = 30): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}
