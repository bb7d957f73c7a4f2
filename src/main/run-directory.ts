// The run directory of a node: private, on a local filesystem, found by storage daemon, node plugin and holders.

import { realpathSync } from 'node:fs';
import { join } from 'node:path';
import { errnoOf, HoldfastError, invalid, messageOf } from '../base/index.js';
import { makeDirectory } from '../platform/index.js';

/** sun_path has 108 bytes with its terminator. */
const socketPathBytesMax = 107;
const longestName = '/attach/00000000-0000-0000-0000-000000000000.sock';

export interface RunDirectory {
  readonly path: string;
  /** The storage daemon's gRPC socket. */
  readonly storageSocket: string;
  readonly exportSocket: (volumeId: string) => string;
}

/** Makes it when it is missing. Throws a HoldfastError that names the directory. */
export function openRunDirectory(text: string): RunDirectory {
  let path: string;
  try {
    makeDirectory(text);
    makeDirectory(join(text, 'nbd'));
    path = realpathSync(text);
  } catch (error) {
    const code =
      errnoOf(error) === 'EACCES' || errnoOf(error) === 'EPERM' ? 'PERMISSION_DENIED' : 'FAILED_PRECONDITION';
    throw new HoldfastError(code, `the run directory ${text} can't be used: ${messageOf(error)}`, { cause: error });
  }
  const spare = socketPathBytesMax - Buffer.byteLength(longestName);
  if (Buffer.byteLength(path) > spare) {
    throw invalid(`the run directory ${path} is longer than ${spare} bytes: sockets in it could not be named`);
  }
  return {
    path,
    storageSocket: join(path, 'storage.sock'),
    exportSocket: (volumeId) => join(path, 'nbd', `${volumeId}.sock`),
  };
}
