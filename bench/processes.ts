// Programs the bench starts. Owner: one bench run. Invariant: whatever was started here is gone when stopAll() has resolved,
// and is killed when this process exits some other way.

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { type Clock, errnoOf, HoldfastError, precondition } from '../src/base/index.js';

const OUTPUT_BYTES_MAX = 1 << 20;
/** From the polite signal to the other one. A storage daemon flushes its volumes first. */
const STOP_GRACE_MS = 40_000;
const VERSION_MS = 10_000;

export interface RunResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Started {
  readonly pid: number;
  /** Lines of standard output so far, whole ones only. */
  lines(): string[];
  /** Writes one line to its standard input. */
  say(line: string): void;
  /** Resolves with the first line that `test` accepts. Rejects when the program ends first or time is up. */
  line(test: (line: string) => boolean, timeoutMs: number): Promise<string>;
  /** True once it has ended. */
  readonly ended: boolean;
  /** The last line of its standard error. */
  lastWords(): string;
  stop(): Promise<void>;
}

class Output {
  text = '';
  add(chunk: Buffer): void {
    this.text = (this.text + chunk.toString('utf8')).slice(-OUTPUT_BYTES_MAX);
  }
}

export class Processes {
  readonly #clock: Clock;
  readonly #signal: AbortSignal;
  readonly #directory: string;
  readonly #running = new Set<ChildProcess>();

  /** When `signal` aborts, what runs is killed and nothing more is started. Programs work in `directory`: fio leaves files there. */
  constructor(clock: Clock, signal: AbortSignal, directory = process.cwd()) {
    this.#clock = clock;
    this.#signal = signal;
    this.#directory = directory;
    process.on('exit', () => {
      for (const child of this.#running) child.kill('SIGKILL');
    });
  }

  #spawn(
    program: string,
    args: readonly string[],
    stdin: 'ignore' | 'pipe',
    env: Readonly<Record<string, string>> = {},
  ): ChildProcess {
    this.#signal.throwIfAborted();
    const child = spawn(program, args, {
      cwd: this.#directory,
      stdio: [stdin, 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C', ...env },
    });
    this.#running.add(child);
    child.on('exit', () => this.#running.delete(child));
    child.on('error', () => this.#running.delete(child));
    return child;
  }

  /** Runs a program to its end, whatever its exit code. Throws ToolMissing when it is not installed, Deadline when it takes too long. */
  run(
    program: string,
    args: readonly string[],
    timeoutMs: number,
    env: Readonly<Record<string, string>> = {},
  ): Promise<RunResult> {
    return new Promise((resolve, reject) => {
      const child = this.#spawn(program, args, 'ignore', env);
      const stdout = new Output();
      const stderr = new Output();
      const timer = this.#clock.after(timeoutMs, () => {
        child.kill('SIGKILL');
        reject(
          new HoldfastError('DEADLINE_EXCEEDED', `${program} did not end within ${timeoutMs} ms`, {
            reason: 'Deadline',
          }),
        );
      });
      const aborted = () => child.kill('SIGKILL');
      this.#signal.addEventListener('abort', aborted, { once: true });
      child.stdout!.on('data', (chunk: Buffer) => stdout.add(chunk));
      child.stderr!.on('data', (chunk: Buffer) => stderr.add(chunk));
      const over = () => {
        timer.cancel();
        this.#signal.removeEventListener('abort', aborted);
      };
      child.on('error', (error) => {
        over();
        reject(missing(program, error));
      });
      child.on('close', (code) => {
        over();
        if (this.#signal.aborted) reject(this.#signal.reason);
        else resolve({ code: code ?? -1, stdout: stdout.text, stderr: stderr.text });
      });
    });
  }

  /** Throws once the run was interrupted: for who waits without a program. */
  throwIfInterrupted(): void {
    this.#signal.throwIfAborted();
  }

  /** Runs a program that undoes something, even after an interrupt, and waits for it. Whether it worked is not asked. */
  undo(program: string, args: readonly string[], timeoutMs: number): void {
    spawnSync(program, args, { stdio: 'ignore', timeout: timeoutMs });
  }

  /** The first line that `program --version` prints; undefined when it is not installed. */
  async version(program: string): Promise<string | undefined> {
    try {
      const { stdout, stderr } = await this.run(program, ['--version'], VERSION_MS);
      return `${stdout}${stderr}`.trim().split('\n')[0] ?? '';
    } catch (error) {
      if (error instanceof HoldfastError && error.reason === 'ToolMissing') return undefined;
      throw error;
    }
  }

  /** Starts a server. Its standard input stays open for as long as we live, so that it can notice our end. */
  start(program: string, args: readonly string[], env: Readonly<Record<string, string>> = {}): Started {
    const child = this.#spawn(program, args, 'pipe', env);
    const stdout = new Output();
    const stderr = new Output();
    let ended = false;
    const waiting = new Set<() => void>();
    const wake = () => {
      for (const look of [...waiting]) look();
    };
    const exited = new Promise<void>((resolve) => {
      const over = () => {
        ended = true;
        wake();
        resolve();
      };
      child.on('close', over);
      child.on('error', (error) => {
        stderr.add(Buffer.from(error.message));
        over();
      });
    });
    child.stdin!.on('error', () => {});
    child.stdout!.on('data', (chunk: Buffer) => {
      stdout.add(chunk);
      wake();
    });
    child.stderr!.on('data', (chunk: Buffer) => stderr.add(chunk));
    const lines = () => stdout.text.split('\n').slice(0, -1);
    return {
      pid: child.pid ?? -1,
      lines,
      say: (text) => void child.stdin!.write(`${text}\n`),
      lastWords: () => lastLine(stderr.text),
      get ended() {
        return ended;
      },
      line: (test, timeoutMs) =>
        new Promise((resolve, reject) => {
          const timer = this.#clock.after(timeoutMs, () =>
            settle(new HoldfastError('DEADLINE_EXCEEDED', `${program} was not ready within ${timeoutMs} ms`)),
          );
          const settle = (outcome: string | Error) => {
            timer.cancel();
            waiting.delete(look);
            if (typeof outcome === 'string') resolve(outcome);
            else reject(outcome);
          };
          const look = () => {
            const found = lines().find(test);
            if (found !== undefined) settle(found);
            else if (ended) settle(precondition(`${program} ended before it was ready: ${lastLine(stderr.text)}`));
          };
          waiting.add(look);
          look();
        }),
      stop: async () => {
        if (ended) return;
        child.kill('SIGTERM');
        const killer = this.#clock.after(STOP_GRACE_MS, () => child.kill('SIGKILL'));
        await exited;
        killer.cancel();
      },
    };
  }

  /** Ends everything that still runs. */
  async stopAll(): Promise<void> {
    const running = [...this.#running];
    await Promise.all(
      running.map(
        (child) =>
          new Promise<void>((resolve) => {
            if (child.exitCode !== null || child.signalCode !== null) return resolve();
            const killer = this.#clock.after(STOP_GRACE_MS, () => child.kill('SIGKILL'));
            child.once('exit', () => {
              killer.cancel();
              resolve();
            });
            child.kill('SIGTERM');
          }),
      ),
    );
  }
}

export function lastLine(text: string): string {
  return text.trim().split('\n').at(-1)?.trim().slice(0, 300) || 'no message';
}

function missing(program: string, error: Error): HoldfastError {
  if (errnoOf(error) !== 'ENOENT') return new HoldfastError('INTERNAL', `cannot start ${program}: ${error.message}`);
  return precondition(`${program} is not installed`, 'ToolMissing');
}
