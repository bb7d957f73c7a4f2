// One volume on memory replicas with a metadata store of one record: opens engines, drives them with promises, loses and
// returns replicas. Runs on real timers, since nothing in it waits long.

import { randomBytes } from 'node:crypto';
import {
  type IncarnationId,
  type LineageId,
  type NodeId,
  type ReignId,
  type ReplicaId,
  realClock,
  realRandom,
  silentLogger,
  type VolumeId,
} from '../../src/base/index.js';
import {
  type BlockError,
  type BlockOp,
  type BlockRequest,
  type Engine,
  type EngineMember,
  type EngineOptions,
  openEngine,
  type SetOutcome,
} from '../../src/engine/index.js';
import { emptySuperblock, MemoryReplica, memoryConnector } from './memory-replica.js';

export const rigVolume = '10000000-0000-4000-8000-000000000001' as VolumeId;
export const rigLineage = '20000000-0000-4000-8000-000000000002' as LineageId;
const replicaId = (i: number) => `30000000-0000-4000-8000-00000000000${i}` as ReplicaId;
const incarnationId = (i: number) => `40000000-0000-4000-8000-00000000000${i}` as IncarnationId;

export class EngineRig {
  readonly replicas: MemoryReplica[];
  readonly options: Partial<EngineOptions> & { sizeBytes: number };
  inSync: ReplicaId[];
  setVersion = 1;
  epoch = 0;
  reignId = '' as ReignId;
  lost: ReplicaId[] = [];
  flushedPoint: EngineOptions['flushedPoint'] = null;
  /** Set to make the store unreachable. */
  storeDown = false;
  setChanges: string[] = [];
  readonly dataKey: Buffer | null;
  volume: Partial<EngineOptions['volume']> = {};

  constructor(count: number, options: { sizeBytes?: number; encrypted?: boolean } = {}) {
    const sizeBytes = options.sizeBytes ?? 64 * 1024 * 1024;
    this.options = { sizeBytes };
    this.dataKey = options.encrypted ? randomBytes(32) : null;
    this.replicas = Array.from(
      { length: count },
      (_, i) =>
        new MemoryReplica(
          emptySuperblock({
            volumeId: rigVolume,
            lineageId: rigLineage,
            replicaId: replicaId(i),
            incarnationId: incarnationId(i),
            nodeId: `n${i}` as NodeId,
            sizeBytes,
          }),
        ),
    );
    this.inSync = this.replicas.map((replica) => replica.superblock.replicaId);
  }

  members(): EngineMember[] {
    return this.replicas.map((replica, i) => ({
      replicaId: replicaId(i),
      incarnationId: incarnationId(i),
      nodeId: replica.nodeId,
      inSync: this.inSync.includes(replicaId(i)),
      lost: this.lost.includes(replicaId(i)),
    }));
  }

  async open(overrides: Partial<EngineOptions> = {}): Promise<Engine> {
    this.epoch++;
    const reign = { epoch: this.epoch, reignId: realRandom.uuid() as ReignId };
    this.reignId = reign.reignId;
    const ours = () => this.reignId === reign.reignId;
    const engine = await openEngine({
      volume: {
        volumeId: rigVolume,
        lineageId: rigLineage,
        sizeBytes: this.options.sizeBytes,
        compression: 'lz4',
        cipher: this.dataKey ? 'aes-256-gcm' : 'none',
        minReplicas: 1,
        wrappedKey: null,
        qos: { maxReadIops: 0, maxWriteIops: 0, maxReadBps: 0, maxWriteBps: 0 },
        ...this.volume,
      },
      reign,
      members: this.members(),
      setVersion: this.setVersion,
      dataKey: this.dataKey,
      readOnly: false,
      formerEngineGone: true,
      flushedPoint: this.flushedPoint,
      connector: memoryConnector(this.replicas, 'n0' as NodeId),
      membership: {
        changeSet: async ({ inSync, reason }): Promise<SetOutcome> => {
          await new Promise((resolve) => setImmediate(resolve));
          if (this.storeDown) throw new Error('the store does not answer');
          if (!ours()) return { outcome: 'deposed' };
          this.inSync = [...inSync];
          this.setChanges.push(reason);
          return { outcome: 'done', setVersion: ++this.setVersion };
        },
        markLost: async (id) => {
          if (this.storeDown) throw new Error('the store does not answer');
          this.lost.push(id);
        },
        noteFlushed: async (point) => {
          if (ours()) this.flushedPoint = point;
        },
      },
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      ...overrides,
    });
    // As the agent does before anything is served.
    if (ours() && (this.flushedPoint?.seq ?? -1) < engine.opening.seq) this.flushedPoint = engine.opening;
    return engine;
  }
}

/** One block request as a promise of its outcome. */
export function request(
  engine: Engine,
  op: BlockOp,
  offset: number,
  length: number,
  data: Uint8Array | null = null,
  fua = false,
): Promise<BlockError | null> {
  return new Promise((resolve) => {
    const block: BlockRequest = { op, offset, length, data, dataAt: 0, fua, cancelled: false, complete: resolve };
    engine.submit([block]);
  });
}

export async function write(engine: Engine, offset: number, data: Uint8Array, fua = false): Promise<void> {
  const error = await request(engine, 'write', offset, data.length, data, fua);
  if (error !== null) throw new Error(`write at ${offset}: ${error}`);
}

export async function read(engine: Engine, offset: number, length: number): Promise<Buffer> {
  const data = Buffer.alloc(length, 0xa5);
  const error = await request(engine, 'read', offset, length, data);
  if (error !== null) throw new Error(`read at ${offset}: ${error}`);
  return data;
}

export async function flush(engine: Engine): Promise<void> {
  const error = await request(engine, 'flush', 0, 0);
  if (error !== null) throw new Error(`flush: ${error}`);
}

export async function eventually(test: () => boolean, what: string, timeoutMs = 20_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!test()) {
    if (Date.now() > deadline) throw new Error(`did not happen in ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Small deterministic generator (mulberry32), so that a failing seed can be repeated. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
