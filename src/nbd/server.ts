// The NBD server: takes streams, knows its connections, drops those whose export goes. Owner: the process that opens volumes.
//
// Invariants
// - At most limits.connectionsMax connections; further streams are destroyed unread.
// - A client that names itself (OPT_HOLDFAST_CLIENT) has one connection: a newer one is served only after the older was
//   destroyed, with what was unread in its stream, and the device has completed what it had in flight.
// - Nothing here throws because of what a peer sends.

import { assert, type Logger } from '../base/index.js';
import type { ByteStream, StreamListener, StreamNet } from '../transport/index.js';
import type { ExportTable, NbdExport } from './export-table.js';
import { defaultLimits, type NbdLimits } from './limits.js';
import { ServerConnection } from './server-connection.js';

export interface NbdServerOptions {
  readonly exports: ExportTable;
  readonly logger: Logger;
  readonly limits?: Partial<NbdLimits>;
}

/** What a caller may know of a connection it handed to serve(). */
export interface NbdConnection {
  /** Name of the export once chosen. */
  readonly exportName: string | undefined;
  /** Requests the device has not completed. */
  readonly inFlight: number;
  /** Resolves when the connection is gone and the device has completed everything it got from it. Never rejects. */
  readonly drained: Promise<void>;
}

export class NbdServer {
  readonly #exports: ExportTable;
  readonly #logger: Logger;
  readonly #limits: NbdLimits;
  readonly #connections = new Set<ServerConnection>();
  /** The newest connection of each client that named itself, and when all its predecessors are drained. */
  readonly #byClient = new Map<string, { connection: ServerConnection; quiet: Promise<void> }>();
  readonly #listeners = new Set<StreamListener>();
  readonly #unsubscribe: () => void;
  #closing: Promise<void> | undefined;

  constructor(options: NbdServerOptions) {
    this.#exports = options.exports;
    this.#logger = options.logger;
    this.#limits = { ...defaultLimits, ...options.limits };
    assert(this.#limits.inFlightBytesMax >= this.#limits.payloadBytesMax, 'a request of full size must fit in flight');
    this.#unsubscribe = this.#exports.onGone((gone) => this.#dropExport(gone));
  }

  get connections(): ReadonlySet<NbdConnection> {
    return this.#connections;
  }

  /** Speaks NBD over a freshly accepted stream until it ends. Never throws. */
  serve(stream: ByteStream): NbdConnection {
    const connection = new ServerConnection({
      stream,
      exports: this.#exports,
      limits: this.#limits,
      logger: this.#logger,
      replace: (clientId, by) => this.#replace(clientId, by),
    });
    const refuse = this.#closing !== undefined || this.#connections.size >= this.#limits.connectionsMax;
    this.#connections.add(connection);
    void connection.drained.then(() => this.#connections.delete(connection));
    if (refuse) {
      this.#logger.warn({ connections: this.#connections.size - 1 }, 'nbd connection refused');
      connection.drop();
    } else {
      connection.start();
    }
    return connection;
  }

  /** Listens at an address of `net`, mostly "unix:PATH"; rejects as StreamNet.listen() does. */
  async listen(net: StreamNet, address: string): Promise<void> {
    assert(this.#closing === undefined, 'listen() on a closed NbdServer');
    const listener = await net.listen(address, (stream) => this.serve(stream));
    if (this.#closing === undefined) this.#listeners.add(listener);
    else await listener.close();
  }

  /**
   * Stops listening, takes no further requests, answers those in flight and ends each connection; resolves when all are
   * gone. Requests in flight are marked cancelled, so the device may fail those it has not sequenced yet; it takes as long
   * as the device needs for the others (close the device first to be quick). May be called again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    this.#unsubscribe();
    const listeners = [...this.#listeners].map((listener) => listener.close());
    this.#listeners.clear();
    const drained = [...this.#connections].map((connection) => {
      connection.shutDown();
      return connection.drained;
    });
    await Promise.all([...listeners, ...drained]);
  }

  #dropExport(gone: NbdExport): void {
    for (const connection of this.#connections) {
      if (connection.entry === gone) connection.shutDown();
    }
  }

  /** Resolves when no older connection of the client is left and the device has let go of all their requests. */
  #replace(clientId: string, by: ServerConnection): Promise<void> {
    const older = this.#byClient.get(clientId);
    if (older?.connection === by) return older.quiet;
    let quiet = Promise.resolve();
    if (older !== undefined) {
      this.#logger.info(
        { clientId, inFlight: older.connection.inFlight },
        'nbd client is back: older connection dropped',
      );
      older.connection.drop();
      quiet = older.quiet.then(() => older.connection.drained);
    }
    const entry = { connection: by, quiet };
    this.#byClient.set(clientId, entry);
    void quiet
      .then(() => by.drained)
      .then(() => {
        if (this.#byClient.get(clientId) === entry) this.#byClient.delete(clientId);
      });
    return quiet;
  }
}
