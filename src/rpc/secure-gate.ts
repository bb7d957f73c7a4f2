// TLS in front of a gRPC server: connections are handed on once their peer has shown a certificate of this cluster. Owner: the
// server, which gives every socket it accepted. What a peer may do is stated by the services and judged call by call.

import type { Socket } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { type Clock, type Logger, messageOf, precondition } from '../base/index.js';
import {
  contextOptions,
  Handshakes,
  handshakeProblem,
  identifySocket,
  Refusals,
  serverOptions,
  socketPeer,
  type Trust,
} from '../trust/index.js';

export interface SecureGate {
  take(socket: Socket): void;
  close(): void;
}

/** `passed` gets sockets whose handshake is done. Throws FAILED_PRECONDITION/BadCertificate. */
export function secureGate(
  options: { readonly trust: Trust; readonly clock: Clock; readonly logger: Logger },
  passed: (socket: TLSSocket) => void,
): SecureGate {
  const { trust, clock, logger } = options;
  const refusals = new Refusals(clock, logger);
  let server: ReturnType<typeof createServer>;
  try {
    server = createServer({ ...serverOptions, ...contextOptions(trust.current), ALPNProtocols: ['h2'], noDelay: true });
  } catch (error) {
    throw precondition(`the certificates can't be used: ${messageOf(error)}`, 'BadCertificate');
  }
  const handshakes = new Handshakes(clock, refusals);
  server.on('secureConnection', (socket) => {
    handshakes.end(socket);
    try {
      identifySocket(trust, socket);
      passed(socket);
    } catch (error) {
      refusals.note(socketPeer(socket), messageOf(error));
      socket.on('error', () => {});
      socket.destroy();
    }
  });
  server.on('tlsClientError', (error, socket) => {
    refusals.note(socketPeer(socket), handshakeProblem(error));
    socket.destroy();
  });
  const unwatch = trust.watch((credentials) => {
    try {
      server.setSecureContext(contextOptions(credentials));
    } catch (error) {
      logger.warn({ error: messageOf(error) }, 'the new certificates are not used, the old ones stay');
    }
  });
  return {
    take(socket) {
      handshakes.begin(socket);
      server.emit('connection', socket);
    },
    close: unwatch,
  };
}
