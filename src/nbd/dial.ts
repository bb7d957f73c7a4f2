// How a client gets a socket, and from it a link that is ready for requests.

import { connect } from 'node:net';
import { HoldfastError, invalid, messageOf, unavailable } from '../base/index.js';
import { ClientHandshake, type ClientHandshakeOptions, type ExportInfo } from './client-handshake.js';
import { ClientLink } from './client-link.js';
import { BlockRequestError } from './errno.js';
import type { NbdSocket } from './socket.js';

export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** Opens a fresh connection. Rejects with a HoldfastError; never with a socket left open. */
export type NbdDialer = () => Promise<NbdSocket>;

/** A dialer to a unix socket or a TCP port. Throws INVALID_ARGUMENT for a path that is too long. */
export function dialer(address: NbdAddress): NbdDialer {
  if ('path' in address) checkUnixPath(address.path);
  const where = 'path' in address ? address.path : `${address.host}:${address.port}`;
  return () =>
    new Promise((resolve, reject) => {
      const socket = connect('path' in address ? { path: address.path } : { ...address, noDelay: true });
      const failed = (error: Error): void => {
        socket.destroy();
        reject(unavailable(`cannot connect to the NBD server at ${where}: ${messageOf(error)}`, error));
      };
      socket.once('error', failed);
      socket.once('connect', () => {
        socket.removeListener('error', failed);
        resolve(socket);
      });
    });
}

/** The connection ended without the client wanting it. What was in flight may or may not have happened. */
export function connectionLost(what: string, cause?: unknown): HoldfastError {
  return new HoldfastError('UNAVAILABLE', `NBD connection lost: ${what}`, { reason: 'Closed', cause });
}

/** True for the error that requests in flight get when their connection is lost (not for one that was answered ESHUTDOWN). */
export function isConnectionLost(error: unknown): boolean {
  if (!(error instanceof HoldfastError) || error instanceof BlockRequestError) return false;
  return error.code === 'UNAVAILABLE' && error.reason === 'Closed';
}

/**
 * Shakes hands over `socket`. `onGone` is called once the socket of an established link has closed, with link.lost set.
 * Rejects when the server refuses or goes away; the socket is destroyed then.
 */
export function establish(
  socket: NbdSocket,
  options: Omit<ClientHandshakeOptions, 'mode'>,
  onGone: (link: ClientLink) => void,
): Promise<ClientLink> {
  return new Promise((resolve, reject) => {
    let link: ClientLink | undefined;
    shake(
      socket,
      { ...options, mode: 'go' },
      {
        ready: (info, rest) => {
          const made = new ClientLink(socket, info);
          link = made;
          if (rest.length > 0) made.receive(rest);
          resolve(made);
          return (chunk) => made.receive(chunk);
        },
        closed: (cause) => {
          if (link === undefined) return reject(cause);
          link.lose(cause);
          onGone(link);
        },
      },
    );
  });
}

/** Asks for an export's size and flags without entering it, and closes the socket. */
export function askInfo(socket: NbdSocket, exportName: string): Promise<ExportInfo> {
  return new Promise((resolve, reject) => {
    shake(
      socket,
      { exportName, mode: 'info' },
      {
        ready: (info) => {
          socket.end(() => socket.destroy());
          resolve(info);
          return () => {};
        },
        closed: reject,
      },
    );
  });
}

interface Shaken {
  /** The handshake is through; returns who takes the bytes from now on. */
  ready(info: ExportInfo, rest: Buffer): (chunk: Buffer) => void;
  /** The socket has closed (before or after the handshake). */
  closed(cause: HoldfastError): void;
}

function shake(socket: NbdSocket, options: ClientHandshakeOptions, shaken: Shaken): void {
  let cause: HoldfastError | undefined;
  const handshake = begin(socket, options);
  let take = (chunk: Buffer): void => {
    const verdict = handshake.feed(chunk);
    if (verdict.kind === 'ready') {
      take = shaken.ready(verdict.info, verdict.rest);
    } else if (verdict.kind === 'refused') {
      cause = verdict.error;
      take = () => {};
      socket.destroy();
    }
  };
  socket.on('data', (chunk) => take(chunk));
  socket.on('error', (error) => {
    cause ??= connectionLost(messageOf(error), error);
  });
  // The server never ends only its own half; it has gone.
  socket.on('end', () => {
    cause ??= connectionLost('closed by the server');
    socket.destroy();
  });
  socket.on('close', () => shaken.closed(cause ?? connectionLost('closed')));
}

function begin(socket: NbdSocket, options: ClientHandshakeOptions): ClientHandshake {
  try {
    return new ClientHandshake(options, (bytes) => socket.write(bytes));
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** sockaddr_un.sun_path has 108 bytes with the NUL at its end (unix(7)). */
const UNIX_PATH_BYTES_MAX = 107;

/** Throws INVALID_ARGUMENT when the system can't bind or connect to `path` for its length. */
function checkUnixPath(path: string): void {
  const bytes = Buffer.byteLength(path, 'utf8');
  if (bytes === 0 || bytes > UNIX_PATH_BYTES_MAX || path.includes('\0')) {
    throw invalid(
      `unix socket path ${JSON.stringify(path.slice(0, 200))} has ${bytes} bytes; the system allows 1 to ` +
        `${UNIX_PATH_BYTES_MAX}: choose a shorter directory`,
    );
  }
}
