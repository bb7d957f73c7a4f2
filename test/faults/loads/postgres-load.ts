// PostgreSQL on a mounted volume: several sessions insert and update rows that say themselves what they must hold. After each crash:
// its own recovery, pg_amcheck over tables and indexes, pg_checksums over all pages, and every acknowledged transaction.

import type { ChildProcess } from 'node:child_process';
import { createInterface } from 'node:readline';
import { realClock } from '../../../src/base/index.js';
import type { TestNode, TestVolume } from '../../lib/csi-cluster.js';
import { AnswerTimes, answeredAfter, type Load } from './load.js';
import { PostgresServer } from './postgres-server.js';

const sessions = 2;
const pauseMs = 25;
const body = (session: string, id: string, version: string) =>
  `repeat(md5(${session} || ' ' || ${id} || ' ' || ${version}), (1 + ${id} % 40)::int)`;

export class PostgresLoad implements Load {
  readonly name = 'postgres';
  readonly volume: TestVolume;
  readonly durable = true;
  readonly fsType: 'ext4' | 'xfs';
  node: TestNode;
  readonly #server = new PostgresServer();
  readonly #answers = new AnswerTimes();
  /** By session: its last acknowledged transaction. */
  readonly #committed: number[] = Array.from({ length: sessions }, () => 0);
  #clients: ChildProcess[] = [];
  #failure = '';
  #stopping = false;
  #idle: Promise<unknown>[] = [];
  #checks = 0;

  constructor(volume: TestVolume, node: TestNode, fsType: 'ext4' | 'xfs') {
    this.volume = volume;
    this.node = node;
    this.fsType = fsType;
  }

  async start(path: string): Promise<void> {
    await this.#server.create(path);
    await this.#server.start();
    await this.#server.run(
      'psql',
      '-qAtXc',
      `CREATE EXTENSION amcheck;
       CREATE TABLE ledger (session int, id int, version int NOT NULL, body text NOT NULL, PRIMARY KEY (session, id));
       CREATE INDEX by_version ON ledger (version, id);
       CHECKPOINT;`,
    );
    await this.#runSessions();
  }

  async #runSessions(): Promise<void> {
    this.#stopping = false;
    this.#answers.run(true);
    this.#idle = this.#committed.map((_, session) => this.#session(session));
    for (const one of this.#idle) one.catch(() => {});
    await this.progress(realClock.wallMs());
  }

  /** One connection: one transaction after the other, until told to stop. */
  async #session(session: number): Promise<void> {
    const client = this.#server.spawn('psql', '-qAtX', '-v', 'ON_ERROR_STOP=1');
    this.#clients.push(client);
    let said = '';
    client.stderr!.on('data', (chunk) => {
      said = (said + chunk).slice(-2_000);
    });
    client.stdin!.on('error', () => {});
    const lines = createInterface({ input: client.stdout! })[Symbol.asyncIterator]();
    while (!this.#stopping) {
      const id = this.#committed[session]! + 1;
      // An older row is changed in the same transaction: every version of it counts in what is checked.
      const older = `(SELECT coalesce(max(id), 0) * ${(id * 7919) % 1000} / 1000 FROM ledger WHERE session = ${session})`;
      client.stdin!.write(
        `BEGIN; INSERT INTO ledger VALUES (${session}, ${id}, 1, ${body(`${session}`, `${id}`, '1')});
         UPDATE ledger SET version = version + 1, body = ${body('session', 'id', '(version + 1)')}
         WHERE session = ${session} AND id = ${older}; COMMIT;\n\\echo ${id}\n`,
      );
      const { done, value } = await lines.next();
      if (!this.#clients.includes(client)) return;
      if (done || Number(value) !== id) {
        this.#failure ||= `session ${session} got ${done ? 'no answer' : value}: ${said.trim()}`;
        return;
      }
      this.#committed[session] = id;
      this.#answers.answered();
      await realClock.sleep(pauseMs);
    }
    client.stdin!.end();
  }

  check(): void {
    if (this.#failure !== '') throw new Error(`load ${this.name}: ${this.#failure}`);
  }

  progress(sinceMs: number): Promise<void> {
    return answeredAfter(this.#answers, sinceMs, () => this.check());
  }

  longestGap(sinceMs: number): number {
    return this.#answers.longest(sinceMs);
  }

  async pause(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#idle);
    this.check();
    this.#clients = [];
    this.#answers.run(false);
    await this.#server.stop();
  }

  async resume(): Promise<void> {
    await this.#server.start();
    await this.#runSessions();
  }

  async crash(path: string): Promise<void> {
    this.#stopping = true;
    const clients = this.#clients;
    this.#clients = [];
    for (const client of clients) client.kill('SIGKILL');
    this.#server.crash();
    this.#answers.run(false);
    this.#server.data = `${path}/postgres`;
  }

  async revive(): Promise<number> {
    await this.#server.start();
    await this.#checkRows();
    await this.#server.run('pg_amcheck', '--all', '--heapallindexed');
    await this.#server.stop();
    await this.#server.run('pg_checksums', '--check', '-D', this.#server.data);
    await this.#server.start();
    await this.#runSessions();
    return this.#answers.lastMs;
  }

  async #checkRows(): Promise<void> {
    this.#checks++;
    const wrong = `count(*) FILTER (WHERE body <> ${body('session', 'id', 'version')})`;
    for (const [session, had] of this.#committed.entries()) {
      const query = `SELECT count(*), coalesce(max(id), 0), ${wrong} FROM ledger WHERE session = ${session}`;
      const [count, highest, bad] = (await this.#server.run('psql', '-qAtXc', query)).trim().split('|').map(Number);
      const problem =
        bad! > 0
          ? `${bad} rows have wrong contents`
          : count !== highest || highest! < had || highest! > had + 1
            ? `${had} transactions were acknowledged, it holds ${count} up to ${highest}`
            : '';
      if (problem !== '') throw new Error(`load ${this.name}: session ${session}: ${problem}`);
      this.#committed[session] = highest!;
    }
  }

  async verify(): Promise<string> {
    await this.#server.run('pg_checksums', '--check', '-D', this.#server.data);
    await this.#server.start();
    await this.#checkRows();
    await this.#server.run('pg_amcheck', '--all', '--heapallindexed');
    await this.#server.stop();
    return `${this.acknowledged} transactions, checked ${this.#checks} times with pg_amcheck and pg_checksums`;
  }

  get acknowledged(): number {
    return this.#committed.reduce((sum, count) => sum + count, 0);
  }

  async kill(): Promise<void> {
    this.#stopping = true;
    const clients = this.#clients;
    this.#clients = [];
    for (const client of clients) client.kill('SIGKILL');
    await this.#server.close();
  }
}
