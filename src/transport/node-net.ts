// Connecting and listening over node:net, or node:tls: where the native crate is not at hand.

import { chmodSync } from 'node:fs';
import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { type Clock, HoldfastError, messageOf, unavailable } from '../base/index.js';
import { socketPeer } from '../trust/index.js';
import { boundAddress, clearUnixPath, listenError, parseStreamAddress, type StreamAddress } from './address.js';
import type { ByteStream, StreamListener, StreamNet } from './byte-stream.js';
import { NodeStream } from './node-stream.js';
import { NodeTls } from './node-tls.js';
import type { StreamSecurity } from './security.js';
import { SlabPool } from './slab-pool.js';

/** A peer that lost power answers nothing: probes end the connection. */
const KEEP_ALIVE_MS = 15_000;

export class NodeNet implements StreamNet {
  readonly pool = new SlabPool();
  readonly #clock: Clock;
  readonly #tls: NodeTls | null;

  /** With `security` every stream is TLS with certificates on both ends; without it none. Throws FAILED_PRECONDITION/BadCertificate. */
  constructor(clock: Clock, security: StreamSecurity | null = null) {
    this.#clock = clock;
    this.#tls = security === null ? null : new NodeTls(security, clock);
  }

  async connect(address: string, timeoutMs: number): Promise<ByteStream> {
    const target = parseStreamAddress(address);
    return await new Promise((resolve, reject) => {
      const where = target.kind === 'unix' ? { path: target.path } : { host: target.host, port: target.port };
      const options = { ...where, noDelay: true, allowHalfOpen: true };
      const socket = this.#tls === null ? netConnect(options) : this.#tls.connect(options);
      const fail = (error: Error) => {
        timer.cancel();
        socket.destroy();
        if (error instanceof HoldfastError) reject(error);
        else reject(unavailable(`${address} can't be reached: ${messageOf(error)}`, error));
      };
      const timer = this.#clock.after(timeoutMs, () => fail(new Error(`no connection within ${timeoutMs} ms`)));
      const failed = (error: Error) => fail(this.#tls === null ? error : this.#tls.failed(socket, address, error));
      const ended = () => failed(new Error('the peer closed the connection in the middle of the handshake'));
      socket.once('error', failed);
      socket.once('close', ended);
      socket.once(this.#tls === null ? 'connect' : 'secureConnect', () => {
        timer.cancel();
        socket.off('error', failed);
        socket.off('close', ended);
        try {
          resolve(this.#stream(socket, address, target));
        } catch (error) {
          socket.on('error', () => {});
          fail(error as Error);
        }
      });
    });
  }

  /** Throws UNAUTHENTICATED/BadCertificate. */
  #stream(socket: Socket, address: string, target: StreamAddress): NodeStream {
    const identity = this.#tls?.identify(socket);
    if (target.kind === 'unix') return new NodeStream(socket, this.pool, address, identity);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    return new NodeStream(socket, this.pool, socketPeer(socket), identity);
  }

  async listen(address: string, accepted: (stream: ByteStream) => void): Promise<StreamListener> {
    const target = parseStreamAddress(address);
    if (target.kind === 'unix') await clearUnixPath(new NodeNet(this.#clock), target.path);
    const options = { noDelay: true, allowHalfOpen: true };
    const take = (socket: Socket) => accepted(this.#stream(socket, address, target));
    const server = this.#tls === null ? createServer(options, take) : this.#tls.createServer(options, take);
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
