// The network where namespaces can't be had: a TCP proxy before each process.

import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { distFolder } from '../lib/build-once.js';
import type { Network, Place } from './network.js';
import { hostOf, proxyOf } from './proxies.js';
import type { ProxyAnswer, ProxyOrder } from './proxy-thread.js';

export class ProxyNetwork implements Network {
  readonly kind = 'TCP proxies';
  readonly #thread: Worker;
  readonly #waiting = new Map<number, { resolve(count: number): void; reject(error: Error): void }>();
  #ids = 0;

  /** `dir`: named in the arguments of every process that connects. */
  constructor(dir: string) {
    this.#thread = new Worker(join(distFolder, 'test/faults/proxy-thread.js'), { workerData: dir });
    this.#thread.on('message', ({ id, count, error }: ProxyAnswer) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === '') waiting?.resolve(count);
      else waiting?.reject(new Error(error));
    });
    this.#thread.on('error', (error: Error) => {
      for (const { reject } of this.#waiting.values()) reject(error);
      this.#waiting.clear();
    });
  }

  #order(order: ProxyOrder): Promise<number> {
    const id = ++this.#ids;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#thread.postMessage({ id, order });
    });
  }

  /** What can't fail there. */
  #tell(order: ProxyOrder): void {
    this.#order(order).catch(() => {});
  }

  wrap(): readonly string[] {
    return [];
  }

  host(place: Place): string {
    return hostOf(place);
  }

  advertised(place: Place): string {
    return proxyOf(place);
  }

  async expose(place: Place, port: number): Promise<void> {
    await this.#order({ op: 'expose', place, port });
  }

  block(from: Place, to: Place): void {
    this.#tell({ op: 'block', from, to });
  }

  allow(from: Place, to: Place): void {
    this.#tell({ op: 'allow', from, to });
  }

  slow(place: Place, slow: boolean): void {
    this.#tell({ op: 'slow', place, slow });
  }

  reset(place: Place): Promise<number> {
    return this.#order({ op: 'reset', place });
  }

  heal(): void {
    this.#tell({ op: 'heal' });
  }

  close(): void {
    void this.#thread.terminate();
  }
}
