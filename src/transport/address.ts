// Addresses of streams: "unix:PATH", "HOST:PORT", "[V6]:PORT".

import { lstatSync, statSync, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf, HoldfastError, invalid, messageOf, notFound, precondition, printable } from '../base/index.js';
import type { StreamNet } from './byte-stream.js';

export type StreamAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** sockaddr_un.sun_path has 108 bytes with the NUL at its end (unix(7)). */
const UNIX_PATH_BYTES_MAX = 107;
/** A probe of a unix socket is answered by the system at once. */
const PROBE_MS = 1000;

/** Throws INVALID_ARGUMENT. */
export function parseStreamAddress(address: string): StreamAddress {
  if (address.startsWith('unix:')) {
    const path = address.slice('unix:'.length);
    const bytes = Buffer.byteLength(path, 'utf8');
    if (bytes === 0 || bytes > UNIX_PATH_BYTES_MAX || path.includes('\0')) {
      throw invalid(
        `unix socket path ${JSON.stringify(path.slice(0, 200))} has ${bytes} bytes; the system allows 1 to ` +
          `${UNIX_PATH_BYTES_MAX}: choose a shorter directory`,
      );
    }
    return { kind: 'unix', path };
  }
  const match = /^(?:\[([0-9a-fA-F:.%a-z]+)\]|([^\s:[\]]+)):([0-9]{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw invalid(`${printable(address)} is no address of the form host:port`);
  return { kind: 'tcp', host: match[1] ?? match[2]!, port };
}

/** The address as it was given, with the port that was given out. */
export function boundAddress(address: StreamAddress, port: number): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return `${address.host.includes(':') ? `[${address.host}]` : address.host}:${port}`;
}

/**
 * Makes sure that a unix socket can be bound at `path`: one that nobody answers on (its process died) is removed. The caller makes
 * sure that two processes do not do this for one path at once (the pool's lock, the holder's). Throws
 * FAILED_PRECONDITION when the path is taken by a live server or is not a socket, NOT_FOUND when its directory is missing.
 */
export async function clearUnixPath(net: StreamNet, path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) {
    if (statSync(dirname(path), { throwIfNoEntry: false })?.isDirectory()) return;
    throw notFound(`cannot listen on unix socket ${path}: create its directory first`);
  }
  if (!found.isSocket()) throw precondition(`${path} exists and is not a socket; remove it or choose another path`);
  if (await answers(net, path)) {
    throw precondition(`a live server listens on ${path}; stop it or choose another path`, 'AddressInUse');
  }
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw listenError(`unix:${path}`, error);
  }
}

/** Connects once: only a refused connection proves that nobody listens. */
async function answers(net: StreamNet, path: string): Promise<boolean> {
  try {
    const stream = await net.connect(`unix:${path}`, PROBE_MS);
    stream.destroy();
    return true;
  } catch (error) {
    const cause = error instanceof Error ? error.cause : undefined;
    switch (errnoOf(cause)) {
      case 'ECONNREFUSED':
      case 'ENOENT':
        return false;
      case 'EACCES':
      case 'EPERM':
        throw listenError(`unix:${path}`, cause);
      default:
        return true;
    }
  }
}

/** Why `address` can't be listened on. */
export function listenError(address: string, error: unknown): HoldfastError {
  switch (errnoOf(error)) {
    case 'EADDRINUSE':
      return precondition(`address ${address} is in use by another program; choose another one`, 'AddressInUse');
    case 'EACCES':
    case 'EPERM':
      return new HoldfastError('PERMISSION_DENIED', `no permission to listen on ${address}`, { cause: error });
    default:
      return new HoldfastError('FAILED_PRECONDITION', `cannot listen on ${address}: ${messageOf(error)}`, {
        cause: error,
      });
  }
}
