// fio with verify on a raw device, one run after the other. It tells of wrong bytes and errors; pauses are others' to measure.

import { type ChildProcess, spawn } from 'node:child_process';
import { MiB, realClock } from '../../../src/base/index.js';
import type { TestNode, TestVolume } from '../../lib/csi-cluster.js';
import type { Load } from './load.js';

const endMs = 20_000;

export class FioLoad implements Load {
  readonly name = 'fio';
  readonly volume: TestVolume;
  readonly durable = false;
  readonly fsType = null;
  node: TestNode;
  readonly #bytes: number;
  readonly #seed: number;
  #path = '';
  #round = 0;
  #process: ChildProcess | undefined;
  #ended: Promise<unknown> = Promise.resolve();
  #failure = '';
  #writes = 0;

  constructor(volume: TestVolume, node: TestNode, bytes: number, seed: number) {
    this.volume = volume;
    this.node = node;
    this.#bytes = bytes;
    this.#seed = seed;
  }

  async start(path: string): Promise<void> {
    this.#path = path;
    this.#run();
  }

  /** Writes a fifth of the device in random order, verifying behind itself, then all of it once more. */
  #run(): void {
    const round = ++this.#round;
    const args = [
      ...['--name=verify', `--filename=${this.#path}`, `--size=${this.#bytes}`, `--io_size=${this.#bytes / 5}`],
      ...['--direct=1', '--ioengine=libaio', '--iodepth=4', '--rw=randwrite', '--bs=4k', '--rate=512k'],
      ...[`--randseed=${this.#seed + round}`, '--fsync=64', '--verify=crc32c', '--verify_backlog=256'],
      ...['--verify_fatal=1', '--verify_dump=0', '--verify_state_save=0', '--output-format=json'],
    ];
    const child = spawn('fio', args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    let [out, err] = ['', ''];
    child.stdout.on('data', (chunk) => {
      out = (out + chunk).slice(-(1 << 20));
    });
    child.stderr.on('data', (chunk) => {
      err = (err + chunk).slice(-2_000);
    });
    this.#process = child;
    this.#ended = new Promise((resolve) => child.once('close', resolve));
    child.once('close', (code, signal) => {
      if (child !== this.#process) return;
      if (code !== 0) {
        this.#failure ||= `fio ended with ${signal ?? code}: ${err.trim()}`;
        return;
      }
      this.#writes += writesIn(out);
      this.#run();
    });
  }

  check(): void {
    if (this.#failure !== '') throw new Error(`load ${this.name}: ${this.#failure}`);
  }

  async progress(): Promise<void> {
    this.check();
  }

  longestGap(): null {
    return null;
  }

  async pause(): Promise<void> {
    this.check();
    await this.kill();
  }

  async resume(): Promise<void> {
    this.#run();
  }

  async crash(path: string): Promise<void> {
    this.#path = path;
    void this.kill();
  }

  async revive(): Promise<number> {
    this.#run();
    return realClock.wallMs();
  }

  async verify(): Promise<string> {
    return `${this.#writes} writes in ${this.#round} runs of ${(this.#bytes / 5 / MiB).toFixed(1)} MiB, verified by fio`;
  }

  get acknowledged(): number {
    return this.#writes;
  }

  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child?.pid !== undefined && child.exitCode === null && child.signalCode === null) {
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // It has just ended.
      }
    }
    await Promise.race([this.#ended, realClock.sleep(endMs)]);
  }
}

function writesIn(json: string): number {
  try {
    return JSON.parse(json.slice(json.indexOf('{'))).jobs[0].write.total_ios;
  } catch {
    return 0;
  }
}
