// A control plane over a memory store and fake daemons, on a clock that the test moves. Crash points: every write to the store
// and every call of a daemon is a step, and the controller can be made to die before or after any of them.

import {
  type Clock,
  HoldfastError,
  silentLogger,
  type TimerHandle,
  uuidFromRandom,
  zeroUuid,
} from '../../../src/base/index.js';
import {
  anywhere,
  type Control,
  createControl,
  NODE_SILENT_MS,
  parseClass,
  type SourceRef,
  type TopologyWish,
  type VolumeOrder,
} from '../../../src/control/index.js';
import { type MetadataStore, openMemoryStore } from '../../../src/meta/index.js';
import { FakeDaemons } from '../../lib/fake-daemons.js';
import { newerRecords } from '../../lib/newer-records.js';

export const GIB = 1024 ** 3;

export class TestClock implements Clock {
  nowMs = 1_000;
  monotonicMs = () => this.nowMs;
  wallMs = () => 1_700_000_000_000 + this.nowMs;
  after(_delayMs: number, fn: () => void): TimerHandle {
    const timer = setTimeout(fn, 0);
    return { cancel: () => clearTimeout(timer) };
  }
  async sleep(delayMs: number): Promise<void> {
    this.nowMs += delayMs;
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** The controller died here: nothing of it goes on. */
export class Crash extends Error {}

export class CrashPoint {
  #left = Number.POSITIVE_INFINITY;
  dead = false;
  steps = 0;

  /** Dies at the `step`-th step from now; steps count a write or call twice: before it and after it. */
  arm(step: number): void {
    this.#left = step;
    this.dead = false;
    this.steps = 0;
  }

  pass(): void {
    if (this.dead) throw new Crash('dead');
    this.steps++;
    if (this.#left-- > 0) return;
    this.dead = true;
    throw new Crash('crash');
  }
}

function crashing(store: MetadataStore, point: CrashPoint): MetadataStore {
  const alive = () => {
    if (point.dead) throw new Crash('dead');
  };
  return {
    get: async (key) => {
      alive();
      return store.get(key);
    },
    list: async (prefix, options) => {
      alive();
      return store.list(prefix, options);
    },
    compareAndSwap: async (key, expected, value, operation) => {
      point.pass();
      const result = await store.compareAndSwap(key, expected, value, operation);
      point.pass();
      return result;
    },
    watch: (...rest) => store.watch(...rest),
    version: () => store.version(),
    close: () => store.close(),
  };
}

export interface TestNode {
  readonly id: string;
  readonly zone?: string;
  readonly capacityBytes?: number;
  readonly freeBytes?: number;
  readonly tags?: string[];
  readonly poolTags?: string[];
  /** Of the second pool, when it has one. */
  readonly secondPool?: string;
}

export interface TestOptions {
  readonly nodes?: readonly TestNode[];
  readonly maxVolumesPerNode?: number;
  readonly overcommit?: number;
  readonly goneAfterMs?: number;
}

const threeNodes: readonly TestNode[] = [{ id: 'n1' }, { id: 'n2' }, { id: 'n3' }];
const poolIdOf = (index: number) => `00000000-0000-4000-8000-${String(index + 1).padStart(12, '0')}`;

export class TestCluster {
  readonly clock: TestClock;
  readonly store = newerRecords(openMemoryStore(), (what) => {
    throw new Error(what);
  });
  readonly daemons: FakeDaemons;
  readonly point = new CrashPoint();
  readonly #options: TestOptions;
  #counter = 0;
  control: Control;

  private constructor(options: TestOptions, clock: TestClock) {
    this.#options = options;
    this.clock = clock;
    this.daemons = new FakeDaemons(this.store, clock);
    this.control = this.#start();
  }

  static async make(options: TestOptions = {}, clock = new TestClock()): Promise<TestCluster> {
    const cluster = new TestCluster(options, clock);
    for (const [index, node] of (options.nodes ?? threeNodes).entries())
      cluster.daemons.addNode(node.id, poolIdOf(index));
    await cluster.heartbeats();
    return cluster;
  }

  #start(): Control {
    const random = {
      bytes: (length: number) => Buffer.alloc(length, ++this.#counter),
      uuid: () => {
        const bytes = Buffer.alloc(16);
        bytes.writeUInt32BE(++this.#counter, 12);
        return uuidFromRandom(bytes);
      },
    };
    const point = this.point;
    const pass = () => point.pass();
    this.daemons.hook = pass;
    return createControl({
      store: crashing(this.store, point),
      daemons: this.daemons,
      clock: this.clock,
      random,
      logger: silentLogger,
      maxVolumesPerNode: this.#options.maxVolumesPerNode ?? 0,
      overcommit: this.#options.overcommit ?? 10,
      goneAfterMs: this.#options.goneAfterMs ?? 0,
    });
  }

  /** Another controller process over the same store, as after a crash. */
  async restart(): Promise<void> {
    this.point.arm(Number.POSITIVE_INFINITY);
    this.control = this.#start();
    await this.heartbeats();
  }

  /** Registers every node that is up. */
  async heartbeats(): Promise<void> {
    const described = this.#options.nodes ?? threeNodes;
    for (const [index, node] of described.entries()) {
      if (!this.daemons.nodes.get(node.id as never)?.up) continue;
      const capacity = node.capacityBytes ?? 100 * GIB;
      const { unread } = this.daemons.nodes.get(node.id as never)!;
      const pool = (id: string, path: string) => ({
        pool_id: unread.get(id)?.unopened ? zeroUuid : id,
        path,
        capacity_bytes: unread.has(id) ? 0 : capacity,
        free_bytes: unread.has(id) ? 0 : (node.freeBytes ?? capacity),
        tags: node.poolTags ?? [],
        problem: unread.get(id)?.problem ?? '',
      });
      await this.control.nodes.register({
        node_id: node.id,
        control_address: `127.0.0.1:${7000 + index}`,
        topology: node.zone === undefined ? {} : { 'topology.kubernetes.io/zone': node.zone },
        tags: node.tags ?? [],
        pools: [
          pool(poolIdOf(index), `/pools/${node.id}`),
          ...(node.secondPool === undefined ? [] : [pool(node.secondPool, `/pools/${node.id}-2`)]),
        ],
        replica_addresses: [],
        instance: `instance-${node.id}`,
        store_version_seen: 0,
      });
    }
  }

  /** Takes a node down and waits until it counts as silent. */
  async silence(id: string): Promise<void> {
    this.daemons.nodes.get(id as never)!.up = false;
    this.clock.nowMs += NODE_SILENT_MS + 1;
    await this.heartbeats();
  }

  order(
    name: string,
    more: Partial<Omit<VolumeOrder, 'volumeClass'>> & { parameters?: Record<string, string> } = {},
  ): VolumeOrder {
    const { parameters = {}, ...rest } = more;
    return {
      name,
      range: { requiredBytes: GIB, limitBytes: 0 },
      volumeClass: parseClass({ parameters, mutableParameters: {}, fsType: '' }),
      secrets: {},
      wish: anywhere as TopologyWish,
      source: null as SourceRef | null,
      ...rest,
    };
  }

  create(name: string, more: Parameters<TestCluster['order']>[1] = {}) {
    return this.control.creation.create(this.order(name, more));
  }

  /** Every key of the store, by kind. */
  async keys(): Promise<Record<string, number>> {
    const { entries } = await this.store.list('', { limit: 10_000 });
    const counts: Record<string, number> = {};
    for (const { key } of entries) {
      const kind = key.slice(0, key.indexOf('/'));
      if (kind !== 'node') counts[kind] = (counts[kind] ?? 0) + 1;
    }
    return counts;
  }

  /** Lets the loop finish what is unfinished, as if everybody had stopped repeating. */
  async settle(): Promise<void> {
    for (let round = 0; round < 4; round++) {
      await this.control.reconciler.round();
      this.clock.nowMs += 16 * 60_000;
      await this.heartbeats();
    }
  }
}

/** What a failed call threw. */
export async function failure(work: Promise<unknown>): Promise<HoldfastError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof HoldfastError) return error;
    throw error;
  }
  throw new Error('it succeeded, but should have failed');
}
