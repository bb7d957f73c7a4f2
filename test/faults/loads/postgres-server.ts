// A PostgreSQL server on a mounted volume, as its own user, found where Debian's packages put it.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { chownSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { realClock } from '../../../src/base/index.js';

const installed = '/usr/lib/postgresql';
const startMs = 60_000;
const stopMs = 30_000;
const settings = {
  listen_addresses: '',
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  shared_buffers: '8MB',
  max_connections: '8',
  max_wal_size: '48MB',
  min_wal_size: '32MB',
  checkpoint_timeout: '30s',
  log_min_messages: 'warning',
};

/** The newest version's programs; empty when it is not installed. */
export function postgresPrograms(): string {
  if (!existsSync(installed)) return '';
  const versions = readdirSync(installed).sort((a, b) => Number(b) - Number(a));
  const complete = (folder: string) =>
    ['initdb', 'postgres', 'psql', 'pg_amcheck', 'pg_checksums'].every((name) => existsSync(join(folder, name)));
  return versions.map((version) => join(installed, version, 'bin')).find(complete) ?? '';
}

function idOf(flag: '-u' | '-g'): number {
  const { stdout, status } = spawnSync('id', [flag, 'postgres'], { encoding: 'utf8' });
  return status === 0 ? Number(stdout) : -1;
}

/** Why PostgreSQL can't be used here; empty when it can. */
export function postgresMissing(): string {
  if (postgresPrograms() === '') return 'PostgreSQL is not installed';
  return idOf('-u') > 0 ? '' : 'there is no user postgres';
}

export class PostgresServer {
  readonly sockets = mkdtempSync(join(tmpdir(), 'hff-pg-'));
  readonly #bin = postgresPrograms();
  readonly #as = { uid: idOf('-u'), gid: idOf('-g') };
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #said = '';
  data = '';

  constructor() {
    chownSync(this.sockets, this.#as.uid, this.#as.gid);
  }

  get #options() {
    const env = {
      PATH: process.env.PATH,
      LC_ALL: 'C',
      PGHOST: this.sockets,
      PGUSER: 'postgres',
      PGDATABASE: 'postgres',
    };
    return { ...this.#as, env, cwd: '/' };
  }

  /** Runs one of its programs to the end. Throws with what it said when it fails. */
  async run(name: string, ...args: string[]): Promise<string> {
    const child = spawn(join(this.#bin, name), args, { ...this.#options, stdio: ['ignore', 'pipe', 'pipe'] });
    let [out, said] = ['', ''];
    child.stdout.on('data', (chunk) => {
      out = (out + chunk).slice(-(1 << 20));
    });
    child.stderr.on('data', (chunk) => {
      said = (said + chunk).slice(-2_000);
    });
    const code = await new Promise((resolve) => child.once('close', resolve));
    if (code === 0) return out;
    throw new Error(`${name} ended with ${code}: ${`${out}${said}`.slice(-2_000)}`);
  }

  spawn(name: string, ...args: string[]): ChildProcess {
    return spawn(join(this.#bin, name), args, { ...this.#options, stdio: ['pipe', 'pipe', 'pipe'] });
  }

  /** Makes a cluster of databases, with checksums, in a new folder of `path`. */
  async create(path: string): Promise<void> {
    this.data = join(path, 'postgres');
    mkdirSync(this.data, { mode: 0o700 });
    chownSync(this.data, this.#as.uid, this.#as.gid);
    await this.run('initdb', '-D', this.data, '--data-checksums', '-A', 'trust', '-U', 'postgres');
  }

  async start(): Promise<void> {
    // Of a server on a node that is gone; its number may be anybody's here.
    rmSync(join(this.data, 'postmaster.pid'), { force: true });
    const set = Object.entries({ ...settings, unix_socket_directories: this.sockets }).flatMap(([name, value]) => [
      '-c',
      `${name}=${value}`,
    ]);
    const child = spawn(join(this.#bin, 'postgres'), ['-D', this.data, ...set], {
      ...this.#options,
      stdio: ['ignore', 'ignore', 'pipe'],
      detached: true,
    });
    child.stderr.on('data', (chunk) => {
      this.#said = (this.#said + chunk).slice(-2_000);
    });
    this.#process = child;
    this.#ended = new Promise((resolve) => child.once('close', resolve));
    for (const endMs = realClock.monotonicMs() + startMs; ; await realClock.sleep(100)) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`PostgreSQL ended: ${this.#said}`);
      const answer = await this.run('psql', '-qAtXc', 'SELECT 1').catch(() => '');
      if (answer !== '') return;
      if (realClock.monotonicMs() > endMs) throw new Error(`PostgreSQL did not start: ${this.#said}`);
    }
  }

  /** Ends it in good order. */
  async stop(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    child?.kill('SIGINT');
    await this.#waitEnd();
  }

  /** All of its processes at once. They are gone when what they wait for lets them. */
  crash(): void {
    const pid = this.#process?.pid;
    this.#process = undefined;
    if (pid === undefined) return;
    signal(pid, 'SIGSTOP');
    for (const child of [...childrenOf(pid), pid]) signal(child, 'SIGKILL');
  }

  #waitEnd(): Promise<unknown> {
    return Promise.race([this.#ended, realClock.sleep(stopMs)]);
  }

  get running(): boolean {
    return this.#process !== undefined;
  }

  /** Ends it whatever state it is in, and removes what lies outside the volume. */
  async close(): Promise<void> {
    this.crash();
    await this.#waitEnd();
    rmSync(this.sockets, { recursive: true, force: true });
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It is gone.
  }
}

function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
