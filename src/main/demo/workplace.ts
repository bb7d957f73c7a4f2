// The demo's own directory, and what may be left of it in the system: processes that carry its name in their command line or
// write their errors into it, mounts below it, loop devices over files of it. All of it is found from the name alone, so that nothing has to be
// remembered and nothing else is ever touched.

import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  statfsSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Clock, HoldfastError, messageOf } from '../../base/index.js';
import type { Exec } from '../../platform/index.js';

export interface Leftovers {
  readonly processes: readonly { readonly pid: number; readonly command: string }[];
  /** Deepest and newest first. */
  readonly mounts: readonly string[];
  readonly loops: readonly string[];
}

/** Sockets below must keep within the 107 bytes of a socket's name. */
const nameBytesMax = 40;
const toolTimeoutMs = 10_000;
const dyingMs = 3_000;
const pollMs = 50;

function contentsOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Gone since it was listed, or not there at all: both mean nothing left.
    return '';
  }
}

function targetOf(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    // Gone, or another user's.
    return '';
  }
}

function namesIn(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Spaces and backslashes are written as octal numbers in mountinfo. */
function unescaped(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}

export class Workplace {
  readonly directory: string;

  /** Makes a new directory below `parent`, or below the system's for temporary files. */
  constructor(parent: string | undefined) {
    const base = parent ?? (Buffer.byteLength(tmpdir()) > nameBytesMax - 20 ? '/tmp' : tmpdir());
    try {
      mkdirSync(base, { recursive: true });
      this.directory = realpathSync(mkdtempSync(join(base, 'holdfast-')));
    } catch (cause) {
      throw new HoldfastError('FAILED_PRECONDITION', `no directory can be made in ${base}: ${messageOf(cause)}`, {
        cause,
      });
    }
    if (Buffer.byteLength(this.directory) <= nameBytesMax) return;
    this.remove();
    throw new HoldfastError('INVALID_ARGUMENT', `${base} is too long a name: sockets below it could not be named`);
  }

  path(...names: string[]): string {
    return join(this.directory, ...names);
  }

  freeBytes(): number {
    const { bavail, bsize } = statfsSync(this.directory);
    return bavail * bsize;
  }

  /** Regular files on disk, without what is mounted here. */
  filesBelow(directories: readonly string[]): string[] {
    return directories
      .flatMap((directory) => readdirSync(directory, { recursive: true, withFileTypes: true }))
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .filter((path) => !path.endsWith('.disk') && !path.startsWith(`${this.users}/`));
  }

  leftovers(): Leftovers {
    return { processes: this.#processes(), mounts: this.#mounts(), loops: this.#loops() };
  }

  /** Where things are mounted for their users. */
  get users(): string {
    return this.path('kubelet');
  }

  /** Ends the programs that work on what is mounted (a load that was interrupted), so that it can be unmounted. */
  endUsers(): void {
    const users = this.leftovers().processes.filter(({ command }) => command.includes(`${this.users}/`));
    for (const { pid } of users) killQuietly(pid);
  }

  #processes(): Leftovers['processes'] {
    const pids = namesIn('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
    return pids.flatMap((pid) => {
      const command = contentsOf(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim();
      const ours =
        command.includes(`${this.directory}/`) || targetOf(`/proc/${pid}/fd/2`).startsWith(`${this.directory}/`);
      return ours ? [{ pid: Number(pid), command }] : [];
    });
  }

  #mounts(): string[] {
    const targets = contentsOf('/proc/self/mountinfo')
      .split('\n')
      .map((line) => unescaped(line.split(' ')[4] ?? ''));
    return targets.filter((target) => target.startsWith(`${this.directory}/`)).reverse();
  }

  #loops(): string[] {
    return namesIn('/sys/block').flatMap((name) => {
      if (!name.startsWith('loop')) return [];
      const backing = contentsOf(`/sys/block/${name}/loop/backing_file`);
      return backing.startsWith(`${this.directory}/`) ? [`/dev/${name}`] : [];
    });
  }

  /** Ends and removes whatever is left, without asking anybody. The last resort. */
  async sweep(exec: Exec, clock: Clock): Promise<void> {
    const endMs = clock.monotonicMs() + dyingMs;
    for (let left = this.leftovers().processes; left.length > 0; left = this.leftovers().processes) {
      for (const { pid } of left) killQuietly(pid);
      if (clock.monotonicMs() > endMs) break;
      await clock.sleep(pollMs);
    }
    const { mounts, loops } = this.leftovers();
    // One that fails must not keep the others: what is left in the end is looked at afterwards.
    const attempt = (program: string, ...args: string[]) =>
      exec.run(program, args, { timeoutMs: toolTimeoutMs }).catch(() => undefined);
    for (const target of mounts) await attempt('umount', '-l', target);
    for (const loop of loops) await attempt('losetup', '-d', loop);
    // A filesystem that lost its device takes a moment to give it up.
    const goneMs = clock.monotonicMs() + dyingMs;
    while (describeLeftovers(this.leftovers()) !== '' && clock.monotonicMs() < goneMs) await clock.sleep(pollMs);
  }

  /** Files go last: nothing may be mounted below any more, or its contents would go, too. */
  remove(): void {
    const { mounts } = this.leftovers();
    if (mounts.length > 0) {
      throw new HoldfastError('FAILED_PRECONDITION', `${this.directory} stays: ${mounts.join(', ')} is still mounted`);
    }
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 3 });
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** "2 processes, 1 mount"; empty when there are none. */
export function countLeftovers({ processes, mounts, loops }: Leftovers): string {
  const counts = [
    [processes.length, 'process', 'processes'],
    [mounts.length, 'mount', 'mounts'],
    [loops.length, 'loop device', 'loop devices'],
  ] as const;
  return counts
    .filter(([count]) => count > 0)
    .map(([count, one, many]) => `${count} ${count === 1 ? one : many}`)
    .join(', ');
}

/** Each by name; empty when there are none. */
export function describeLeftovers(left: Leftovers): string {
  const parts = [
    ...left.processes.map(({ pid, command }) => `process ${pid} (${command.slice(0, 120)})`),
    ...left.mounts.map((target) => `mount ${target}`),
    ...left.loops.map((loop) => `loop device ${loop}`),
  ];
  return parts.join(', ');
}
