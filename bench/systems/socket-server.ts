// A peer: one plain copy in a file, served as NBD over a unix socket by a program of others. What differs between peers is
// said by a PeerKind each; the life of the process and of its files is here.

import { closeSync, existsSync, openSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type Clock, precondition } from '../../src/base/index.js';
import type { Processes, Started } from '../processes.js';
import { type BenchSystem, nbdTarget, nbdUri } from './system.js';

const READY_MS = 20_000;
const POLL_MS = 20;
const PREPARE_MS = 120_000;
const PREPARE_TRIES = 8;

export interface PeerFiles {
  readonly socket: string;
  readonly image: string;
  /** For a secret; written by a kind that needs one. */
  readonly key: string;
  readonly sizeBytes: number;
}

export interface PeerKind extends Pick<BenchSystem, 'name' | 'title' | 'flush' | 'features'> {
  readonly program: string;
  /** Debian's. */
  readonly package: string;
  /** Makes the image, which does not exist yet; commands to run in turn. */
  prepare(files: PeerFiles): readonly (readonly [program: string, ...args: string[]])[];
  args(files: PeerFiles): string[];
}

export interface PeerOptions {
  readonly processes: Processes;
  readonly clock: Clock;
  readonly directory: string;
  readonly sizeBytes: number;
}

/** A preallocated file, so that no peer pays for allocation when others don't. */
export function preallocate({ image, sizeBytes }: PeerFiles): ['fallocate', ...string[]] {
  return ['fallocate', '--length', String(sizeBytes), image];
}

export class SocketServer implements BenchSystem {
  readonly name: string;
  readonly title: string;
  readonly copies = 1;
  readonly flush: string;
  readonly features: string;
  readonly #kind: PeerKind;
  readonly #options: PeerOptions;
  readonly #files: PeerFiles;
  #server: Started | undefined;

  constructor(kind: PeerKind, options: PeerOptions) {
    this.#kind = kind;
    this.#options = options;
    this.name = kind.name;
    this.title = kind.title;
    this.flush = kind.flush;
    this.features = kind.features;
    const path = (end: string) => join(options.directory, `${kind.name}.${end}`);
    this.#files = { socket: path('sock'), image: path('img'), key: path('key'), sizeBytes: options.sizeBytes };
  }

  async open(): Promise<void> {
    const { processes, clock } = this.#options;
    const { program } = this.#kind;
    this.#remove();
    closeSync(openSync(this.#files.image, 'w'));
    for (const [command, ...args] of this.#kind.prepare(this.#files)) await this.#prepare(command, args);
    this.#server = processes.start(program, this.#kind.args(this.#files));
    const deadline = clock.monotonicMs() + READY_MS;
    while (!existsSync(this.#files.socket)) {
      if (this.#server.ended) throw precondition(`${program} ended at once: ${this.#server.lastWords()}`);
      if (clock.monotonicMs() > deadline) throw precondition(`${program} made no socket within ${READY_MS} ms`);
      await clock.sleep(POLL_MS);
    }
  }

  /** qemu-img times its key derivation by the thread's CPU clock, and gives up at random where that moves in ticks only. */
  async #prepare(command: string, args: string[]): Promise<void> {
    for (let left = PREPARE_TRIES - 1; ; left--) {
      const { code, stderr } = await this.#options.processes.run(command, args, PREPARE_MS);
      if (code === 0) return;
      if (left === 0) throw precondition(`${this.title} can't be prepared: ${command} said ${stderr.trim()}`);
    }
  }

  target() {
    return nbdTarget(nbdUri(this.#files.socket, ''));
  }
  pids(): number[] {
    return this.#server === undefined ? [] : [this.#server.pid];
  }
  async close(): Promise<void> {
    await this.#server?.stop();
    this.#server = undefined;
    this.#remove();
  }
  #remove(): void {
    for (const path of [this.#files.socket, this.#files.image, this.#files.key]) rmSync(path, { force: true });
  }
}
