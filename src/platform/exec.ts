// The only place that starts processes. Programs are named, never a shell line: an argument can hold any byte without
// being read as syntax. Every run is bounded in time and in output; a child gets a small fixed environment, so that
// nothing of ours (secrets in variables, a debugger's options) leaks into system tools.

import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { closeSync, fchmodSync, fstatSync, ftruncateSync, openSync } from 'node:fs';
import { errnoOf, HoldfastError, MiB, messageOf } from '../base/index.js';

export interface ExecResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** After this many milliseconds the program is killed and the run fails with DEADLINE_EXCEEDED. */
  readonly timeoutMs: number;
  /** Bytes for its standard input; without it standard input is empty. */
  readonly input?: string | Buffer;
  /** Added to the fixed environment (PATH, LC_ALL=C). */
  readonly env?: Readonly<Record<string, string>>;
  /** Exit codes that are a result rather than a failure. Default: 0 only. */
  readonly okCodes?: readonly number[];
  /** Bound on each of stdout and stderr, default 1 MiB. More stdout fails the run, of stderr the end is kept. */
  readonly maxOutputBytes?: number;
  /** A descriptor of ours that the program sees as number 3. */
  readonly inheritFd?: number;
}

export interface DetachedOptions {
  /** Receives stdout and stderr; made with mode 0600, emptied when it has outgrown 4 MiB. */
  readonly logFile: string;
  readonly env?: Readonly<Record<string, string>>;
}

export interface ChildOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** A descriptor of ours that the child sees as number 3. */
  readonly inheritFd: number;
  readonly onMessage: (message: unknown) => void;
}

/** A child that talks over Node's IPC channel and shares our stderr. */
export interface Child {
  readonly pid: number;
  /** False when the channel is gone (the child died); never throws. */
  send(message: object): boolean;
  kill(signal: NodeJS.Signals): void;
  /** Resolves once the child has been reaped. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
}

export interface Exec {
  /**
   * Runs a program to its end. Errors: FAILED_PRECONDITION/ToolMissing when it is not installed (names the package),
   * DEADLINE_EXCEEDED on timeout, RESOURCE_EXHAUSTED when it writes too much, INTERNAL for any other exit than okCodes.
   */
  run(program: string, args: readonly string[], options: RunOptions): Promise<ExecResult>;
  /** Starts a process in a session of its own that outlives us; resolves with its pid once it runs. */
  spawnDetached(program: string, args: readonly string[], options: DetachedOptions): Promise<number>;
  /** Starts a child of ours with an IPC channel; resolves once it runs. */
  spawnChild(program: string, args: readonly string[], options: ChildOptions): Promise<Child>;
}

const defaultOutputBytes = MiB;
const logFileBytesMax = 4 * MiB;
/** A killed program may sit in the kernel (a device that does not answer): after this long it is left behind. */
const reapMs = 2_000;
const fallbackPath = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Which Debian package brings which program, for the error that a missing one gives. */
const packages: Readonly<Record<string, string>> = {
  mount: 'mount',
  umount: 'mount',
  losetup: 'mount',
  findmnt: 'util-linux',
  blkid: 'util-linux',
  blockdev: 'util-linux',
  prlimit: 'util-linux',
  flock: 'util-linux',
  fsfreeze: 'util-linux',
  'mkfs.ext4': 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  resize2fs: 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  xfs_growfs: 'xfsprogs',
  xfs_repair: 'xfsprogs',
  'mkfs.btrfs': 'btrfs-progs',
  btrfs: 'btrfs-progs',
  fallocate: 'util-linux',
  modprobe: 'kmod',
  stat: 'coreutils',
  dd: 'coreutils',
  tee: 'coreutils',
  sync: 'coreutils',
};

export function createExec(): Exec {
  return { run, spawnDetached, spawnChild };
}

function environment(extra: Readonly<Record<string, string>> | undefined): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH || fallbackPath, LC_ALL: 'C', ...extra };
}

function spawnFailure(program: string, error: unknown): HoldfastError {
  if (errnoOf(error) === 'ENOENT') {
    const owner = packages[program];
    const advice = owner ? `install the Debian package "${owner}"` : 'install it or correct PATH';
    return new HoldfastError('FAILED_PRECONDITION', `the program "${program}" is missing: ${advice}`, {
      reason: 'ToolMissing',
      cause: error,
    });
  }
  return new HoldfastError('INTERNAL', `cannot start "${program}": ${messageOf(error)}`, { cause: error });
}

/** The last line of a program's complaint that says something, bounded for use in a sentence. */
function lastLine(text: string): string {
  const lines = text.split('\n').filter((line) => line.trim() !== '');
  return (lines.at(-1) ?? 'no message').trim().slice(0, 300);
}

/** Collects at most `limit` bytes; tells when there was more. Keeps the end when `keepEnd`. */
class Output {
  readonly #limit: number;
  readonly #keepEnd: boolean;
  #chunks: Buffer[] = [];
  #length = 0;
  overflowed = false;

  constructor(limit: number, keepEnd: boolean) {
    this.#limit = limit;
    this.#keepEnd = keepEnd;
  }

  add(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#length += chunk.length;
    if (this.#length <= this.#limit) return;
    this.overflowed = true;
    const all = Buffer.concat(this.#chunks);
    const kept = this.#keepEnd ? all.subarray(all.length - this.#limit) : all.subarray(0, this.#limit);
    this.#chunks = [kept];
    this.#length = kept.length;
  }

  text(): string {
    return Buffer.concat(this.#chunks).toString('utf8');
  }
}

function run(program: string, args: readonly string[], options: RunOptions): Promise<ExecResult> {
  const limit = options.maxOutputBytes ?? defaultOutputBytes;
  const stdio: StdioOptions = [options.input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'];
  if (options.inheritFd !== undefined) stdio.push(options.inheritFd);
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio, env: environment(options.env), cwd: '/', shell: false });
    const stdout = new Output(limit, false);
    const stderr = new Output(limit, true);
    let ending: HoldfastError | undefined;
    let reaper: NodeJS.Timeout | undefined;

    const stop = (error: HoldfastError) => {
      if (ending) return;
      ending = error;
      child.kill('SIGKILL');
      reaper = setTimeout(() => reject(error), reapMs);
    };
    const timer = setTimeout(() => {
      const text = `${program} did not end within ${options.timeoutMs} ms and was killed: ${lastLine(stderr.text())}`;
      stop(new HoldfastError('DEADLINE_EXCEEDED', text, { reason: 'Deadline' }));
    }, options.timeoutMs);

    child.stdout?.on('data', (chunk: Buffer) => {
      stdout.add(chunk);
      if (stdout.overflowed) {
        stop(new HoldfastError('RESOURCE_EXHAUSTED', `${program} wrote more than ${limit} bytes and was killed`));
      }
    });
    child.stderr?.on('data', (chunk: Buffer) => stderr.add(chunk));
    // A program may end before it has read its input: its exit code tells, not the broken pipe.
    child.stdin?.on('error', () => {});
    child.stdin?.end(options.input);
    child.on('error', (error) => {
      clearTimeout(timer);
      clearTimeout(reaper);
      reject(spawnFailure(program, error));
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      clearTimeout(reaper);
      if (ending) return reject(ending);
      const result = { code: code ?? -1, stdout: stdout.text(), stderr: stderr.text() };
      if ((options.okCodes ?? [0]).includes(result.code)) return resolve(result);
      const how = signal ? `was ended by ${signal}` : `failed with code ${result.code}`;
      const said = lastLine(result.stderr || result.stdout);
      reject(new ExecError(`${program} ${how}: ${said}`, result));
    });
  });
}

/** A program's own failure, with what it wrote: callers look for the cases they know and pass the rest on. */
export class ExecError extends HoldfastError {
  readonly result: ExecResult;
  constructor(message: string, result: ExecResult) {
    super('INTERNAL', message);
    this.result = result;
  }
}

function started(program: string, child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('spawn', () => resolve(child.pid ?? -1));
    child.once('error', (error) => reject(spawnFailure(program, error)));
  });
}

async function spawnDetached(program: string, args: readonly string[], options: DetachedOptions): Promise<number> {
  const log = openSync(options.logFile, 'a', 0o600);
  try {
    fchmodSync(log, 0o600);
    if (fstatSync(log).size > logFileBytesMax) ftruncateSync(log, 0);
    const child = spawn(program, args, {
      detached: true,
      stdio: ['ignore', log, log],
      env: environment(options.env),
      cwd: '/',
      shell: false,
    });
    const pid = await started(program, child);
    child.unref();
    return pid;
  } finally {
    closeSync(log);
  }
}

async function spawnChild(program: string, args: readonly string[], options: ChildOptions): Promise<Child> {
  const child = spawn(program, args, {
    stdio: ['ignore', 'inherit', 'inherit', options.inheritFd, 'ipc'],
    env: environment(options.env),
    cwd: '/',
    shell: false,
  });
  const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  child.on('message', options.onMessage);
  const pid = await started(program, child);
  // A failed send means that the child is going: its exit is what the owner acts on.
  child.on('error', () => {});
  return {
    pid,
    exited,
    send: (message) => child.connected && child.send(message, () => {}),
    kill: (signal) => {
      child.kill(signal);
    },
  };
}
