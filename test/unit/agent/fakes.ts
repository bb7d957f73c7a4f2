// A worker whose engines keep nothing, behind a real message channel, and a volume record to open.

import { MessageChannel } from 'node:worker_threads';
import {
  EngineRoom,
  type MainMethods,
  mainHandlers,
  PortRpc,
  ReplicaAddresses,
  Volumes,
  volumeRecords,
  type WorkerMethods,
  workerHandlers,
} from '../../../src/agent/index.js';
import {
  HoldfastError,
  type IncarnationId,
  type LineageId,
  type NodeId,
  type PoolId,
  type ReplicaId,
  realClock,
  realRandom,
  silentLogger,
  type VolumeId,
} from '../../../src/base/index.js';
import type { Copies, Engine, EngineMember, EngineOptions } from '../../../src/engine/index.js';
import { keyOf, type MetadataStore, openMemoryStore, type VolumeRecord } from '../../../src/meta/index.js';
import { MemoryDevice } from '../../lib/memory-device.js';

export const nodeA = 'node-a' as NodeId;
export const nodeB = 'node-b' as NodeId;
export const volumeId = '11111111-1111-4111-8111-111111111111' as VolumeId;
export const replicaIds = ['aaaaaaaa', 'bbbbbbbb'].map((head) => `${head}-1111-4111-8111-111111111111` as ReplicaId);

export function volumeRecord(change: Partial<VolumeRecord> = {}): VolumeRecord {
  return {
    id: volumeId,
    name: 'pvc-1',
    state: 'ready',
    createdMs: 1,
    sizeBytes: 1 << 20,
    lineageId: '22222222-1111-4111-8111-111111111111' as LineageId,
    parameters: {
      replicas: 2,
      minReplicas: 1,
      failureDomain: 'node',
      dataLocality: 'disabled',
      compression: 'none',
      encryption: 'none',
      keyProvider: 'secret',
      fsType: 'ext4',
      mkfsOptions: '',
      mountOptions: '',
    },
    qos: {},
    replicas: replicaIds.map((id, i) => ({
      id,
      nodeId: i === 0 ? nodeA : nodeB,
      poolId: '33333333-1111-4111-8111-111111111111' as PoolId,
      incarnationId: `44444444-1111-4111-8111-11111111111${i}` as IncarnationId,
      state: 'ok',
    })),
    inSync: replicaIds,
    setVersion: 1,
    epoch: 0,
    reignId: null,
    engine: null,
    publications: [
      { nodeId: nodeA, readOnly: false, accessMode: 'SINGLE_NODE_WRITER', accessType: 'mount', publishedMs: 1 },
    ],
    wrappedKey: null,
    formatted: { state: 'never' },
    flushedPoint: null,
    ...change,
  };
}

export class FakeEngine extends MemoryDevice implements Engine {
  readonly options: EngineOptions;
  closes = 0;
  deposedBy: string | null = null;
  held: string | null = null;
  snapshots: string[] = [];
  failClose = false;
  override readonly readOnly: boolean;

  constructor(options: EngineOptions) {
    super(options.volume.sizeBytes / 2);
    this.options = options;
    this.readOnly = options.readOnly;
  }
  get reign() {
    return this.options.reign;
  }
  get opening() {
    return { epoch: this.reign.epoch, seq: this.reign.epoch, digest: 'ff' };
  }
  async freeze(order: { snapshotId: string; holdToken: string | null }) {
    if (order.holdToken !== null && order.holdToken !== this.held)
      throw new HoldfastError('FAILED_PRECONDITION', 'not held');
    this.snapshots.push(order.snapshotId);
    return { sizeBytes: this.sizeBytes, wallMs: 1, seq: 7 };
  }
  async hold(token: string) {
    this.held = token;
  }
  release(token: string) {
    return this.held === token;
  }
  async clone() {}
  async resize(sizeBytes: number) {
    if (sizeBytes > this.sizeBytes) this.grow(sizeBytes);
  }
  setQos() {}
  /** What it was told to follow, in order. */
  readonly followed: { members: readonly EngineMember[]; copies: Copies }[] = [];
  follow(members: readonly EngineMember[], copies: Copies) {
    this.followed.push({ members, copies });
    return [];
  }
  async deleteSnapshot() {}
  async scrub() {
    return { verifiedBytes: 0, repairs: 0, damage: [] };
  }
  async changed() {
    return { volumeSizeBytes: this.sizeBytes, extents: [{ offset: 0, length: 4096 }], nextOffset: null };
  }
  status() {
    return {
      state: this.closed ? ('closed' as const) : ('serving' as const),
      message: this.deposedBy ?? '',
      sizeBytes: this.sizeBytes,
      allocatedBytes: 0,
      storedBytes: 0,
      replicas: [],
      snapshotIds: [],
      counters: {
        reads: 1,
        writes: 2,
        flushes: 3,
        trims: 4,
        readBytes: 5,
        writeBytes: 6,
        storedWriteBytes: 7,
        movedBytes: 0,
        checkpointBytes: 0,
        reclaimedBytes: 0,
        readRepairs: 8,
      },
    };
  }
  override close(): Promise<void> {
    this.closes++;
    if (this.failClose) return Promise.reject(new HoldfastError('UNAVAILABLE', 'flush failed'));
    this.#end();
    return Promise.resolve();
  }
  depose(why: string): void {
    this.deposedBy ??= why;
    this.#end();
  }
  #end(): void {
    if (!this.closed) super.close();
  }
}

export interface Bench {
  readonly store: MetadataStore;
  readonly volumes: Volumes;
  readonly room: EngineRoom;
  readonly engines: FakeEngine[];
  readonly keysSeen: (string | null)[];
  /** Sockets served now. */
  readonly exports: Set<string>;
  readonly fatal: Error[];
  /** What the next openEngine / serveExport does instead. */
  failOpen: ((options: EngineOptions) => Promise<void> | void) | null;
  failExport: boolean;
  record(): Promise<VolumeRecord>;
  put(record: VolumeRecord): Promise<void>;
  stop(): Promise<void>;
}

export async function makeBench(
  record: VolumeRecord,
  options: { nodeId?: NodeId; store?: MetadataStore; idleMs?: number } = {},
): Promise<Bench> {
  const store = options.store ?? openMemoryStore();
  const clock = realClock;
  const { port1, port2 } = new MessageChannel();
  const fatal: Error[] = [];
  const onFatal = (error: Error) => fatal.push(error);
  let volumes: Volumes | undefined;
  const records = volumeRecords(store, clock);
  const main = new PortRpc<WorkerMethods, MainMethods>(port1, {
    clock,
    onFatal,
    handlers: mainHandlers({
      records,
      addresses: new ReplicaAddresses(store),
      volumes: () => volumes,
      logger: silentLogger,
    }),
  });
  const bench: Omit<Bench, 'volumes' | 'room'> & { volumes?: Volumes; room?: EngineRoom } = {
    store,
    engines: [],
    keysSeen: [],
    exports: new Set(),
    fatal,
    failOpen: null,
    failExport: false,
    record: async () => (await store.get<VolumeRecord>(keyOf.volume(volumeId)))!.value,
    async put(next) {
      const entry = await store.get(keyOf.volume(volumeId));
      await store.compareAndSwap(keyOf.volume(volumeId), entry?.version ?? 0, next as object);
    },
    async stop() {
      main.close('test over');
      port1.close();
      port2.close();
    },
  };
  const worker: PortRpc<MainMethods, WorkerMethods>[] = [];
  bench.room = new EngineRoom({
    async openEngine(engineOptions) {
      bench.keysSeen.push(engineOptions.dataKey?.toString('hex') ?? null);
      await bench.failOpen?.(engineOptions);
      const engine = new FakeEngine(engineOptions);
      bench.engines.push(engine);
      return engine;
    },
    async serveExport({ socketPath }) {
      if (bench.failExport) throw new HoldfastError('FAILED_PRECONDITION', 'socket taken', { reason: 'AddressInUse' });
      bench.exports.add(socketPath);
      return { close: async () => void bench.exports.delete(socketPath) };
    },
    connector: () => ({ connect: () => Promise.reject(new Error('unused')) }),
    membership: (id, reign) => ({
      changeSet: (change) => worker[0]!.call('changeSet', { volumeId: id, reign, ...change }, 5_000),
      markLost: async (replicaId, message) =>
        void (await worker[0]!.call('markLost', { volumeId: id, reign, replicaId, message }, 5_000)),
      noteFlushed: async (point) => void (await worker[0]!.call('noteFlushed', { volumeId: id, reign, point }, 5_000)),
    }),
    engineEnded: (id, reign, why) =>
      void worker[0]!.call('engineEnded', { volumeId: id, epoch: reign.epoch, why }, 5_000),
    clock,
    random: realRandom,
    logger: silentLogger,
  });
  const replicas = {
    create: async () => {},
    retire: async () => {},
    status: async () => ({ replicas: [], unread: [] }),
    close: async () => {},
    pools: () => [],
    start: async () => ({ replicaPort: 1 }),
  };
  worker.push(
    new PortRpc<MainMethods, WorkerMethods>(port2, { clock, onFatal, handlers: workerHandlers(bench.room, replicas) }),
  );
  volumes = new Volumes({
    nodeId: options.nodeId ?? nodeA,
    records,
    workerFor: () => main,
    socketPathFor: (id) => `/run/test/${id}.sock`,
    checkStore: async () => {},
    clock,
    random: realRandom,
    logger: silentLogger,
    idleMs: options.idleMs,
  });
  bench.volumes = volumes;
  if (!options.store) await bench.put(record);
  return bench as Bench;
}

/** Waits until `condition` holds, at most two seconds. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 400; i++) {
    if (await condition()) return;
    await realClock.sleep(5);
  }
  throw new Error('the condition did not come true');
}
