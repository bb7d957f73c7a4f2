// A fake socket's server side as a byte stream: the product's own over node:net, whose receive memory is overwritten as soon as the
// handler gave it back, so that whoever goes on reading it is found out.

import type { Socket } from 'node:net';
import type { ByteStream, StreamHandler } from '../../../src/transport/index.js';
import { NodeStream } from '../../../src/transport/node-stream.js';
import { SlabPool } from '../../../src/transport/slab-pool.js';
import type { FakeSocket } from './fake-socket.js';

class HarshHandler implements StreamHandler {
  readonly #inner: StreamHandler;
  constructor(inner: StreamHandler) {
    this.#inner = inner;
  }
  get wanted(): number {
    return this.#inner.wanted;
  }
  received(...[slab, from, to]: Parameters<StreamHandler['received']>): number {
    const consumed = this.#inner.received(slab, from, to);
    slab.bytes.fill(0xee, from, from + consumed);
    return consumed;
  }
  drained(): void {
    this.#inner.drained();
  }
  ended(): void {
    this.#inner.ended();
  }
  closed(error: Error | null): void {
    this.#inner.closed(error);
  }
}

class HarshStream extends NodeStream {
  override start(handler: StreamHandler): void {
    super.start(new HarshHandler(handler));
  }
}

export function streamOf(socket: FakeSocket): ByteStream {
  return new HarshStream(socket as unknown as Socket, new SlabPool(), 'fake');
}
