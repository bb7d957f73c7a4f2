// Holdfast as one side of the comparison: a volume of a real cluster, driven through the NBD export that a holder would use.
// CPU time counts every process of the cluster.

import { precondition } from '../../src/base/index.js';
import type { AttachedVolume, HoldfastCluster } from './holdfast-cluster.js';
import { type BenchSystem, nbdTarget } from './system.js';

export interface HoldfastVariant {
  readonly name: string;
  readonly title: string;
  readonly copies: number;
  readonly features: string;
  readonly parameters: Readonly<Record<string, string>>;
}

const everything = 'AES-256-GCM, CRC-32C, LZ4; page cache';

export function holdfast(copies: number): HoldfastVariant {
  const title = `Holdfast, ${copies} ${copies === 1 ? 'replica' : 'replicas'}`;
  return { name: `holdfast-x${copies}`, title, copies, features: everything, parameters: {} };
}

/** Where the bytes between the nodes are encrypted and signed for, too: to be run on a cluster that has certificates. */
export function securedHoldfast(copies: number): HoldfastVariant {
  const { name, title, ...plain } = holdfast(copies);
  return { ...plain, name: `${name}-tls`, title: `${title}, TLS`, features: `${everything}; TLS 1.3 between nodes` };
}

export class HoldfastSystem implements BenchSystem {
  readonly name: string;
  readonly title: string;
  readonly copies: number;
  readonly flush: string;
  readonly features: string;
  readonly #variant: HoldfastVariant;
  readonly #cluster: HoldfastCluster;
  readonly #sizeBytes: number;
  #volume: AttachedVolume | undefined;
  #made = 0;

  constructor(cluster: HoldfastCluster, variant: HoldfastVariant, sizeBytes: number) {
    this.#cluster = cluster;
    this.#variant = variant;
    this.#sizeBytes = sizeBytes;
    this.copies = variant.copies;
    this.name = variant.name;
    this.title = variant.title;
    this.features = variant.features;
    this.flush = variant.copies === 1 ? 'yes' : `yes, on all ${variant.copies}`;
  }

  async open(): Promise<void> {
    const { copies, parameters } = this.#variant;
    const name = `bench-${this.name}-${++this.#made}`;
    const volume = await this.#cluster.create({ name, copies, sizeBytes: this.#sizeBytes, parameters });
    this.#volume = await this.#cluster.attach(volume);
  }
  get volume(): AttachedVolume {
    if (this.#volume === undefined) throw precondition(`${this.title} is not open`);
    return this.#volume;
  }
  target() {
    return nbdTarget(this.volume.uri);
  }
  pids(): number[] {
    return [this.#cluster.pid];
  }
  roles() {
    const cluster = this.#cluster;
    const home = this.volume.node.id;
    const others = cluster.nodes.filter(({ id }) => id !== home);
    return {
      'daemon with the engine': [cluster.storagePid(home)],
      'other daemons': others.map(({ id }) => cluster.storagePid(id)),
    };
  }
  async close(): Promise<void> {
    const volume = this.#volume;
    if (volume === undefined) return;
    this.#volume = undefined;
    await this.#cluster.detach(volume);
    await this.#cluster.remove(volume);
  }
}
