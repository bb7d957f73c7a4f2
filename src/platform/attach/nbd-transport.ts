// Block operations over the reconnecting NBD client, with the address as something that may change under way.

import { type Clock, type Logger, messageOf, unavailable } from '../../base/index.js';
import { dialer, ReconnectingNbdClient } from '../../nbd/index.js';
import type { Endpoint } from './bridge-messages.js';
import type { Submit } from './fuse-session.js';

export interface BlockTransport {
  readonly submit: Submit;
  /** From the next attempt to connect on. */
  setSocketPath(socketPath: string): void;
  /** Everything, now and later, is answered with EIO. */
  fail(): void;
}

export interface TransportOptions {
  readonly endpoint: Endpoint;
  /** Names the device to the server, over all its bridges: a new connection is served when the old one is drained. */
  readonly clientId: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly onConnection: (connected: boolean, message: string) => void;
}

/** A unix socket is cheap to try, and each try that comes late is a pause for the volume's users. */
const backoffMinMs = 20;
const backoffMaxMs = 200;

export function createNbdTransport(options: TransportOptions): BlockTransport {
  let { socketPath } = options.endpoint;
  const client = new ReconnectingNbdClient({
    dial: () => {
      // An address that can't be used is one more failed attempt, not the end.
      try {
        return dialer({ path: socketPath })();
      } catch (error) {
        return Promise.reject(unavailable(messageOf(error), error));
      }
    },
    exportName: options.endpoint.exportName,
    clientId: options.clientId,
    clock: options.clock,
    logger: options.logger,
    backoffMinMs,
    backoffMaxMs,
  });
  client.onState((state, cause) => {
    if (state === 'connected') options.onConnection(true, '');
    else if (state !== 'closed') options.onConnection(false, cause ? messageOf(cause) : 'no connection to the export');
  });
  return {
    submit: (operation, done) => client.submit(operation, done),
    setSocketPath: (path) => {
      socketPath = path;
    },
    fail: () => client.fail('EIO'),
  };
}
