// The process of a SQLite load: transactions on two databases, one with a write-ahead log, one with a rollback journal, each answered
// when SQLite said it is durable. What is in a database says by itself whether it is whole: see checkDatabase().
//
//   sqlite-process.js run FOLDER SEED    transactions without end; tells of each by IPC
//   sqlite-process.js check FOLDER       checks both; prints {"wal":N,"rollback":N}, the highest transaction in each

import { createHash } from 'node:crypto';
import { constants as osConstants } from 'node:os';
import { join } from 'node:path';
import Database from 'better-sqlite3';
import { realClock } from '../../../src/base/index.js';
import { seededRandom } from '../../lib/load/contents.js';

export type Journal = 'wal' | 'rollback';
export interface Committed {
  readonly journal: Journal;
  readonly id: number;
}

const journals: readonly Journal[] = ['wal', 'rollback'];
const pauseMs = 15;

function open(folder: string, journal: Journal): Database.Database {
  const db = new Database(join(folder, `${journal}.db`));
  db.pragma(`journal_mode = ${journal === 'wal' ? 'WAL' : 'PERSIST'}`);
  db.pragma('synchronous = FULL');
  db.pragma('cache_size = -256');
  return db;
}

const bodyOf = (id: number, version: number) =>
  createHash('sha256')
    .update(`${id} ${version}`)
    .digest('hex')
    .repeat(1 + ((id * 7 + version) % 60));

/** Each transaction adds a row, changes an older one, and keeps a sum that both of them count in. */
class Ledger {
  readonly #db: Database.Database;
  readonly #commit: (id: number, older: number) => void;
  #id: number;

  constructor(folder: string, journal: Journal) {
    this.#db = open(folder, journal);
    this.#db.exec(
      `CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, body TEXT NOT NULL);
       CREATE TABLE IF NOT EXISTS sums (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
       INSERT OR IGNORE INTO sums VALUES ('versions', 0);`,
    );
    this.#id = (this.#db.prepare('SELECT coalesce(max(id), 0) AS id FROM rows').get() as { id: number }).id;
    const insert = this.#db.prepare('INSERT INTO rows VALUES (?, 1, ?)');
    const version = this.#db.prepare('SELECT version FROM rows WHERE id = ?');
    const change = this.#db.prepare('UPDATE rows SET version = ?, body = ? WHERE id = ?');
    const add = this.#db.prepare("UPDATE sums SET value = value + ? WHERE name = 'versions'");
    this.#commit = this.#db.transaction((id: number, older: number) => {
      insert.run(id, bodyOf(id, 1));
      const next = older === 0 ? 0 : (version.get(older) as { version: number }).version + 1;
      if (older !== 0) change.run(next, bodyOf(older, next), older);
      add.run(older === 0 ? 1 : 2);
    });
  }

  /** Resolves when it is durable, by SQLite's word. */
  next(random: () => number): number {
    const id = this.#id + 1;
    this.#commit(id, Math.floor(random() * id));
    this.#id = id;
    return id;
  }
}

/** Throws when the database is not what whole transactions made. Returns the highest one. */
function checkDatabase(folder: string, journal: Journal): number {
  const db = open(folder, journal);
  try {
    const said = db.pragma('integrity_check', { simple: true });
    if (said !== 'ok') throw new Error(`${journal}: integrity_check says ${String(said)}`);
    let [count, sum] = [0, 0];
    for (const row of db.prepare('SELECT id, version, body FROM rows ORDER BY id').iterate()) {
      const { id, version, body } = row as { id: number; version: number; body: string };
      count++;
      sum += version;
      if (id !== count) throw new Error(`${journal}: transaction ${count} is missing below ${id}`);
      if (body !== bodyOf(id, version)) throw new Error(`${journal}: wrong contents in row ${id}`);
    }
    const { value } = db.prepare("SELECT value FROM sums WHERE name = 'versions'").get() as { value: number };
    if (value !== sum) throw new Error(`${journal}: the versions add up to ${sum}, the sum kept with them is ${value}`);
    return count;
  } finally {
    db.close();
  }
}

async function run(folder: string, seed: number): Promise<void> {
  const ledgers = journals.map((journal) => ({ journal, ledger: new Ledger(folder, journal) }));
  const random = seededRandom(seed);
  for (;;) {
    for (const { journal, ledger } of ledgers) {
      const id = ledger.next(random);
      process.send!({ journal, id } satisfies Committed);
      await realClock.sleep(pauseMs);
    }
  }
}

const [mode, folder, seed] = process.argv.slice(2);
if (mode === 'run') {
  process.on('disconnect', () => process.kill(process.pid, osConstants.signals.SIGKILL));
  run(folder!, Number(seed)).catch((error: Error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  });
} else {
  const found = Object.fromEntries(journals.map((journal) => [journal, checkDatabase(folder!, journal)]));
  process.stdout.write(`${JSON.stringify(found)}\n`);
}
