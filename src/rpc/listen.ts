// Listening sockets. A unix socket is 0600 from its first moment; one left behind by a dead process is removed, one that
// answers belongs to a living process and is never touched.

import { accessSync, constants, lstatSync, statSync, unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { dirname } from 'node:path';
import { errnoOf, HoldfastError, messageOf } from '../base/index.js';
import { type Address, formatAddress } from './address.js';

function inUse(message: string, cause?: unknown): HoldfastError {
  return new HoldfastError('FAILED_PRECONDITION', message, { reason: 'AddressInUse', cause });
}

/** Whether a process answers at this unix socket. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ path });
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      const code = errnoOf(error);
      if (code === 'ECONNREFUSED' || code === 'ENOENT') resolve(false);
      // EAGAIN: alive, with a full backlog. EACCES and the like: not ours to judge, so not ours to remove.
      else if (code === 'EAGAIN') resolve(true);
      else reject(inUse(`socket ${path} exists and can't be probed: ${messageOf(error)}`, error));
    });
  });
}

/** libuv reports a missing directory as EACCES, so it is looked at before the bind. */
function checkDirectory(path: string): void {
  try {
    if (!statSync(dirname(path)).isDirectory()) throw Object.assign(new Error('not a directory'), { code: 'ENOTDIR' });
    accessSync(dirname(path), constants.W_OK | constants.X_OK);
  } catch (error) {
    throw listenError(error, { kind: 'unix', path });
  }
}

async function clearStale(path: string): Promise<void> {
  let found: ReturnType<typeof lstatSync>;
  try {
    found = lstatSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return;
    throw listenError(error, { kind: 'unix', path });
  }
  if (!found.isSocket()) throw inUse(`${path} exists and is not a socket; move it away or choose another path`);
  if (await answers(path)) throw inUse(`${formatAddress({ kind: 'unix', path })} is in use by a running process`);
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw listenError(error, { kind: 'unix', path });
  }
}

function listenError(error: unknown, address: Address): HoldfastError {
  const at = formatAddress(address);
  const directory = address.kind === 'unix' ? dirname(address.path) : '';
  switch (errnoOf(error)) {
    case 'EADDRINUSE':
      return inUse(`${at} is in use by another process; stop it or choose another address`, error);
    case 'EACCES':
    case 'EPERM':
      return new HoldfastError(
        'PERMISSION_DENIED',
        `can't listen on ${at}: ${address.kind === 'unix' ? `directory ${directory} is not writable for this user` : 'this user may not use that port'}`,
        { cause: error },
      );
    case 'ENOTDIR':
      return new HoldfastError('FAILED_PRECONDITION', `can't listen on ${at}: ${directory} is not a directory`, {
        cause: error,
      });
    case 'ENOENT':
      return new HoldfastError('FAILED_PRECONDITION', `can't listen on ${at}: directory ${directory} does not exist`, {
        cause: error,
      });
    case 'EROFS':
      return new HoldfastError(
        'FAILED_PRECONDITION',
        `can't listen on ${at}: ${directory} is on a read-only filesystem`,
        {
          cause: error,
        },
      );
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return new HoldfastError('INVALID_ARGUMENT', `can't listen on ${at}: this machine has no such address`, {
        reason: 'BadField',
        cause: error,
      });
    default:
      return new HoldfastError('INTERNAL', `can't listen on ${at}: ${messageOf(error)}`, { cause: error });
  }
}

/** Without group and others from bind() on: a chmod afterwards would leave a moment in which anyone may connect. */
function privately(listen: () => void): void {
  const before = process.umask(0o177);
  try {
    listen();
  } finally {
    process.umask(before);
  }
}

/** Listens, or throws an error that names the address. The result's address has the real port. */
export async function listenAt(address: Address): Promise<{ server: Server; address: Address }> {
  if (address.kind === 'unix') {
    checkDirectory(address.path);
    await clearStale(address.path);
  }
  const server = createServer({ noDelay: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) => reject(listenError(error, address)));
    server.once('listening', resolve);
    // Node binds a unix socket within the call of listen().
    if (address.kind === 'unix') privately(() => server.listen({ path: address.path }));
    else server.listen({ host: address.host, port: address.port });
  });
  server.removeAllListeners('error');
  const bound = server.address();
  if (address.kind === 'unix' || bound === null || typeof bound === 'string') return { server, address };
  return { server, address: { ...address, port: bound.port } };
}
