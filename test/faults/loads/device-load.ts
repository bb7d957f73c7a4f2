// A verified load on a raw device: every byte it was told is written must be there at every moment, flushed or not.

import { MiB } from '../../../src/base/index.js';
import type { TestNode, TestVolume } from '../../lib/csi-cluster.js';
import { VerifiedLoad } from '../../lib/load/verified-load.js';
import type { Load } from './load.js';

export interface DeviceLoadOptions {
  readonly name: string;
  readonly volume: TestVolume;
  readonly node: TestNode;
  readonly bytes: number;
  readonly bytesPerSecond: number;
  readonly seed: number;
}

export class DeviceLoad implements Load {
  readonly name: string;
  readonly volume: TestVolume;
  readonly durable = false;
  readonly fsType = null;
  node: TestNode;
  readonly #options: DeviceLoadOptions;
  #load: VerifiedLoad | undefined;

  constructor(options: DeviceLoadOptions) {
    this.#options = options;
    this.name = options.name;
    this.volume = options.volume;
    this.node = options.node;
  }

  async start(path: string): Promise<void> {
    const { name, bytes, bytesPerSecond, seed } = this.#options;
    this.#load = new VerifiedLoad({
      ...{ name, path, bytes, bytesPerSecond, seed, unitBytes: 4096, requestUnits: 64, direct: true },
      ...{ folder: null, writers: 4 },
    });
    await this.#load.start();
  }

  check(): void {
    this.#load!.check();
  }

  progress(sinceMs: number): Promise<void> {
    return this.#load!.progress(sinceMs);
  }

  longestGap(sinceMs: number): number {
    return this.#load!.longestGap(sinceMs);
  }

  pause(): Promise<void> {
    return this.#load!.pause();
  }

  resume(): Promise<void> {
    return this.#load!.resume();
  }

  crash(path: string): Promise<void> {
    return this.#load!.move(path);
  }

  async revive(): Promise<number> {
    await this.#load!.verify();
    await this.#load!.resume();
    return this.#load!.answeredMs;
  }

  async verify(): Promise<string> {
    const { bytes } = await this.#load!.verify();
    return `${this.acknowledged} writes, ${bytes / MiB} MiB read back`;
  }

  get acknowledged(): number {
    return this.#load?.counts.writes ?? 0;
  }

  async kill(): Promise<void> {
    await this.#load?.kill();
  }
}
