// One connection of the NBD server: handshake, then transmission, over one stream. Owner: NbdServer.
// States: handshake -> (replacing ->) transmission -> gone. Any state may go to gone: the peer left, broke the protocol, or
// the server drops it. Invariant: 'gone' is entered once, and the stream is destroyed or on its way there.

import type { Logger } from '../base/index.js';
import type { ByteStream, ReceiveSlab, StreamHandler } from '../transport/index.js';
import type { ExportTable, NbdExport } from './export-table.js';
import type { NbdLimits } from './limits.js';
import { type HandshakeVerdict, ServerHandshake } from './server-handshake.js';
import { ServerTransmission } from './server-transmission.js';

export interface ServerConnectionOptions {
  readonly stream: ByteStream;
  readonly exports: ExportTable;
  readonly limits: NbdLimits;
  readonly logger: Logger;
  /** Resolves when no older connection of `clientId` is left. */
  readonly replace: (clientId: string, by: ServerConnection) => Promise<void>;
}

export class ServerConnection {
  readonly #options: ServerConnectionOptions;
  readonly #stream: ByteStream;
  readonly #logger: Logger;
  readonly #handshake: ServerHandshake;
  #entry: NbdExport | undefined;
  #transmission: ServerTransmission | undefined;
  /** Nothing the peer sends counts any more. */
  #ending = false;
  #gone = false;
  #shuttingDown = false;
  /** It gave its name: see TransmissionOptions.onShutDown. */
  #returning = false;
  #drained: (() => void) | undefined;
  /** Resolves when the connection is gone and the device has completed everything it got from it. */
  readonly drained: Promise<void>;

  constructor(options: ServerConnectionOptions) {
    this.#options = options;
    this.#stream = options.stream;
    this.#logger = options.logger;
    this.drained = new Promise((resolve) => {
      this.#drained = resolve;
    });
    this.#handshake = new ServerHandshake({
      exports: options.exports,
      limits: options.limits,
      logger: options.logger,
      send: (bytes) => this.#stream.write(bytes),
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
    this.#stream.start(new Events(this));
    this.#handshake.start();
    this.#stream.flush();
  }

  // --- what the stream tells

  get wanted(): number {
    return this.#transmission?.wanted ?? 0;
  }

  /** Returns how many of bytes[from..to) were consumed. */
  received(bytes: Buffer, from: number, to: number): number {
    if (this.#ending) return to - from;
    if (this.#transmission !== undefined) return this.#transmission.received(bytes, from, to);
    const verdict = this.#handshake.feed(bytes.subarray(from, to));
    this.#follow(verdict);
    if (verdict.kind !== 'transmit' || verdict.unused === 0 || this.#ending)
      return to - from - (verdict.kind === 'replace' ? verdict.unused : 0);
    const taken = to - verdict.unused;
    return taken - from + this.#transmission!.received(bytes, taken, to);
  }

  sent(): void {
    if (this.#ending) this.drop();
    else this.#transmission?.sent();
  }

  /** The peer sends nothing more. After DISC it may still read its last replies; else it has gone. */
  peerEnded(): void {
    if (this.#gone || this.#transmission?.stopping === true) return;
    if (this.#transmission?.atBoundary === false) {
      this.#logger.warn({ export: this.exportName }, 'nbd client left in the middle of a request');
    }
    this.drop();
  }

  broken(error: Error | null): void {
    if (error !== null) this.#logger.debug({ error: error.message }, 'nbd connection broke');
    this.drop();
  }

  // --- the end

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
    this.#stream.destroy();
    this.#transmission?.abandon();
    void Promise.resolve(this.#transmission?.drained).then(() => this.#drained?.());
  }

  #follow(verdict: HandshakeVerdict): void {
    switch (verdict.kind) {
      case 'more':
        this.#stream.flush();
        return;
      case 'close':
        if (verdict.reason !== undefined) this.#logger.warn({ reason: verdict.reason }, 'nbd handshake broken off');
        if (verdict.reason === undefined) this.#end();
        else this.drop();
        return;
      case 'replace':
        this.#returning = true;
        // What it sends meanwhile waits in the stream.
        this.#stream.pause();
        this.#options.replace(verdict.clientId, this).then(
          () => this.#replaced(),
          () => this.drop(),
        );
        return;
      case 'transmit':
        this.#entry = verdict.entry;
        this.#transmission = new ServerTransmission({
          stream: this.#stream,
          device: verdict.entry.device,
          structured: verdict.structured,
          limits: this.#options.limits,
          onShutDown: this.#returning ? () => this.drop() : null,
          onFinished: (broken) => this.#finished(broken),
        });
        this.#stream.flush();
        this.#logger.debug({ export: verdict.entry.name, structured: verdict.structured }, 'nbd client connected');
    }
  }

  #replaced(): void {
    if (this.#gone) return;
    this.#handshake.resume();
    this.#stream.flush();
    this.#stream.resume();
  }

  #finished(broken: string | undefined): void {
    if (broken === undefined) {
      this.#end();
    } else {
      this.#logger.warn({ export: this.exportName, reason: broken }, 'nbd client broke the protocol: dropped');
      this.drop();
    }
  }

  /** The last bytes go out, then the stream closes. A server that shuts down does not wait for a peer that does not read. */
  #end(): void {
    if (this.#gone) return;
    this.#ending = true;
    this.#stream.end();
    if (this.#shuttingDown || this.#stream.unsentBytes === 0) this.drop();
  }
}

/** A connection as its stream sees it. */
class Events implements StreamHandler {
  readonly #connection: ServerConnection;

  constructor(connection: ServerConnection) {
    this.#connection = connection;
  }
  get wanted(): number {
    return this.#connection.wanted;
  }
  received(slab: ReceiveSlab, from: number, to: number): number {
    return this.#connection.received(slab.bytes, from, to);
  }
  drained(): void {
    this.#connection.sent();
  }
  ended(): void {
    this.#connection.peerEnded();
  }
  closed(error: Error | null): void {
    this.#connection.broken(error);
  }
}
