// A started serve.js, as the bench sees it.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GiB, MiB, precondition } from '../../src/base/index.js';
import type { Processes, Started } from '../processes.js';
import { type FioTarget, nbdTarget, nbdUri } from '../systems/system.js';

const READY_MS = 30_000;
const ANSWER_MS = 60_000;
/** Replicas in memory keep all that is written in a run. */
const HEAP_MIB = (8 * GiB) / MiB;

export class Served {
  readonly #process: Started;
  readonly target: FioTarget;
  #asked = 0;

  /** `args` as serve.js takes them behind the size; `flags` are Node's. */
  static async start(
    processes: Processes,
    directory: string,
    sizeBytes: number,
    args: readonly string[],
    flags: readonly string[] = [],
  ): Promise<Served> {
    const socket = join(directory, 'served.sock');
    const program = fileURLToPath(new URL('./serve.js', import.meta.url));
    const command = [...flags, `--max-old-space-size=${HEAP_MIB}`, program, socket, String(sizeBytes), ...args];
    const server = processes.start(process.execPath, command);
    await server.line((line) => line === 'ready', READY_MS);
    return new Served(server, socket);
  }

  private constructor(server: Started, socket: string) {
    this.#process = server;
    this.target = nbdTarget(nbdUri(socket, 'volume'));
  }

  get pid(): number {
    return this.#process.pid;
  }
  get ended(): boolean {
    return this.#process.ended;
  }

  /** One of serve.js's commands; resolves with its answer. */
  async ask(command: string): Promise<string> {
    const number = `${++this.#asked}`;
    this.#process.say(`${number} ${command}`);
    const line = await this.#process.line((text) => text.startsWith(`${number} `), ANSWER_MS);
    const answer = line.slice(number.length + 1);
    if (answer.startsWith('FAILED ')) throw precondition(`${command}: ${answer.slice(7)}`);
    return answer;
  }

  stop(): Promise<void> {
    return this.#process.stop();
  }
}
