// One table from system error codes to HoldfastError, for everything that touches a pool.
//
// What can't be read is damage of that place and no more (DATA_LOSS): a bad sector is the commonest fault of a disk, and a peer has
// the same bytes. Any other error of the device fails the replica (DiskFailed): what the kernel shows from then on proves nothing.

import { corrupt, type ErrorCode, type ErrorReason, errnoOf, HoldfastError, messageOf } from '../base/index.js';

const table: Readonly<Record<string, readonly [ErrorCode, ErrorReason, string]>> = {
  ENOSPC: ['RESOURCE_EXHAUSTED', 'NoSpace', 'the filesystem is full'],
  EDQUOT: ['RESOURCE_EXHAUSTED', 'NoSpace', 'the quota is used up'],
  EMFILE: ['RESOURCE_EXHAUSTED', 'Generic', 'too many open files in this process; raise its limit (ulimit -n)'],
  ENFILE: ['RESOURCE_EXHAUSTED', 'Generic', 'too many open files on this machine'],
  EIO: ['UNAVAILABLE', 'DiskFailed', 'the disk reports an I/O error'],
  EROFS: ['UNAVAILABLE', 'DiskFailed', 'the filesystem is read-only'],
  ENODEV: ['UNAVAILABLE', 'DiskFailed', 'the device is gone'],
  ENXIO: ['UNAVAILABLE', 'DiskFailed', 'the device is gone'],
  ESTALE: ['UNAVAILABLE', 'DiskFailed', 'the file handle is stale'],
  ENOENT: ['NOT_FOUND', 'Generic', 'there is no such file or directory'],
  EEXIST: ['ALREADY_EXISTS', 'Generic', 'it is already there'],
  ENOTEMPTY: ['FAILED_PRECONDITION', 'Generic', 'the directory is not empty'],
  ENOTDIR: ['INVALID_ARGUMENT', 'BadField', 'it is not a directory'],
  EISDIR: ['INVALID_ARGUMENT', 'BadField', 'it is a directory'],
  ENAMETOOLONG: ['INVALID_ARGUMENT', 'BadField', 'the path is too long'],
  EACCES: ['PERMISSION_DENIED', 'PoolNotWritable', 'permission denied'],
  EPERM: ['PERMISSION_DENIED', 'PoolNotWritable', 'operation not permitted'],
};

/** What a read answers where a sector is bad, or what the filesystem knows of it. */
const unreadable: ReadonlySet<string> = new Set(['EIO', 'ENODATA', 'EBADMSG', 'EUCLEAN', 'EILSEQ', 'EREMOTEIO']);

/** Whether `error`, which a read of a DiskFile threw, says that the place is damaged; the rest of the file may be sound. */
export function isUnreadable(error: unknown): boolean {
  return error instanceof HoldfastError && error.code === 'DATA_LOSS';
}

/** The error of a failed file operation; `what` is the verb ("write", "open"), `path` what it was done to. */
export function diskError(error: unknown, what: string, path: string): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const errno = errnoOf(error);
  if (what === 'read' && errno !== undefined && unreadable.has(errno))
    return corrupt(`read ${path}: a part of it can't be read (${errno})`, error);
  const row = errno === undefined ? undefined : table[errno];
  if (row) return new HoldfastError(row[0], `${what} ${path}: ${row[2]} (${errno})`, { reason: row[1], cause: error });
  // An errno nobody expected on a pool is taken for a failing disk: the replica must not go on as if nothing were.
  const code: ErrorCode = errno === undefined ? 'INTERNAL' : 'UNAVAILABLE';
  const reason: ErrorReason = errno === undefined ? 'Generic' : 'DiskFailed';
  return new HoldfastError(code, `${what} ${path}: ${messageOf(error)}`, { reason, cause: error });
}
