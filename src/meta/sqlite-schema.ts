// Tables of the metadata file and the steps from each schema to the next. Each row carries a checksum over all of it:
// SQLite has none, and a flipped bit in a value or key would otherwise be believed.
//
//   entry(key, version, value, operation, crc)   one row an entry; without rowid, so that the key is stored once
//   store(id = 1, version, entries, crc)         the store's version, and how many entries there must be
//
// Two indexes over members of the values, of those entries alone that have them: what is not finished, and what belongs to a volume.

import { crc32c, unknownVersion } from '../base/index.js';
import type { Database } from './sqlite-driver.js';
import { damaged } from './sqlite-errors.js';

export interface EntryColumns {
  readonly key: string;
  readonly version: number;
  readonly value: string;
  readonly operation: string;
  readonly crc: number;
}

interface StoreColumns {
  readonly version: number;
  readonly entries: number;
  readonly crc: number;
}

/** Terms of the indexes; a query uses one by the very same words. */
export const IS_UNFINISHED = `json_extract(value, '$.state') <> 'ready'`;
export const VOLUME_ID = `json_extract(value, '$.volumeId')`;

const steps: readonly string[] = [
  `CREATE TABLE entry (
     key TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL, operation TEXT NOT NULL, crc INTEGER NOT NULL
   ) STRICT, WITHOUT ROWID;
   CREATE TABLE store (
     id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, entries INTEGER NOT NULL, crc INTEGER NOT NULL
   ) STRICT;
   CREATE INDEX entry_unfinished ON entry (key) WHERE ${IS_UNFINISHED};
   CREATE INDEX entry_of_volume ON entry (${VOLUME_ID}, key) WHERE ${VOLUME_ID} IS NOT NULL;
   INSERT INTO store VALUES (1, 0, 0, ${storeCrc(0, 0)});`,
];

export const SCHEMA_VERSION = steps.length;

export function entryCrc(key: string, version: number, value: string, operation: string): number {
  return crc32c(Buffer.from(`${key}\n${version}\n${operation}\n${value}`));
}

export function storeCrc(version: number, entries: number): number {
  return crc32c(Buffer.from(`store\n${version}\n${entries}`));
}

export function isEntrySound({ key, version, value, operation, crc }: EntryColumns): boolean {
  return crc === entryCrc(key, version, value, operation);
}

export function readStore(database: Database, file: string): StoreColumns {
  const store = database.prepare<[], StoreColumns>('SELECT version, entries, crc FROM store WHERE id = 1').get();
  if (store === undefined || store.crc !== storeCrc(store.version, store.entries)) {
    throw damaged(file, 'is damaged (the row of the store itself)');
  }
  return store;
}

/** Sets the version of a store that has no entries yet. */
export function beginAt(database: Database, version: number): void {
  database.prepare('UPDATE store SET version = ?, crc = ? WHERE id = 1').run(version, storeCrc(version, 0));
}

/** Structure of every page, and every row once: a key changed by damage would otherwise just be absent. Reads only. */
export function checkContents(database: Database, file: string): void {
  const rows = database.pragma('integrity_check(4)') as { integrity_check: string }[];
  const findings = rows.map((row) => row.integrity_check).join('; ');
  if (findings !== 'ok') throw damaged(file, `is damaged (${findings.slice(0, 300)})`);
  const store = readStore(database, file);
  let entries = 0;
  for (const columns of database.prepare<[], EntryColumns>('SELECT * FROM entry').iterate()) {
    if (!isEntrySound(columns)) throw damaged(file, `is damaged (entry ${String(columns.key)})`);
    if (columns.version > store.version)
      throw damaged(file, `is damaged (entry ${columns.key} is newer than the store)`);
    entries++;
  }
  if (entries !== store.entries) {
    throw damaged(file, `is damaged (${entries} entries where ${store.entries} were written)`);
  }
}

/** Brings the schema to SCHEMA_VERSION in one transaction. Harmless when it is there. */
export function migrate(database: Database): void {
  const run = database.transaction(() => {
    const from = database.pragma('user_version', { simple: true }) as number;
    if (from > SCHEMA_VERSION)
      throw unknownVersion(`the schema of ${database.name}`, from, { min: 1, max: SCHEMA_VERSION });
    for (const step of steps.slice(from)) database.exec(step);
    if (from < SCHEMA_VERSION) database.pragma(`user_version = ${SCHEMA_VERSION}`);
  });
  run.immediate();
}
