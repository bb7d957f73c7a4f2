// Connecting and listening over node:net: where the native crate is not at hand.

import { chmodSync } from 'node:fs';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { type Clock, messageOf, unavailable } from '../base/index.js';
import { boundAddress, clearUnixPath, listenError, parseStreamAddress, type StreamAddress } from './address.js';
import type { ByteStream, StreamListener, StreamNet } from './byte-stream.js';
import { NodeStream } from './node-stream.js';
import { SlabPool } from './slab-pool.js';

/** A peer that lost power answers nothing: probes end the connection. */
const KEEP_ALIVE_MS = 15_000;

export class NodeNet implements StreamNet {
  readonly pool = new SlabPool();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  async connect(address: string, timeoutMs: number): Promise<ByteStream> {
    const target = parseStreamAddress(address);
    return await new Promise((resolve, reject) => {
      const where = target.kind === 'unix' ? { path: target.path } : { host: target.host, port: target.port };
      const socket = netConnect({ ...where, noDelay: true, allowHalfOpen: true });
      const fail = (error: Error) => {
        timer.cancel();
        socket.destroy();
        reject(unavailable(`${address} can't be reached: ${messageOf(error)}`, error));
      };
      const timer = this.#clock.after(timeoutMs, () => fail(new Error(`no connection within ${timeoutMs} ms`)));
      socket.once('error', fail);
      socket.once('connect', () => {
        timer.cancel();
        socket.off('error', fail);
        resolve(this.#stream(socket, address, target));
      });
    });
  }

  #stream(socket: Socket, address: string, target: StreamAddress): NodeStream {
    if (target.kind === 'unix') return new NodeStream(socket, this.pool, address);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    const host = socket.remoteAddress ?? '?';
    return new NodeStream(socket, this.pool, `${host.includes(':') ? `[${host}]` : host}:${socket.remotePort ?? 0}`);
  }

  async listen(address: string, accepted: (stream: ByteStream) => void): Promise<StreamListener> {
    const target = parseStreamAddress(address);
    if (target.kind === 'unix') await clearUnixPath(this, target.path);
    const options = { noDelay: true, allowHalfOpen: true };
    const server = createServer(options, (socket) => accepted(this.#stream(socket, address, target)));
    await new Promise<void>((resolve, reject) => {
      const failed = (error: Error) => reject(listenError(address, error));
      server.once('error', failed);
      server.listen(target.kind === 'unix' ? { path: target.path } : { host: target.host, port: target.port }, () => {
        server.off('error', failed);
        resolve();
      });
      // bind and listen have happened in the call above; nobody is accepted before this turn of the event loop ends.
      if (target.kind === 'unix' && server.listening) chmodSync(target.path, 0o600);
    });
    // An accept that fails (no descriptors left) is the peer's loss: it sees its connection closed.
    server.on('error', () => {});
    return { address: boundAddress(target, portOf(server)), close: () => closed(server) };
  }
}

function portOf(server: Server): number {
  const bound = server.address();
  return typeof bound === 'object' && bound !== null ? bound.port : 0;
}

/** Does not wait for the streams that were accepted. */
async function closed(server: Server): Promise<void> {
  server.close();
}
