// The peers: one plain copy in a file, served over a unix socket. nbdkit works through the page cache; qemu-nbd goes past it
// (O_DIRECT, native AIO) and is the fair partner. Both answer a flush with fdatasync.

import { closeSync, existsSync, ftruncateSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, precondition } from '../../src/base/index.js';
import type { Processes, Started } from '../processes.js';
import { type Absent, type BenchSystem, nbdUri } from '../volume/system.js';

const READY_MS = 10_000;
const POLL_MS = 20;

export interface PeerOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly directory: string;
  readonly sizeBytes: number;
}

interface PeerKind extends Pick<BenchSystem, 'name' | 'title' | 'flush' | 'features'> {
  readonly program: string;
  readonly package: string;
  args(socket: string, file: string): string[];
}

const kinds: readonly PeerKind[] = [
  {
    name: 'nbdkit-file',
    title: 'nbdkit file',
    flush: 'yes',
    features: 'page cache; no encryption, checksum or compression',
    program: 'nbdkit',
    package: 'nbdkit',
    args: (socket, file) => ['--foreground', '--exit-with-parent', '--unix', socket, 'file', file],
  },
  {
    name: 'qemu-nbd-raw',
    title: 'qemu-nbd raw',
    flush: 'yes',
    features: 'O_DIRECT; no encryption, checksum or compression',
    program: 'qemu-nbd',
    package: 'qemu-utils',
    args: (socket, file) => [
      ...['--persistent', '--shared=0', '--format=raw', '--cache=none', '--aio=native'],
      ...['--socket', socket, file],
    ],
  },
];

/** One with which the others are compared. */
export const baselines = kinds.map(({ name }) => name);

class Peer implements BenchSystem {
  readonly name: string;
  readonly title: string;
  readonly copies = 1;
  readonly flush: string;
  readonly features: string;
  readonly #kind: PeerKind;
  readonly #options: PeerOptions;
  readonly #socket: string;
  readonly #file: string;
  #server: Started | undefined;

  constructor(kind: PeerKind, options: PeerOptions) {
    this.#kind = kind;
    this.#options = options;
    this.name = kind.name;
    this.title = kind.title;
    this.flush = kind.flush;
    this.features = kind.features;
    this.#socket = join(options.directory, `${kind.name}.sock`);
    this.#file = join(options.directory, `${kind.name}.img`);
  }

  async open(): Promise<void> {
    const { processes, clock, sizeBytes } = this.#options;
    const fd = openSync(this.#file, 'w');
    ftruncateSync(fd, sizeBytes);
    closeSync(fd);
    rmSync(this.#socket, { force: true });
    this.#server = processes.start(this.#kind.program, this.#kind.args(this.#socket, this.#file));
    const deadline = clock.monotonicMs() + READY_MS;
    while (!existsSync(this.#socket)) {
      if (this.#server.ended) throw precondition(`${this.#kind.program} ended at once: ${this.#server.lastWords()}`);
      if (clock.monotonicMs() > deadline)
        throw precondition(`${this.#kind.program} made no socket within ${READY_MS} ms`);
      await clock.sleep(POLL_MS);
    }
  }
  uri(): string {
    return nbdUri(this.#socket, '');
  }
  pids(): number[] {
    return this.#server === undefined ? [] : [this.#server.pid];
  }
  async close(): Promise<void> {
    await this.#server?.stop();
    this.#server = undefined;
    rmSync(this.#file, { force: true });
    rmSync(this.#socket, { force: true });
  }
}

/** Each peer, or why it is left out. */
export async function findPeers(options: PeerOptions): Promise<{ systems: BenchSystem[]; absent: Absent[] }> {
  const systems: BenchSystem[] = [];
  const absent: Absent[] = [];
  for (const kind of kinds) {
    const version = await options.processes.version(kind.program);
    if (version !== undefined) systems.push(new Peer(kind, options));
    else absent.push({ name: kind.name, title: kind.title, reason: `install the Debian package ${kind.package}` });
  }
  return { systems, absent };
}
