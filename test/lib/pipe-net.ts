// Stream sockets within one process: bytes arrive in later turns, split as the test says, and can be held back or cut off.

import { unavailable } from '../../src/base/index.js';
import type { SocketEvents, WireListener, WireNet, WireSocket } from '../../src/wire/index.js';

export class PipeSocket implements WireSocket {
  readonly peer: string;
  other: PipeSocket | null = null;
  events: SocketEvents | null = null;
  /** Bytes written here stay here while set. */
  stalled = false;
  /** Largest piece handed over at once. */
  pieceBytes = Number.MAX_SAFE_INTEGER;
  #queue: Buffer[] = [];
  #queued = 0;
  #paused = false;
  #closed = false;
  #scheduled = false;
  #endAfterQueue = false;

  constructor(peer: string) {
    this.peer = peer;
  }
  get bufferedBytes(): number {
    return this.#queued;
  }
  get closed(): boolean {
    return this.#closed;
  }
  listen(events: SocketEvents): void {
    this.events = events;
    this.other?.schedule();
  }
  write(bytes: Uint8Array): void {
    if (this.#closed) return;
    this.#queue.push(Buffer.from(bytes));
    this.#queued += bytes.length;
    this.schedule();
  }
  cork(): void {}
  uncork(): void {}
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    this.#paused = false;
    this.other?.schedule();
  }
  schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#deliver();
    });
  }
  #deliver(): void {
    const other = this.other!;
    if (this.stalled || this.#closed || other.#closed || other.#paused || other.events === null) return;
    const all = Buffer.concat(this.#queue);
    const piece = all.subarray(0, this.pieceBytes);
    const rest = all.subarray(piece.length);
    this.#queue = rest.length > 0 ? [rest] : [];
    const drained = this.#queued > 0 && rest.length === 0;
    this.#queued = rest.length;
    if (piece.length > 0) other.events.data(piece);
    if (drained) this.events?.drained();
    if (this.#queued > 0) this.schedule();
    else if (this.#endAfterQueue) this.destroy();
  }
  destroy(): void {
    if (this.#closed) return;
    this.#closed = true;
    setImmediate(() => this.events?.closed(null));
    setImmediate(() => this.other?.destroy());
  }
  end(): void {
    this.#endAfterQueue = true;
    this.schedule();
  }
}

export class PipeNet implements WireNet {
  readonly #listeners = new Map<string, (socket: WireSocket) => void>();
  /** The connecting ends, in order. */
  readonly clients: PipeSocket[] = [];
  #nextPort = 1;

  async connect(address: string): Promise<WireSocket> {
    const accept = this.#listeners.get(address);
    if (!accept) throw unavailable(`${address} can't be reached`);
    const client = new PipeSocket(address);
    const server = new PipeSocket(`client-${this.clients.length}`);
    client.other = server;
    server.other = client;
    this.clients.push(client);
    accept(server);
    return client;
  }
  async listen(_address: string, accept: (socket: WireSocket) => void): Promise<WireListener> {
    const address = `pipe:${this.#nextPort++}`;
    this.#listeners.set(address, accept);
    return {
      address,
      close: async () => {
        this.#listeners.delete(address);
      },
    };
  }
}
