// What SQLite and the system say, as HoldfastErrors that name the file.

import { dirname } from 'node:path';
import { corrupt, errnoOf, HoldfastError, messageOf } from '../base/index.js';

/** The SQLite result code (SQLITE_BUSY, SQLITE_IOERR_FSYNC, ...) of an error of the driver. */
export function sqliteCode(error: unknown): string | undefined {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string' && error.code.startsWith('SQLITE_')) {
    return error.code;
  }
  return undefined;
}

/** A file that must not be worked with; nothing was written to it. */
export function damaged(file: string, what: string, cause?: unknown): HoldfastError {
  return corrupt(
    `metadata file ${file} ${what}. It was left untouched: restore a backup in its place, or move it away and rebuild the metadata from the pools`,
    cause,
  );
}

export function inUse(file: string, cause?: unknown): HoldfastError {
  return new HoldfastError(
    'FAILED_PRECONDITION',
    `metadata file ${file} is in use by another process; exactly one controller may own it, so stop the other one first`,
    { reason: 'PoolInUse', cause },
  );
}

function full(file: string, cause: unknown): HoldfastError {
  return new HoldfastError('RESOURCE_EXHAUSTED', `the filesystem of metadata file ${file} is full; free space on it`, {
    reason: 'NoSpace',
    cause,
  });
}

function notWritable(file: string, why: string, cause: unknown): HoldfastError {
  return new HoldfastError('FAILED_PRECONDITION', `metadata file ${file} can't be written: ${why}`, {
    reason: 'PoolNotWritable',
    cause,
  });
}

/** A system error about the file or its directory. */
export function fileError(error: unknown, file: string): HoldfastError {
  const directory = dirname(file);
  switch (errnoOf(error)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return new HoldfastError(
        'FAILED_PRECONDITION',
        `directory ${directory} of metadata file ${file} ${errnoOf(error) === 'ENOTDIR' ? 'is not one' : 'does not exist'}; create it (or mount its filesystem) first`,
        { reason: 'PoolMissing', cause: error },
      );
    case 'EACCES':
    case 'EPERM':
      return notWritable(file, `this user may not write in ${directory}`, error);
    case 'EROFS':
      return notWritable(file, `${directory} is on a read-only filesystem`, error);
    case 'ENOSPC':
    case 'EDQUOT':
      return full(file, error);
    default:
      return new HoldfastError('INTERNAL', `metadata file ${file}: ${messageOf(error)}`, {
        reason: 'DiskFailed',
        cause: error,
      });
  }
}

/** Anything the driver throws while working with `file`. */
export function sqliteError(error: unknown, file: string): HoldfastError {
  if (error instanceof HoldfastError) return error;
  const code = sqliteCode(error);
  if (code === undefined) return fileError(error, file);
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) return inUse(file, error);
  if (code.startsWith('SQLITE_CORRUPT')) return damaged(file, `is damaged (${messageOf(error)})`, error);
  if (code.startsWith('SQLITE_NOTADB')) return damaged(file, 'is not a SQLite database', error);
  if (code === 'SQLITE_FULL') return full(file, error);
  if (code.startsWith('SQLITE_READONLY')) return notWritable(file, messageOf(error), error);
  if (code.startsWith('SQLITE_CANTOPEN')) return notWritable(file, `it can't be opened (${messageOf(error)})`, error);
  return new HoldfastError('UNAVAILABLE', `metadata file ${file}: ${code}, ${messageOf(error)}`, {
    reason: 'DiskFailed',
    cause: error,
  });
}
