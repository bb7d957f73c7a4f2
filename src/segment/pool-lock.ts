// The lock of a pool. Node has no flock, so it is a SQLite file opened in exclusive locking mode inside an exclusive
// transaction: the kernel drops the lock when the process ends, however it ends. Nothing is ever written into it.

import { HoldfastError, messageOf } from '../base/index.js';
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
