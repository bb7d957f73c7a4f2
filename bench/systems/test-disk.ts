// A filesystem of its own for a pool: of a given size, and as slow as wanted. A file behind a loop device, in between, when it
// is to be slow, nbdkit's rate filter seen as a file through nbdfuse: so reads, writes and syncs are all held to the rate, which
// a cgroup does not do to what the page cache writes. Owner: one stage. Needs root. unmount() undoes whatever mount() did.

import { existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, precondition } from '../../src/base/index.js';
import { lastLine, type Processes, type Started } from '../processes.js';

const COMMAND_MS = 60_000;
const READY_MS = 20_000;
const POLL_MS = 20;

export interface TestDiskOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  /** For its files; the disk itself is mounted elsewhere. */
  readonly directory: string;
  readonly sizeBytes: number;
  /** 0: as fast as it is. */
  readonly bytesPerSecond: number;
}

/** Why none can be made here; '' when it can. */
export async function whyNoTestDisk(processes: Processes, slow: boolean): Promise<string> {
  if (process.getuid?.() !== 0) return 'mounting needs root';
  for (const [program, name] of slow
    ? [
        ['nbdkit', 'nbdkit'],
        ['nbdfuse', 'libnbd-bin'],
      ]
    : []) {
    if ((await processes.version(program!)) === undefined) return `install the Debian package ${name}`;
  }
  if (!existsSync('/dev/loop-control')) return 'there are no loop devices';
  return '';
}

export class TestDisk {
  readonly #options: TestDiskOptions;
  readonly #image: string;
  #servers: Started[] = [];
  #fuse = '';
  #loop = '';
  #target = '';

  constructor(options: TestDiskOptions) {
    this.#options = options;
    this.#image = join(options.directory, 'disk.img');
  }

  /** Makes the directory `target` and mounts a fresh ext4 there. */
  async mount(target: string): Promise<void> {
    const { directory, sizeBytes, bytesPerSecond } = this.#options;
    mkdirSync(directory, { recursive: true });
    writeFileSync(this.#image, '');
    truncateSync(this.#image, sizeBytes);
    const file = bytesPerSecond === 0 ? this.#image : await this.#throttled(bytesPerSecond);
    this.#loop = (await this.#command('losetup', '--find', '--show', file)).trim();
    await this.#command('mkfs.ext4', '-q', '-m', '0', '-E', 'lazy_itable_init=0,lazy_journal_init=0', this.#loop);
    mkdirSync(target, { recursive: true });
    await this.#command('mount', '-t', 'ext4', this.#loop, target);
    this.#target = target;
  }

  /** Returns the path of a file that is the image, but slow. */
  async #throttled(bytesPerSecond: number): Promise<string> {
    const { processes, directory } = this.#options;
    const socket = join(directory, 'disk.sock');
    const rate = ['--filter=rate', 'file', this.#image, `rate=${bytesPerSecond * 8}`];
    this.#servers.push(processes.start('nbdkit', ['--foreground', '--exit-with-parent', '--unix', socket, ...rate]));
    await this.#exists(socket);
    const mountpoint = join(directory, 'slow');
    mkdirSync(mountpoint, { recursive: true });
    const file = join(mountpoint, 'disk');
    this.#fuse = mountpoint;
    this.#servers.push(processes.start('nbdfuse', [file, '--unix', socket]));
    await this.#exists(file);
    return file;
  }

  /** May be called whatever mount() came to, and again. */
  async unmount(): Promise<void> {
    const { processes } = this.#options;
    if (this.#target !== '') processes.undo('umount', [this.#target], COMMAND_MS);
    if (this.#loop !== '') processes.undo('losetup', ['--detach', this.#loop], COMMAND_MS);
    if (this.#fuse !== '') processes.undo('umount', [this.#fuse], COMMAND_MS);
    for (const server of this.#servers.reverse()) await server.stop();
    this.#servers = [];
    this.#target = this.#loop = this.#fuse = '';
    rmSync(this.#image, { force: true });
  }

  async #exists(path: string): Promise<void> {
    const { clock } = this.#options;
    const deadline = clock.monotonicMs() + READY_MS;
    while (!existsSync(path)) {
      const ended = this.#servers.find((server) => server.ended);
      if (ended) throw precondition(`a slow disk can't be made: ${ended.lastWords()}`);
      if (clock.monotonicMs() > deadline) throw precondition(`a slow disk can't be made: ${path} does not appear`);
      await clock.sleep(POLL_MS);
    }
  }

  async #command(program: string, ...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.#options.processes.run(program, args, COMMAND_MS);
    if (code !== 0) throw precondition(`${program} ${args.join(' ')} failed: ${lastLine(stderr)}`);
    return stdout;
  }
}
