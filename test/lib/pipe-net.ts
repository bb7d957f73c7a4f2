// Byte streams within one process: bytes arrive in later turns, split as the test says, and can be held back or cut off. What a
// handler has consumed is overwritten, unless it retained it: who keeps a view must not get away with it.

import { unavailable } from '../../src/base/index.js';
import type { ByteStream, ReceiveSlab, StreamHandler, StreamListener, StreamNet } from '../../src/transport/index.js';

class PipeSlab implements ReceiveSlab {
  readonly bytes: Buffer;
  users = 1;

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
  retain(): void {
    this.users++;
  }
  release(): void {
    if (--this.users === 0) this.bytes.fill(0xdd);
  }
}

export class PipeStream implements ByteStream {
  readonly peer: string;
  other: PipeStream | null = null;
  handler: StreamHandler | null = null;
  /** Bytes written here stay here while set. */
  stalled = false;
  /** Largest piece handed over at once. */
  pieceBytes = Number.MAX_SAFE_INTEGER;
  #retained: PipeSlab[] = [];
  #queue: Buffer[] = [];
  #queued = 0;
  /** Arrived here and not consumed. */
  #unconsumed: Buffer = Buffer.alloc(0);
  #paused = false;
  #destroyed = false;
  #scheduled = false;
  /** A flush could not send all. */
  #left = false;
  #ending = false;
  #peerEnded = false;

  constructor(peer: string) {
    this.peer = peer;
  }
  get unsentBytes(): number {
    return this.#queued;
  }
  get destroyed(): boolean {
    return this.#destroyed;
  }
  /** Slabs that this side's handler has retained and not released. */
  get retained(): number {
    this.#retained = this.#retained.filter(({ users }) => users > 0);
    return this.#retained.length;
  }
  start(handler: StreamHandler): void {
    this.handler = handler;
    this.other?.schedule();
  }
  write(bytes: Uint8Array, from = 0, to: number = bytes.length): void {
    if (this.#destroyed || this.#ending) return;
    this.#queue.push(Buffer.from(bytes.subarray(from, to)));
    this.#queued += to - from;
    this.schedule();
  }
  /** Nothing leaves before a later turn. */
  flush(): void {
    if (this.#queued > 0) this.#left = true;
  }
  pause(): void {
    this.#paused = true;
  }
  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    if (this.#unconsumed.length > 0) setImmediate(() => this.#offer(Buffer.alloc(0)));
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
    if (this.#destroyed || other.#destroyed) return;
    if (this.stalled || other.#paused || other.handler === null) {
      this.#left = this.#queued > 0;
      return;
    }
    const all = Buffer.concat(this.#queue);
    const piece = all.subarray(0, this.pieceBytes);
    const rest = all.subarray(piece.length);
    this.#queue = rest.length > 0 ? [rest] : [];
    this.#queued = rest.length;
    if (piece.length > 0) other.#offer(piece);
    if (this.#queued > 0) {
      this.#left = true;
      this.schedule();
    } else if (this.#left) {
      this.#left = false;
      this.handler?.drained();
    }
    if (this.#queued === 0 && this.#ending) other.#ended();
  }
  #offer(piece: Buffer): void {
    if (this.#destroyed || this.#paused) return;
    const slab = new PipeSlab(Buffer.concat([Buffer.alloc(3, 0xee), this.#unconsumed, piece]));
    const consumed = this.handler!.received(slab, 3, slab.bytes.length);
    this.#unconsumed = Buffer.from(slab.bytes.subarray(3 + consumed));
    slab.release();
    if (slab.users > 0) this.#retained.push(slab);
  }
  #ended(): void {
    if (this.#peerEnded || this.#destroyed) return;
    this.#peerEnded = true;
    this.handler?.ended();
    if (this.#ending) this.destroy();
  }
  destroy(error?: Error): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#queued = 0;
    setImmediate(() => this.handler?.closed(error ?? null));
    setImmediate(() => this.other?.destroy());
  }
  end(): void {
    this.#ending = true;
    this.schedule();
  }
}

export class PipeNet implements StreamNet {
  readonly #listeners = new Map<string, (stream: ByteStream) => void>();
  /** The connecting ends, in order. */
  readonly clients: PipeStream[] = [];
  #nextPort = 1;

  async connect(address: string): Promise<PipeStream> {
    const accept = this.#listeners.get(address);
    if (!accept) throw unavailable(`${address} can't be reached`);
    const client = new PipeStream(address);
    const server = new PipeStream(`client-${this.clients.length}`);
    client.other = server;
    server.other = client;
    this.clients.push(client);
    accept(server);
    return client;
  }
  async listen(_address: string, accepted: (stream: ByteStream) => void): Promise<StreamListener> {
    const address = `pipe:${this.#nextPort++}`;
    this.#listeners.set(address, accepted);
    return {
      address,
      close: async () => {
        this.#listeners.delete(address);
      },
    };
  }
}
