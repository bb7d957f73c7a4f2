// The lock of a pool. Node has no flock, so it is a SQLite file opened in exclusive locking mode inside an exclusive
// transaction: the kernel drops the lock when the process ends, however it ends. Nothing is ever written into it.

import { readFileSync, statSync } from 'node:fs';
import { errnoOf, HoldfastError, messageOf } from '../base/index.js';
import type { DiskLock } from './disk.js';

export async function lockPoolFile(path: string): Promise<DiskLock> {
  const Database = await loadSqlite();
  let database: InstanceType<typeof Database> | undefined;
  try {
    database = new Database(path, { timeout: 0 });
    database.pragma('locking_mode = EXCLUSIVE');
    database.exec('BEGIN EXCLUSIVE');
  } catch (error) {
    database?.close();
    throw lockError(error, path);
  }
  const held = database;
  return { release: () => held.close() };
}

/**
 * Whether a process holds the lock, found out from the kernel's list of locks and without taking any: a daemon that starts just now is not
 * disturbed. Locks of processes outside this one's process namespace are not in that list.
 */
export function isPoolLocked(path: string): boolean {
  let file: { ino: number; dev: number };
  try {
    file = statSync(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw lockError(error, path);
  }
  const major = (file.dev >> 8) & 0xfff;
  const minor = (file.dev & 0xff) | ((file.dev >> 12) & 0xfff00);
  return readFileSync('/proc/locks', 'utf8')
    .split('\n')
    .some((line) => isLockOn(line, file.ino, major, minor));
}

/** A filesystem without a device of its own (major 0) may show another number here: then the inode alone tells. */
function isLockOn(line: string, inode: number, major: number, minor: number): boolean {
  const found = /\sWRITE\s+\S+\s+([0-9a-f]+):([0-9a-f]+):(\d+)\s/.exec(line);
  if (found === null || Number(found[3]) !== inode) return false;
  const [foundMajor, foundMinor] = [Number.parseInt(found[1]!, 16), Number.parseInt(found[2]!, 16)];
  return (foundMajor === major && foundMinor === minor) || major === 0 || foundMajor === 0;
}

async function loadSqlite() {
  try {
    return (await import('better-sqlite3')).default;
  } catch (error) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `better-sqlite3, which locks the pools, can't be loaded: ${messageOf(error)}; run "npm ci" with a C++ compiler, make and python3 at hand`,
      { reason: 'ToolMissing', cause: error },
    );
  }
}

function lockError(error: unknown, path: string): HoldfastError {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (code.startsWith('SQLITE_BUSY') || code.startsWith('SQLITE_LOCKED')) {
    return new HoldfastError(
      'FAILED_PRECONDITION',
      `${path} is locked by a running daemon; stop it or give this one another pool`,
      {
        reason: 'PoolInUse',
        cause: error,
      },
    );
  }
  if (code === 'SQLITE_NOTADB' || code === 'SQLITE_CORRUPT') {
    return new HoldfastError('DATA_LOSS', `${path} is no lock file of this program; it holds nothing, delete it`, {
      reason: 'Corrupt',
      cause: error,
    });
  }
  return new HoldfastError('PERMISSION_DENIED', `${path} can't be locked: ${messageOf(error)}`, {
    reason: 'PoolNotWritable',
    cause: error,
  });
}
