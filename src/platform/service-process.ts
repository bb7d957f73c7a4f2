// A process of ours that runs for long, started and watched by this one: unlike a detached one it ends with us, because its
// standard input is a pipe from here that closes when we end, however we end.

import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { errnoOf, HoldfastError, messageOf } from '../base/index.js';

export interface ServiceOptions {
  /** Receives stdout and stderr; made with mode 0600, appended to. */
  readonly logFile: string;
  /** Added to PATH and LC_ALL. */
  readonly env: Readonly<Record<string, string>>;
}

export interface ServiceProcess {
  readonly pid: number;
  kill(signal: NodeJS.Signals): void;
  /** Resolves once it has been reaped. */
  readonly exited: Promise<{ readonly code: number | null; readonly signal: string | null }>;
}

/** Resolves once the process runs. Throws INTERNAL naming the program when it can't be started. */
export async function spawnService(
  program: string,
  args: readonly string[],
  options: ServiceOptions,
): Promise<ServiceProcess> {
  const log = openSync(options.logFile, 'a', 0o600);
  try {
    const child = spawn(program, args, {
      stdio: ['pipe', log, log],
      env: { PATH: process.env.PATH, LC_ALL: 'C', ...options.env },
      cwd: '/',
      shell: false,
      // A group of its own: Ctrl-C at the terminal reaches us alone, and we end the parts in order.
      detached: true,
    });
    const exited = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
      child.once('exit', (code, signal) => resolve({ code, signal }));
    });
    child.stdin?.on('error', () => {});
    const pid = await new Promise<number>((resolve, reject) => {
      child.once('spawn', () => resolve(child.pid ?? -1));
      child.once('error', (cause) => {
        const code = errnoOf(cause) === 'EAGAIN' ? 'RESOURCE_EXHAUSTED' : 'INTERNAL';
        reject(new HoldfastError(code, `cannot start "${program}": ${messageOf(cause)}`, { cause }));
      });
    });
    return {
      pid,
      exited,
      kill: (signal) => {
        child.kill(signal);
      },
    };
  } finally {
    closeSync(log);
  }
}
