// Listening on a unix socket: mode 0600, never in the place of something alive.

import { chmodSync, lstatSync, statSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { dirname } from 'node:path';
import { errnoOf, HoldfastError, invalid, messageOf, notFound, precondition } from '../base/index.js';

/** sockaddr_un.sun_path has 108 bytes with the NUL at its end (unix(7)). */
export const UNIX_PATH_BYTES_MAX = 107;

export interface UnixListener {
  readonly path: string;
  /** Stops accepting and removes the socket; resolves when every accepted socket has closed. */
  close(): Promise<void>;
}

/** Throws INVALID_ARGUMENT when the system can't bind or connect to `path` for its length. */
export function checkUnixPath(path: string): void {
  const bytes = Buffer.byteLength(path, 'utf8');
  if (bytes === 0 || bytes > UNIX_PATH_BYTES_MAX || path.includes('\0')) {
    throw invalid(
      `unix socket path ${JSON.stringify(path.slice(0, 200))} has ${bytes} bytes; the system allows 1 to ` +
        `${UNIX_PATH_BYTES_MAX}: choose a shorter directory`,
    );
  }
}

/**
 * Binds and listens. A socket that nobody answers on (its process died) is removed first; the caller makes sure that two
 * processes do not do this for one path at once (the pool's lock, the holder's). Throws FAILED_PRECONDITION when the path is
 * taken by a live server or is not a socket, INVALID_ARGUMENT when it is too long, NOT_FOUND when its directory is missing.
 */
export async function listenUnix(path: string, accept: (socket: Socket) => void): Promise<UnixListener> {
  checkUnixPath(path);
  await removeStale(path);
  // A client may end its half after DISC and still wait for its last replies.
  const server = createServer({ allowHalfOpen: true }, accept);
  await new Promise<void>((resolve, reject) => {
    const failed = (error: Error): void => reject(listenError(path, error));
    server.once('error', failed);
    server.listen({ path }, () => {
      server.removeListener('error', failed);
      resolve();
    });
    // bind and listen have happened in the call above; nobody is accepted before this turn of the event loop ends.
    if (server.listening) chmodSync(path, 0o600);
  });
  // An accept that fails (no descriptors left) is the peer's loss: it sees its connection closed.
  server.on('error', () => {});
  return {
    path,
    close: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    // Checked here because bind's ENOENT reaches us as EACCES (libuv's pipes).
    if (statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory()) return;
    throw notFound(`cannot listen on unix socket ${path}: create its directory first`);
  }
  if (!found.isSocket()) throw precondition(`${path} exists and is not a socket; remove it or choose another path`);
  if (await answers(path)) {
    throw precondition(`a live server listens on ${path}; stop it or choose another path`, 'AddressInUse');
  }
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw listenError(path, error);
  }
}

/** Connects once: only a refused connection proves that nobody listens. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => {
      const code = errnoOf(error);
      if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false);
      else if (code === 'EAGAIN') resolve(true);
      else reject(listenError(path, error));
    });
  });
}

function listenError(path: string, error: unknown): HoldfastError {
  const text = `cannot listen on unix socket ${path}: ${messageOf(error)}`;
  switch (errnoOf(error)) {
    case 'EADDRINUSE':
      return precondition(text, 'AddressInUse');
    case 'EACCES':
    case 'EPERM':
      return new HoldfastError('PERMISSION_DENIED', text, { cause: error });
    default:
      return new HoldfastError('INTERNAL', text, { cause: error });
  }
}
