// The socket port over node:net.

import { createServer, connect as netConnect, type Server, type Socket } from 'node:net';
import { type Clock, errnoOf, HoldfastError, invalid, messageOf, printable, unavailable } from '../base/index.js';
import type { SocketEvents, WireListener, WireNet, WireSocket } from './net.js';

/** A peer that lost power answers nothing: probes end the connection after about a minute. */
const KEEP_ALIVE_MS = 15_000;

class NodeSocket implements WireSocket {
  readonly peer: string;
  readonly #socket: Socket;

  constructor(socket: Socket) {
    this.#socket = socket;
    this.peer = `${socket.remoteAddress ?? '?'}:${socket.remotePort ?? 0}`;
    socket.setNoDelay(true);
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    // Until someone listens: an error without a listener would end the process.
    socket.on('error', () => {});
  }

  listen(events: SocketEvents): void {
    let failure: Error | null = null;
    this.#socket.on('data', (chunk: Buffer) => events.data(chunk));
    this.#socket.on('drain', () => events.drained());
    this.#socket.on('error', (error) => {
      failure = error;
    });
    this.#socket.on('close', () => events.closed(failure));
    // It may have ended while nobody listened.
    if (this.#socket.closed) queueMicrotask(() => events.closed(failure));
  }
  write(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }
  cork(): void {
    this.#socket.cork();
  }
  uncork(): void {
    this.#socket.uncork();
  }
  get bufferedBytes(): number {
    return this.#socket.writableLength;
  }
  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }
  destroy(): void {
    this.#socket.destroy();
  }
  end(): void {
    this.#socket.end();
  }
}

export class NodeNet implements WireNet {
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  connect(address: string, timeoutMs: number): Promise<WireSocket> {
    const { host, port } = parseAddress(address);
    return new Promise((resolve, reject) => {
      const socket = netConnect({ host, port, noDelay: true });
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
        resolve(new NodeSocket(socket));
      });
    });
  }

  listen(address: string, accept: (socket: WireSocket) => void): Promise<WireListener> {
    const { host, port } = parseAddress(address);
    const server = createServer({ noDelay: true }, (socket) => accept(new NodeSocket(socket)));
    return new Promise((resolve, reject) => {
      server.once('error', (error) => {
        const busy = errnoOf(error) === 'EADDRINUSE';
        const what = busy
          ? 'is in use by another program; choose another port'
          : `can't be listened on: ${messageOf(error)}`;
        reject(
          new HoldfastError('FAILED_PRECONDITION', `address ${address} ${what}`, {
            reason: busy ? 'AddressInUse' : 'Generic',
            cause: error,
          }),
        );
      });
      server.listen({ host, port }, () => resolve(listenerOf(server, host)));
    });
  }
}

function listenerOf(server: Server, host: string): WireListener {
  const bound = server.address();
  const port = typeof bound === 'object' && bound !== null ? bound.port : 0;
  const name = host.includes(':') ? `[${host}]` : host;
  return {
    address: `${name}:${port}`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}

/** Splits "host:port" or "[v6]:port". Throws INVALID_ARGUMENT. */
export function parseAddress(address: string): { host: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.%a-z]+)\]|([^\s:[\]]+)):([0-9]{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw invalid(`${printable(address)} is no address of the form host:port`);
  return { host: match[1] ?? match[2]!, port };
}
