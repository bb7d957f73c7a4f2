// TLS over node:tls, for the same streams as native-tls.ts: each speaks with the other. Owner: a NodeNet.
//
// OpenSSL as Node drives it looks at certificates after the handshake and closes without a word to the peer, who then sees only
// that the connection ended; the reason is in the log of the one who refused.

import type { NetConnectOpts, Server, ServerOpts, Socket } from 'node:net';
import {
  createSecureContext,
  createServer,
  type SecureContext,
  type TLSSocket,
  type Server as TlsServer,
  connect as tlsConnect,
} from 'node:tls';
import { type Clock, type HoldfastError, messageOf, precondition } from '../base/index.js';
import {
  badHandshake,
  type Credentials,
  clientOptions,
  contextOptions,
  Handshakes,
  handshakeProblem,
  type Identity,
  identifySocket,
  Refusals,
  serverOptions,
  socketPeer,
  type Trust,
} from '../trust/index.js';
import type { StreamSecurity } from './security.js';

/**
 * ChaCha20-Poly1305 alone: AES-GCM wants new keys every 2^24.5 records (RFC 8446, section 5.5), which Node can't ask OpenSSL for.
 */
const streamOptions = (credentials: Credentials) => ({
  ...contextOptions(credentials),
  ciphers: 'TLS_CHACHA20_POLY1305_SHA256',
});

export class NodeTls {
  readonly #trust: Trust;
  readonly #clock: Clock;
  readonly #refusals: Refusals;
  readonly #servers = new Set<TlsServer>();
  /** Those whose peer has answered to the connection, if not to the handshake. */
  readonly #reached = new WeakSet<Socket>();
  #context: SecureContext;

  /** Throws FAILED_PRECONDITION/BadCertificate. */
  constructor({ trust, logger }: StreamSecurity, clock: Clock) {
    this.#trust = trust;
    this.#clock = clock;
    this.#refusals = new Refusals(clock, logger);
    try {
      this.#context = createSecureContext(streamOptions(trust.current));
    } catch (error) {
      throw precondition(`the certificates can't be used: ${messageOf(error)}`, 'BadCertificate');
    }
    trust.watch((credentials) => {
      try {
        const options = streamOptions(credentials);
        this.#context = createSecureContext(options);
        for (const server of this.#servers) server.setSecureContext(options);
      } catch (error) {
        logger.warn({ error: messageOf(error) }, 'the new certificates are not used, the old ones stay');
      }
    });
  }

  connect(options: NetConnectOpts & { noDelay: boolean; allowHalfOpen: boolean }): Socket {
    const socket = tlsConnect({ ...options, ...clientOptions, secureContext: this.#context });
    socket.setNoDelay(true);
    socket.once('connect', () => this.#reached.add(socket));
    return socket;
  }

  /** Why there is no connection: not reached, or reached and not agreed with. */
  failed(socket: Socket, address: string, error: Error): Error | HoldfastError {
    return this.#reached.has(socket) ? badHandshake(address, handshakeProblem(error), error) : error;
  }

  /** Throws UNAUTHENTICATED/BadCertificate when the peer is no part of this cluster. */
  identify(socket: Socket): Identity {
    return identifySocket(this.#trust, socket as TLSSocket);
  }

  /** Calls `take` with sockets whose handshake is done; what it throws is why the peer is refused. */
  createServer(options: ServerOpts, take: (socket: Socket) => void): Server {
    const server = createServer({ ...options, ...serverOptions, ...streamOptions(this.#trust.current) });
    this.#servers.add(server);
    const handshakes = new Handshakes(this.#clock, this.#refusals);
    server.prependListener('connection', (socket: Socket) => handshakes.begin(socket));
    server.on('secureConnection', (socket) => {
      handshakes.end(socket);
      try {
        take(socket);
      } catch (error) {
        this.#refusals.note(socketPeer(socket), messageOf(error));
        socket.on('error', () => {});
        socket.destroy();
      }
    });
    server.on('tlsClientError', (error, socket) => {
      this.#refusals.note(socketPeer(socket), handshakeProblem(error));
      socket.destroy();
    });
    server.once('close', () => this.#servers.delete(server));
    return server;
  }
}
