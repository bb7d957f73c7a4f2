// A verified load as a test sees it: started, watched, paused, verified, ended.

import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';
import { realClock } from '../../../src/base/index.js';
import { distFolder } from '../build-once.js';
import type { FromLoad, LoadCounts, LoadOptions, ToLoad } from './protocol.js';

export type { LoadOptions } from './protocol.js';

export interface Gap {
  readonly fromMs: number;
  readonly toMs: number;
}

/** Threads that requests may block: writers, the file writer, and some for closing and opening. */
const threads = 16;

export class VerifiedLoad {
  readonly options: LoadOptions;
  readonly #process: ChildProcess;
  readonly #ended: Promise<unknown>;
  readonly #failed: Promise<never>;
  #gaps: Gap[] = [];
  #waiting: { type: FromLoad['type']; resolve: (message: FromLoad) => void }[] = [];
  counts: LoadCounts = { writes: 0, reads: 0, flushes: 0, files: 0, refused: 0, late: 0 };
  answeredMs = 0;
  /** Why it is over, empty while all is well. */
  failure = '';

  constructor(options: LoadOptions) {
    this.options = options;
    this.#process = fork(join(distFolder, 'test/lib/load/load-process.js'), {
      execArgv: [],
      env: { ...process.env, UV_THREADPOOL_SIZE: String(threads) },
    });
    this.#ended = new Promise((resolve) => this.#process.once('exit', resolve));
    this.#failed = new Promise<never>((_, reject) => {
      const fail = (message: string) => {
        this.failure ||= message;
        reject(new Error(`load ${options.name}: ${message}`));
      };
      this.#process.on('message', (message) => {
        this.#heard(message as FromLoad);
        if ((message as FromLoad).type === 'failed') fail((message as FromLoad & { type: 'failed' }).message);
      });
      this.#process.once('exit', (code, signal) => fail(`its process ended with ${signal ?? code}`));
    });
    this.#failed.catch(() => {});
  }

  #heard(message: FromLoad): void {
    if (message.type === 'gap') this.#gaps.push({ fromMs: message.fromMs, toMs: message.toMs });
    if (message.type === 'alive') {
      this.counts = message.counts;
      this.answeredMs = message.answeredMs;
    }
    for (const waiter of this.#waiting.filter(({ type }) => type === message.type)) waiter.resolve(message);
    this.#waiting = this.#waiting.filter(({ type }) => type !== message.type);
  }

  #tell(message: ToLoad): void {
    if (this.failure !== '') throw new Error(`load ${this.options.name}: ${this.failure}`);
    this.#process.send(message);
  }

  #answer<Type extends FromLoad['type']>(type: Type): Promise<Extract<FromLoad, { type: Type }>> {
    const answer = new Promise<FromLoad>((resolve) => this.#waiting.push({ type, resolve }));
    return Promise.race([answer, this.#failed]) as Promise<Extract<FromLoad, { type: Type }>>;
  }

  /** Resolves when the first requests were answered. */
  async start(): Promise<void> {
    this.#tell({ type: 'start', options: this.options });
    await this.progress(realClock.wallMs());
  }

  /** Resolves when a request was answered after `sinceMs` (wall clock). */
  async progress(sinceMs: number): Promise<void> {
    while (this.answeredMs <= sinceMs || this.counts.writes === 0) await this.#answer('alive');
  }

  async pause(): Promise<void> {
    this.#tell({ type: 'pause' });
    await this.#answer('paused');
  }

  async resume(): Promise<void> {
    const since = realClock.wallMs();
    this.#tell({ type: 'resume' });
    await this.progress(since);
  }

  /** The volume is found at `path` from now on; what is under way at the old one may end as it likes, or never. */
  async move(path: string): Promise<void> {
    this.#tell({ type: 'move', path });
    await this.#answer('moved');
  }

  /** While paused or moved. Rejects naming the first wrong byte. */
  async verify(): Promise<{ bytes: number; files: number }> {
    this.#tell({ type: 'verify' });
    return this.#answer('verified');
  }

  /** Throws when an error or a wrong byte was met until now. */
  check(): void {
    if (this.failure !== '') throw new Error(`load ${this.options.name}: ${this.failure}`);
  }

  /** The longest time without an answer that overlaps the time since `sinceMs`, in milliseconds. */
  longestGap(sinceMs: number): number {
    const open = { fromMs: this.answeredMs, toMs: realClock.wallMs() };
    return Math.max(
      0,
      ...[...this.#gaps, open]
        .filter(({ toMs }) => toMs >= sinceMs)
        .map(({ fromMs, toMs }) => toMs - Math.max(fromMs, sinceMs)),
    );
  }

  /** At once. Resolves when the process is gone, or after 10 s: one that waits for a device can't end before the device does. */
  async kill(): Promise<void> {
    this.failure ||= 'killed';
    this.#process.kill('SIGKILL');
    await Promise.race([this.#ended, realClock.sleep(10_000)]);
  }
}
