// The life of the SQLite file: made whole or not at all, checked before anything may change it, owned by one process.
// Invariants: a file under the final name has its schema (it is made under another name and linked into place), so an empty
// or foreign file there is never taken for a new store; a file that fails a check is closed without a write to it or to its
// log. May fail: see sqlite-errors.ts, every failure names the file.
//
// The lock is a POSIX record lock: closing any other descriptor of the file in this process drops it. So nothing here, and
// nothing else in the process, may open the file by other means than SQLite while it is owned.

import {
  accessSync,
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readdirSync,
  readSync,
  realpathSync,
  rmSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { errnoOf, HoldfastError, messageOf, type Random, unknownVersion } from '../base/index.js';
import type { Database, OpenDatabase } from './sqlite-driver.js';
import { damaged, fileError, inUse, sqliteCode, sqliteError } from './sqlite-errors.js';
import { beginAt, checkContents, migrate, SCHEMA_VERSION } from './sqlite-schema.js';
import { walDamage } from './sqlite-wal.js';

/** "HFMD" in the file's header, at the place SQLite keeps for the application. */
export const APPLICATION_ID = 0x48464d44;
const MAGIC = 'SQLite format 3\0';
/** How long a lock is waited for: the moment in which a predecessor that was told to stop is still closing. */
const LOCK_WAIT_MS = 500;

const creating = (file: string) => `${basename(file)}.creating-`;

/** Files owned by this process, see above. */
const owned = new Set<string>();

export interface OwnedFile {
  readonly database: Database;
  /** Closes the database and lets go of the file. */
  close(): void;
}

function syncDirectory(folder: string): void {
  const fd = openSync(folder, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function create(open: OpenDatabase, file: string, random: Random, firstVersion = 0): void {
  const temporary = join(dirname(file), creating(file) + random.uuid());
  try {
    const database = open(temporary);
    try {
      chmodSync(temporary, 0o600);
      database.pragma('synchronous = FULL');
      database.pragma(`application_id = ${APPLICATION_ID}`);
      migrate(database);
      if (firstVersion > 0) beginAt(database, firstVersion);
    } finally {
      database.close();
    }
    // A link, not a rename: it fails when another controller was faster, instead of replacing its file.
    linkSync(temporary, file);
    unlinkSync(temporary);
    syncDirectory(dirname(file));
  } catch (error) {
    for (const suffix of ['', '-journal', '-wal', '-shm']) rmSync(temporary + suffix, { force: true });
    if (errnoOf(error) !== 'EEXIST') throw sqliteError(error, file);
  }
}

function readHeader(file: string): Buffer {
  const fd = openSync(file, 'r');
  try {
    const bytes = Buffer.alloc(100);
    return bytes.subarray(0, readSync(fd, bytes, 0, 100, 0));
  } finally {
    closeSync(fd);
  }
}

/** Looks at the first page without SQLite, so that a file of someone else is not even opened as a database. */
function checkHeader(file: string): void {
  const header = readHeader(file);
  if (header.length < 100 || header.toString('latin1', 0, 16) !== MAGIC) {
    throw damaged(file, header.length === 0 ? 'is empty' : 'is not a SQLite database');
  }
  const application = header.readUInt32BE(68);
  if (application !== APPLICATION_ID) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `${file} is a SQLite database of another program (application id ${application}); choose another path`,
      { reason: 'PoolForeign' },
    );
  }
  // Journal modes of writer and reader: both 1 as made, both 2 since the first opening. Others would open, but not for writing.
  if (header[18] !== header[19] || (header[18] !== 1 && header[18] !== 2)) {
    throw damaged(file, 'is damaged (file format numbers of its header)');
  }
  const schema = header.readInt32BE(60);
  if (schema < 1) throw damaged(file, `is damaged (schema ${schema})`);
  if (schema > SCHEMA_VERSION)
    throw unknownVersion(`the schema of metadata file ${file}`, schema, { min: 1, max: SCHEMA_VERSION });
}

/** Everything in it, through a connection that cannot write. */
function checkFile(open: OpenDatabase, file: string): void {
  const torn = walDamage(`${file}-wal`);
  if (torn !== undefined) throw damaged(file, `is damaged: ${torn}`);
  const database = open(file, { readonly: true, timeout: LOCK_WAIT_MS });
  try {
    checkContents(database, file);
  } catch (error) {
    // A query that fits the schema and is refused: the schema is not what was written.
    if (sqliteCode(error) === 'SQLITE_ERROR') throw damaged(file, `is damaged (${messageOf(error)})`, error);
    throw error;
  } finally {
    database.close();
  }
}

function checkPlace(file: string): void {
  try {
    if (!statSync(dirname(file)).isDirectory()) throw Object.assign(new Error('not a directory'), { code: 'ENOTDIR' });
    accessSync(dirname(file), constants.R_OK | constants.W_OK | constants.X_OK);
    if (existsSync(file)) {
      if (!statSync(file).isFile()) throw damaged(file, 'is not a regular file');
      accessSync(file, constants.R_OK | constants.W_OK);
    } else if (existsSync(`${file}-wal`)) {
      throw damaged(file, 'is missing, while its write-ahead log is there');
    }
  } catch (error) {
    throw error instanceof HoldfastError ? error : fileError(error, file);
  }
}

/** Takes the lock that stands until close, and the settings under which a commit is durable. */
function own(database: Database): void {
  database.pragma('locking_mode = EXCLUSIVE');
  database.pragma('journal_mode = WAL');
  database.pragma('synchronous = FULL');
  database.pragma('trusted_schema = OFF');
  migrate(database);
  // From here on the log is ours alone and empty (see sqlite-wal.ts).
  database.pragma('wal_checkpoint(TRUNCATE)');
}

function removeLeftovers(file: string): void {
  for (const name of readdirSync(dirname(file))) {
    if (name.startsWith(creating(file))) rmSync(join(dirname(file), name), { force: true });
  }
}

/** Makes a file whose versions begin above `firstVersion`. Throws ALREADY_EXISTS when there is one. */
export function createOwned(open: OpenDatabase, file: string, random: Random, firstVersion: number): OwnedFile {
  checkPlace(file);
  if (existsSync(file))
    throw new HoldfastError('ALREADY_EXISTS', `${file} exists already; a new metadata file does not replace one`);
  create(open, file, random, firstVersion);
  return openOwned(open, file, random);
}

/** Opens the file at `file`, making it when there is none. Throws a HoldfastError that names it. */
export function openOwned(open: OpenDatabase, file: string, random: Random): OwnedFile {
  checkPlace(file);
  const name = join(realpathSync(dirname(file)), basename(file));
  if (owned.has(name)) throw inUse(file);
  if (!existsSync(file)) create(open, file, random);
  let database: Database | undefined;
  try {
    checkHeader(file);
    checkFile(open, file);
    database = open(file, { timeout: LOCK_WAIT_MS, fileMustExist: true });
    own(database);
    removeLeftovers(file);
  } catch (error) {
    closeQuietly(database);
    throw sqliteError(error, file);
  }
  owned.add(name);
  const opened = database;
  return {
    database: opened,
    close() {
      owned.delete(name);
      opened.close();
    },
  };
}

function closeQuietly(database: Database | undefined): void {
  try {
    database?.close();
  } catch (error) {
    // The error that led here is the one to tell.
    void messageOf(error);
  }
}
