// One connection of the NBD server: handshake, then transmission, over one socket. Owner: NbdServer.
// States: handshake -> (replacing ->) transmission -> gone. Any state may go to gone: the peer left, broke the protocol, or
// the server drops it. Invariant: 'gone' is entered once, and the socket is destroyed or on its way there.

import type { Logger } from '../base/index.js';
import type { ExportTable, NbdExport } from './export-table.js';
import type { NbdLimits } from './limits.js';
import { type HandshakeVerdict, ServerHandshake } from './server-handshake.js';
import { ServerTransmission } from './server-transmission.js';
import type { NbdSocket } from './socket.js';

export interface ServerConnectionOptions {
  readonly socket: NbdSocket;
  readonly exports: ExportTable;
  readonly limits: NbdLimits;
  readonly logger: Logger;
  /** Resolves when no older connection of `clientId` is left. */
  readonly replace: (clientId: string, by: ServerConnection) => Promise<void>;
}

export class ServerConnection {
  readonly #options: ServerConnectionOptions;
  readonly #socket: NbdSocket;
  readonly #logger: Logger;
  readonly #handshake: ServerHandshake;
  #entry: NbdExport | undefined;
  #transmission: ServerTransmission | undefined;
  /** Nothing the peer sends counts any more. */
  #ending = false;
  #gone = false;
  #shuttingDown = false;
  #drained: (() => void) | undefined;
  readonly drained: Promise<void>;

  constructor(options: ServerConnectionOptions) {
    this.#options = options;
    this.#socket = options.socket;
    this.#logger = options.logger;
    this.drained = new Promise((resolve) => {
      this.#drained = resolve;
    });
    this.#handshake = new ServerHandshake({
      exports: options.exports,
      limits: options.limits,
      logger: options.logger,
      send: (bytes) => this.#socket.write(bytes),
    });
  }

  get entry(): NbdExport | undefined {
    return this.#entry;
  }

  get exportName(): string | undefined {
    return this.#entry?.name;
  }

  get inFlight(): number {
    return this.#transmission?.inFlight ?? 0;
  }

  start(): void {
    const socket = this.#socket;
    socket.on('error', (error) => this.#logger.debug({ error: error.message }, 'nbd socket error'));
    socket.on('close', () => this.drop());
    socket.on('end', () => this.#peerEnded());
    socket.on('data', (chunk) => {
      if (this.#ending) return;
      if (this.#transmission !== undefined) this.#transmission.receive(chunk);
      else this.#follow(this.#handshake.feed(chunk));
    });
    this.#handshake.start();
  }

  /** Ends the connection once what is in flight is answered. What the peer does not take at once is dropped. */
  shutDown(): void {
    if (this.#gone) return;
    this.#shuttingDown = true;
    if (this.#transmission === undefined || this.#ending) {
      this.drop();
    } else {
      this.#transmission.cancelled = true;
      this.#transmission.stop();
    }
  }

  /** Destroys the connection at once; what is in flight is cancelled, as far as the device still can. */
  drop(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#ending = true;
    this.#socket.destroy();
    this.#transmission?.abandon();
    void Promise.resolve(this.#transmission?.drained).then(() => this.#drained?.());
  }

  /** The peer sends nothing more. After DISC it may still read its last replies; else it has gone. */
  #peerEnded(): void {
    if (this.#gone || this.#transmission?.stopping === true) return;
    if (this.#transmission?.atBoundary === false) {
      this.#logger.warn({ export: this.exportName }, 'nbd client left in the middle of a request');
    }
    this.drop();
  }

  #follow(verdict: HandshakeVerdict): void {
    switch (verdict.kind) {
      case 'more':
        return;
      case 'close':
        if (verdict.reason !== undefined) this.#logger.warn({ reason: verdict.reason }, 'nbd handshake broken off');
        if (verdict.reason === undefined) this.#end();
        else this.drop();
        return;
      case 'replace':
        this.#options.replace(verdict.clientId, this).then(
          () => {
            if (!this.#gone) this.#follow(this.#handshake.resume());
          },
          () => this.drop(),
        );
        return;
      case 'transmit':
        this.#entry = verdict.entry;
        this.#transmission = new ServerTransmission({
          socket: this.#socket,
          device: verdict.entry.device,
          structured: verdict.structured,
          limits: this.#options.limits,
          onFinished: (broken) => this.#finished(broken),
        });
        this.#logger.debug({ export: verdict.entry.name, structured: verdict.structured }, 'nbd client connected');
        if (verdict.rest.length > 0) this.#transmission.receive(verdict.rest);
    }
  }

  #finished(broken: string | undefined): void {
    if (broken === undefined) {
      this.#end();
    } else {
      this.#logger.warn({ export: this.exportName, reason: broken }, 'nbd client broke the protocol: dropped');
      this.drop();
    }
  }

  /** The last bytes go out, then the socket closes. A server that shuts down does not wait for a peer that does not read. */
  #end(): void {
    if (this.#gone) return;
    this.#ending = true;
    if (this.#shuttingDown && this.#socket.writableLength > 0) this.drop();
    else this.#socket.end(() => this.drop());
  }
}
