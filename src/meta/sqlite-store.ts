// The metadata of a cluster in one SQLite file, owned by the one controller. Owner: this process, exclusively, from open to
// close. Invariants: every change is one transaction, synced before it is acknowledged; every row read is checked against its checksum. May fail:
// a full disk (nothing changed, the store goes on); an I/O error, after which the disk's state is unknown, so that the store
// refuses everything until it is opened anew; damage, which names the entry.

import type BetterSqlite3 from 'better-sqlite3';
import { HoldfastError, type Random } from '../base/index.js';
import { type EntryTable, LocalStore, type Row } from './local-store.js';
import type { MetadataStore, Selection } from './port.js';
import { type Database, loadSqlite, type OpenDatabase } from './sqlite-driver.js';
import { damaged, sqliteError } from './sqlite-errors.js';
import { createOwned, type OwnedFile, openOwned } from './sqlite-file.js';
import {
  type EntryColumns,
  entryCrc,
  IS_UNFINISHED,
  isEntrySound,
  readStore,
  storeCrc,
  VOLUME_ID,
} from './sqlite-schema.js';
import { upperBound } from './validate.js';

type Change = Parameters<EntryTable['write']>[0];

class SqliteTable implements EntryTable {
  readonly openedVersion: number;
  readonly #owned: OwnedFile;
  readonly #file: string;
  readonly #get: BetterSqlite3.Statement<[string], EntryColumns>;
  readonly #range: BetterSqlite3.Statement<[string, string, string, number], EntryColumns>;
  readonly #unfinished: BetterSqlite3.Statement<[string, string, string, number], EntryColumns>;
  readonly #ofVolume: BetterSqlite3.Statement<[string, string, string, string, number], EntryColumns>;
  readonly #write: (change: Change) => void;
  #entries: number;
  #failed: HoldfastError | undefined;

  constructor(owned: OwnedFile, file: string) {
    const { database } = owned;
    this.#owned = owned;
    this.#file = file;
    this.#get = database.prepare('SELECT * FROM entry WHERE key = ?');
    const keys = 'key >= ? AND key > ? AND key < ? ORDER BY key LIMIT ?';
    this.#range = database.prepare(`SELECT * FROM entry WHERE ${keys}`);
    this.#unfinished = database.prepare(`SELECT * FROM entry WHERE ${IS_UNFINISHED} AND ${keys}`);
    this.#ofVolume = database.prepare(`SELECT * FROM entry WHERE ${VOLUME_ID} = ? AND ${keys}`);
    this.#write = this.#prepareWrite(database);
    const { version, entries } = readStore(database, file);
    this.openedVersion = version;
    this.#entries = entries;
  }

  get(key: string): Row | undefined {
    return this.#guard(() => {
      const columns = this.#get.get(key);
      return columns === undefined ? undefined : this.#checked(columns);
    });
  }

  range(prefix: string, startAfter: string, limit: number, only?: Selection): Row[] {
    const keys = [prefix, startAfter, upperBound(prefix), limit] as const;
    return this.#guard(() => {
      const rows =
        only === undefined
          ? this.#range.all(...keys)
          : 'unfinished' in only
            ? this.#unfinished.all(...keys)
            : this.#ofVolume.all(only.volumeId, ...keys);
      return rows.map((columns) => this.#checked(columns));
    });
  }

  write(change: Change): void {
    this.#guard(() => this.#write(change));
  }

  close(): void {
    this.#owned.close();
  }

  #prepareWrite(database: Database): (change: Change) => void {
    const put = database.prepare('INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?)');
    const remove = database.prepare('DELETE FROM entry WHERE key = ?');
    const count = database.prepare('UPDATE store SET version = ?, entries = ?, crc = ? WHERE id = 1');
    const run = database.transaction(({ key, version, text, operationId = '' }: Change): number => {
      const before = this.#get.get(key) === undefined ? 0 : 1;
      const entries = this.#entries - before + (text === undefined ? 0 : 1);
      if (text === undefined) remove.run(key);
      else put.run(key, version, text, operationId, entryCrc(key, version, text, operationId));
      count.run(version, entries, storeCrc(version, entries));
      return entries;
    });
    return (change) => {
      this.#entries = run.immediate(change);
    };
  }

  #checked(columns: EntryColumns): Row {
    const { key, version, value, operation } = columns;
    if (!isEntrySound(columns)) throw damaged(this.#file, `is damaged (entry ${key})`);
    return { key, version, text: value, operationId: operation === '' ? undefined : operation };
  }

  #guard<T>(work: () => T): T {
    if (this.#failed !== undefined) throw this.#failed;
    try {
      return work();
    } catch (error) {
      const failure = sqliteError(error, this.#file);
      // What the page cache shows after a failed sync says nothing about the disk: no retry, and no more answers.
      if (failure.reason === 'DiskFailed') {
        this.#failed = new HoldfastError(
          'UNAVAILABLE',
          `${failure.message}; the metadata store stays closed until the controller is restarted`,
          { reason: 'DiskFailed', cause: error },
        );
        throw this.#failed;
      }
      throw failure;
    }
  }
}

export interface SqliteStoreOptions {
  /** Absolute path; its directory must exist, the file is made when it does not. */
  readonly file: string;
  readonly random: Random;
  /** The driver; better-sqlite3, loaded now, without it. */
  readonly open?: OpenDatabase;
}

/**
 * Opens the store. Throws FAILED_PRECONDITION with reason ToolMissing (no driver), PoolMissing (no directory),
 * PoolNotWritable, PoolForeign (another program's database), PoolInUse (another process has it); DATA_LOSS (Corrupt) when the
 * file is damaged or no database; RESOURCE_EXHAUSTED (NoSpace). Each names the file.
 */
export async function openSqliteStore(options: SqliteStoreOptions): Promise<MetadataStore> {
  return storeIn(openOwned(options.open ?? loadSqlite(), options.file, options.random), options.file);
}

/**
 * Makes a new store whose versions begin above `firstVersion`: one that takes the place of a lost store must not look older than that.
 * Throws ALREADY_EXISTS when the file is there, else as openSqliteStore().
 */
export async function createSqliteStore(options: SqliteStoreOptions, firstVersion: number): Promise<MetadataStore> {
  const { file, random } = options;
  return storeIn(createOwned(options.open ?? loadSqlite(), file, random, firstVersion), file);
}

function storeIn(owned: OwnedFile, file: string): MetadataStore {
  try {
    return new LocalStore(new SqliteTable(owned, file));
  } catch (error) {
    owned.close();
    throw sqliteError(error, file);
  }
}
