// SQLite with synchronous=FULL on a mounted volume. Every transaction that it acknowledged is there after every crash.

import { type ChildProcess, execFile, fork } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { realClock } from '../../../src/base/index.js';
import { distFolder } from '../../lib/build-once.js';
import type { TestNode, TestVolume } from '../../lib/csi-cluster.js';
import { AnswerTimes, answeredAfter, type Load } from './load.js';
import type { Committed, Journal } from './sqlite-process.js';

const program = join(distFolder, 'test/faults/loads/sqlite-process.js');
const endMs = 10_000;
const checkMs = 120_000;

export class SqliteLoad implements Load {
  readonly name: string;
  readonly volume: TestVolume;
  readonly durable = true;
  readonly fsType: 'ext4' | 'xfs';
  node: TestNode;
  readonly #answers = new AnswerTimes();
  readonly #committed: Record<Journal, number> = { wal: 0, rollback: 0 };
  #path = '';
  #seed: number;
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #failure = '';

  constructor(name: string, volume: TestVolume, node: TestNode, fsType: 'ext4' | 'xfs', seed: number) {
    this.name = name;
    this.volume = volume;
    this.node = node;
    this.fsType = fsType;
    this.#seed = seed;
  }

  get #folder(): string {
    return join(this.#path, 'sqlite');
  }

  async start(path: string): Promise<void> {
    this.#path = path;
    mkdirSync(this.#folder, { recursive: true });
    await this.resume();
  }

  async resume(): Promise<void> {
    const child = fork(program, ['run', this.#folder, String(this.#seed++)], {
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      execArgv: [],
    });
    let said = '';
    child.stderr!.on('data', (chunk) => {
      said = (said + chunk).slice(-2_000);
    });
    child.on('message', (message) => {
      const { journal, id } = message as Committed;
      this.#committed[journal] = id;
      if (child === this.#process) this.#answers.answered();
    });
    this.#ended = new Promise((resolve) => child.once('close', resolve));
    child.once('close', (code, signal) => {
      if (child === this.#process) this.#failure ||= `its process ended with ${signal ?? code}: ${said.trim()}`;
    });
    this.#process = child;
    this.#answers.run(true);
    await this.progress(realClock.wallMs());
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

  /** As a crash: there is nothing that SQLite does better when it is asked to end. */
  async pause(): Promise<void> {
    this.check();
    await this.kill();
  }

  async crash(path: string): Promise<void> {
    this.#process?.kill('SIGKILL');
    this.#process = undefined;
    this.#answers.run(false);
    this.#path = path;
  }

  async revive(): Promise<number> {
    await this.verify();
    await this.resume();
    return this.#answers.lastMs;
  }

  async verify(): Promise<string> {
    const acknowledged = { ...this.#committed };
    const options = { timeout: checkMs, encoding: 'utf8' as const };
    let found: Record<Journal, number>;
    try {
      const { stdout } = await promisify(execFile)(process.execPath, [program, 'check', this.#folder], options);
      found = JSON.parse(stdout);
    } catch (error) {
      throw new Error(`load ${this.name}: ${(error as Error).message}`);
    }
    for (const journal of ['wal', 'rollback'] as const) {
      const [have, had] = [found[journal], acknowledged[journal]];
      // At most the one under way is there without having been acknowledged.
      if (have < had || have > had + 1)
        throw new Error(`load ${this.name}: ${had} transactions were acknowledged on ${journal}.db, it holds ${have}`);
    }
    this.#committed.wal = found.wal;
    this.#committed.rollback = found.rollback;
    return `${this.acknowledged} transactions`;
  }

  get acknowledged(): number {
    return this.#committed.wal + this.#committed.rollback;
  }

  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    this.#answers.run(false);
    child?.kill('SIGKILL');
    await Promise.race([this.#ended, realClock.sleep(endMs)]);
  }
}
