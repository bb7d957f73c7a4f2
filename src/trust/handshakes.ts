// Connections of a node:tls server whose peers have not shown yet who they are. Whoever reaches the port can make them, so they are
// bounded in number and in time, apart from those of peers that are known. Owner: the server.

import type { Socket } from 'node:net';
import type { Clock, TimerHandle } from '../base/index.js';
import type { Refusals } from './refusals.js';

/** A peer that is slower is given up. */
export const HANDSHAKE_MS = 10_000;
/** Beyond so many the oldest makes room. */
export const PENDING_MAX = 512;

interface Pending {
  readonly socket: Socket;
  readonly timer: TimerHandle;
}

export class Handshakes {
  readonly #clock: Clock;
  readonly #refusals: Refusals;
  /** By peer, for Node makes another object of the same socket when the handshake is done. Oldest first. */
  readonly #pending = new Map<string, Pending>();

  constructor(clock: Clock, refusals: Refusals) {
    this.#clock = clock;
    this.#refusals = refusals;
  }

  begin(socket: Socket): void {
    if (socket.destroyed) return;
    // A handshake takes milliseconds: the oldest is of a peer that does not mean it.
    const [oldest] = this.#pending.keys();
    if (this.#pending.size >= PENDING_MAX) this.#giveUp(oldest!, 'others wait for their handshakes');
    const peer = socketPeer(socket);
    const timer = this.#clock.after(HANDSHAKE_MS, () =>
      this.#giveUp(peer, `the handshake was not done within ${HANDSHAKE_MS} ms`),
    );
    this.#pending.set(peer, { socket, timer });
    socket.once('close', () => {
      if (this.#pending.get(peer)?.socket === socket) this.end(socket, peer);
    });
  }

  /** `socket` as it was given to begin(), or as the handshake made it. */
  end(socket: Socket, peer: string = socketPeer(socket)): void {
    this.#pending.get(peer)?.timer.cancel();
    this.#pending.delete(peer);
  }

  #giveUp(peer: string, why: string): void {
    const pending = this.#pending.get(peer);
    if (pending === undefined) return;
    this.end(pending.socket, peer);
    this.#refusals.note(peer, why);
    pending.socket.destroy();
  }
}

/** "host:port" of the other end. */
export function socketPeer({ remoteAddress: host = '?', remotePort = 0 }: Socket): string {
  return `${host.includes(':') ? `[${host}]` : host}:${remotePort}`;
}
