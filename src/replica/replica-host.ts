// All replicas that one worker serves, in all pools of the node.
//
// Owner: the worker. Invariants: a volume's replica is open at most once; a volume that another worker serves is refused
// (two writers on one log would destroy it); what is not on disk is never made anew by looking for it. Replicas are opened,
// and thereby recovered, when first asked for. May fail: each replica by itself.

import {
  asHoldfastError,
  type Clock,
  HoldfastError,
  type IncarnationId,
  invalid,
  type LineageId,
  type Logger,
  type PoolId,
  precondition,
  type ReignId,
  type ReplicaId,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import { type Member, type Superblock, VOLUME_SIZE_MAX } from '../format/index.js';
import {
  createReplicaDirectory,
  directoryUsage,
  HandleCache,
  type Pool,
  replicaIn,
  retireReplicaDirectory,
  SuperblockStore,
} from '../segment/index.js';
import { checkNotMarked } from './failure-marker.js';
import { cacheIdentity } from './identity.js';
import { LocalReplica } from './local-replica.js';
import { Replica } from './replica.js';
import { SpaceGauge } from './space-gauge.js';
import type { StopEngine } from './stop-engine.js';

/** Replicas one worker opens: each costs a few hundred bytes a segment and up to two descriptors. */
const REPLICAS_MAX = 1024;
/** Descriptors kept open for reading; well below the usual limit of 65,536 with several workers. */
const HANDLES_MAX = 2048;
/** Between the files of a deleted replica. */
const RETIRE_PAUSE_MS = 2;

export interface ReplicaHostOptions {
  readonly pools: readonly Pool[];
  /** Pools of this node that could not be opened: what is not found in the others may be there. */
  readonly unopened?: readonly UnopenedPool[];
  readonly stopEngine: StopEngine;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Whether this worker serves the volume; default all. */
  readonly owns?: (volumeId: VolumeId) => boolean;
  readonly replicasMax?: number;
}

export interface UnopenedPool {
  readonly path: string;
  /** A sentence. */
  readonly problem: string;
}

export interface CreateReplica {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly replicaId: ReplicaId;
  readonly incarnationId: IncarnationId;
  readonly poolId: PoolId;
  readonly sizeBytes: number;
  readonly parameters: Readonly<Record<string, string>>;
  readonly members: readonly Member[];
  readonly setVersion: number;
  /** It has to be brought up to date before it counts as anything. */
  readonly joining?: boolean;
}

export interface RetireReplica {
  readonly volumeId: VolumeId;
  readonly replicaId: ReplicaId;
  /** The highest of the volume that the metadata store knows. */
  readonly epoch: number;
  readonly setVersion: number;
}

export interface ReplicaReport {
  readonly volumeId: VolumeId;
  readonly replicaId: ReplicaId;
  readonly incarnationId: IncarnationId;
  readonly poolId: PoolId;
  readonly storedBytes: number;
  readonly sharedBytes: number;
  readonly promisedEpoch: number;
  readonly joining: boolean;
  /** A sentence when the replica can't be used as it should; else empty. */
  readonly problem: string;
  /** Its disk failed under it: it never comes back. */
  readonly failed: boolean;
}

export interface PoolReport {
  readonly poolId: PoolId;
  readonly path: string;
  readonly capacityBytes: number;
  /** What the filesystem says; placement keeps its own reserve. */
  readonly freeBytes: number;
  /** A sentence when the pool can't be used; else empty. */
  readonly problem: string;
}

export class ReplicaHost {
  readonly #options: ReplicaHostOptions;
  readonly #handles = new HandleCache(HANDLES_MAX);
  readonly #open = new Map<VolumeId, Promise<Replica>>();
  /** The same once opened, for reports. */
  readonly #opened = new Map<VolumeId, Replica>();
  readonly #gauges = new Map<Pool, SpaceGauge>();
  #closed = false;

  constructor(options: ReplicaHostOptions) {
    this.#options = options;
    for (const pool of options.pools) this.#gauges.set(pool, new SpaceGauge(pool, options.clock, options.logger));
  }

  /**
   * Formats a replica. Repeating it with the same incarnation is harmless; ALREADY_EXISTS when another replica of the volume
   * is in any pool here, NOT_FOUND for an unknown pool, RESOURCE_EXHAUSTED when the worker has its fill.
   */
  async create(order: CreateReplica): Promise<void> {
    this.#checkServes(order.volumeId);
    if (!Number.isSafeInteger(order.sizeBytes) || order.sizeBytes < 1 || order.sizeBytes > VOLUME_SIZE_MAX) {
      throw invalid(`size of volume ${order.volumeId} is ${order.sizeBytes} bytes, must be 1 to ${VOLUME_SIZE_MAX}`);
    }
    const pool = this.#options.pools.find((candidate) => candidate.id === order.poolId);
    if (pool === undefined)
      throw new HoldfastError('NOT_FOUND', `this node has no pool ${order.poolId}`, { reason: 'PoolMissing' });
    const present = this.#poolOf(order.volumeId);
    if (present !== undefined && present !== pool) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `pool ${present.path} holds a replica of volume ${order.volumeId} already`,
      );
    }
    const limit = this.#options.replicasMax ?? REPLICAS_MAX;
    if (present === undefined && this.#ownVolumes().length >= limit) {
      throw new HoldfastError('RESOURCE_EXHAUSTED', `this worker serves ${limit} replicas, the most it takes`);
    }
    await createReplicaDirectory(pool, emptySuperblock(order, pool));
  }

  /** A port to a replica that is here, for an engine here or elsewhere. NOT_FOUND/ReplicaLost when it is not (or another replica of the volume is). */
  async localPort(volumeId: VolumeId, replicaId: ReplicaId, engineElsewhere = false): Promise<LocalReplica> {
    const replica = await this.#replica(volumeId, replicaId);
    const found = replica.superblock.replicaId;
    if (found !== replicaId) {
      this.#checkAllOpen(`replica ${replicaId} of volume ${volumeId}`);
      throw new HoldfastError(
        'NOT_FOUND',
        `pool ${replica.pool.path} holds replica ${found} of volume ${volumeId}, not ${replicaId}`,
        { reason: 'ReplicaLost' },
      );
    }
    return new LocalReplica(replica, engineElsewhere);
  }

  #replica(volumeId: VolumeId, replicaId: ReplicaId): Promise<Replica> {
    this.#checkServes(volumeId);
    const present = this.#open.get(volumeId);
    if (present) return present;
    const opening = this.#openReplica(volumeId, replicaId);
    this.#open.set(volumeId, opening);
    const forget = () => {
      if (this.#open.get(volumeId) === opening) this.#open.delete(volumeId);
    };
    opening.then((replica) => {
      this.#opened.set(volumeId, replica);
      replica.onShut = () => {
        forget();
        if (this.#opened.get(volumeId) === replica) this.#opened.delete(volumeId);
      };
    }, forget);
    return opening;
  }

  async #openReplica(volumeId: VolumeId, replicaId: ReplicaId): Promise<Replica> {
    const pool = this.#poolOf(volumeId, replicaId);
    if (pool === undefined) {
      // Not found is final for whoever asks, so it has to be true.
      this.#checkAllOpen(`volume ${volumeId}`);
      for (const candidate of this.#options.pools) candidate.checkPresent();
      throw new HoldfastError('NOT_FOUND', `no pool of this node holds a replica of volume ${volumeId}`, {
        reason: 'ReplicaLost',
      });
    }
    const { stopEngine, clock, logger } = this.#options;
    return await Replica.open(
      { pool, handles: this.#handles, space: this.#gauges.get(pool)!, stopEngine, clock, logger },
      volumeId,
    );
  }

  /**
   * Deletes a replica. One that is not here is no error, another replica of the volume is left alone. FAILED_PRECONDITION/StoreWentBack
   * when it knows of more than the store from which the order comes.
   */
  async retire(order: RetireReplica): Promise<void> {
    const { volumeId, replicaId } = order;
    this.#checkServes(volumeId);
    const open = await this.#open.get(volumeId)?.catch(() => undefined);
    if (open !== undefined && open.superblock.replicaId === replicaId) {
      checkKnown(order, open.superblock, open.pool);
      await open.close(
        new HoldfastError('NOT_FOUND', `replica ${replicaId} of volume ${volumeId} was deleted`, {
          reason: 'ReplicaLost',
        }),
      );
    }
    const pause = () => this.#options.clock.sleep(RETIRE_PAUSE_MS);
    let found = false;
    for (const pool of this.#options.pools)
      if (await retireReplicaDirectory(pool, volumeId, replicaId, (one) => checkKnown(order, one, pool), pause))
        found = true;
    if (!found) this.#checkAllOpen(`replica ${replicaId} of volume ${volumeId}`);
  }

  /** Throws UNAVAILABLE/PoolMissing when `what`, which was not found, may be in a pool that could not be opened. */
  #checkAllOpen(what: string): void {
    const [first] = this.#options.unopened ?? [];
    if (first === undefined) return;
    throw new HoldfastError(
      'UNAVAILABLE',
      `${what} may be in pool ${first.path}, which is not open: ${first.problem}`,
      {
        reason: 'PoolMissing',
      },
    );
  }

  /** Every replica of this worker, or those of one volume; unreadable ones with a sentence. */
  status(volumeId: VolumeId | null): ReplicaReport[] {
    const reports: ReplicaReport[] = [];
    for (const pool of this.#options.pools) {
      for (const volume of pool.volumes()) {
        if ((volumeId === null || volume === volumeId) && this.#serves(volume))
          reports.push(this.#report(pool, volume));
      }
    }
    return reports;
  }

  #report(pool: Pool, volumeId: VolumeId): ReplicaReport {
    const open = this.#opened.get(volumeId);
    const nobody = zeroUuid as ReplicaId & IncarnationId;
    let problem = open?.problem ?? '';
    let failed = open?.failed ?? false;
    let superblock: Superblock | null = open?.superblock ?? null;
    let usage = { storedBytes: 0, sharedBytes: 0 };
    try {
      superblock ??= SuperblockStore.open(pool.disk, pool.replicaPath(volumeId)).current;
      usage = directoryUsage(pool.disk, pool.replicaPath(volumeId));
    } catch (error) {
      problem ||= asHoldfastError(error).message;
    }
    try {
      checkNotMarked(pool.disk, pool.replicaPath(volumeId));
    } catch (error) {
      failed = true;
      problem ||= asHoldfastError(error).message;
    }
    return {
      volumeId,
      replicaId: superblock?.replicaId ?? nobody,
      incarnationId: superblock?.incarnationId ?? nobody,
      poolId: pool.id,
      ...usage,
      promisedEpoch: superblock?.promised.epoch ?? 0,
      joining: superblock?.joining ?? false,
      problem,
      failed,
    };
  }

  pools(): PoolReport[] {
    const unopened = (this.#options.unopened ?? []).map(({ path, problem }) =>
      noReport(zeroUuid as PoolId, path, problem),
    );
    const opened = this.#options.pools.map((pool) => {
      try {
        return { poolId: pool.id, path: pool.path, ...pool.space(), problem: '' };
      } catch (error) {
        return noReport(pool.id, pool.path, asHoldfastError(error).message);
      }
    });
    return [...opened, ...unopened];
  }

  /** Ends all ports and closes all files. */
  async close(): Promise<void> {
    this.#closed = true;
    const replicas = await Promise.allSettled([...this.#open.values()]);
    const error = new HoldfastError('UNAVAILABLE', 'the storage daemon stops', { reason: 'Closed' });
    for (const result of replicas) if (result.status === 'fulfilled') await result.value.close(error);
  }

  /** Where the volume has a replica. In two pools, when one was away while the other got it: then where the one asked for is. */
  #poolOf(volumeId: VolumeId, replicaId?: ReplicaId): Pool | undefined {
    const having = this.#options.pools.filter((pool) => pool.disk.stat(pool.replicaPath(volumeId)) !== undefined);
    if (having.length < 2 || replicaId === undefined) return having[0];
    return having.find((pool) => replicaIn(pool.disk, pool.replicaPath(volumeId)) === replicaId) ?? having[0];
  }
  #serves(volumeId: VolumeId): boolean {
    return this.#options.owns?.(volumeId) ?? true;
  }
  #ownVolumes(): VolumeId[] {
    return this.#options.pools.flatMap((pool) => pool.volumes().filter((volumeId) => this.#serves(volumeId)));
  }
  #checkServes(volumeId: VolumeId): void {
    if (this.#closed) throw new HoldfastError('UNAVAILABLE', 'the storage daemon stops', { reason: 'Closed' });
    if (!this.#serves(volumeId)) throw precondition(`volume ${volumeId} is served by another worker of this daemon`);
  }
}

/** A store that does not know all that a replica of it knows is an old copy: by the newer one this may be the last that holds the data. */
function checkKnown(order: RetireReplica, { promised, setVersion }: Superblock, pool: Pool): void {
  if (promised.epoch <= order.epoch && setVersion <= order.setVersion) return;
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `replica ${order.replicaId} is not deleted: it knows epoch ${promised.epoch} and in-sync set ${setVersion} of its volume, the metadata ` +
      `store only ${order.epoch} and ${order.setVersion}, so the store went back in time. Restore its newer copy, rebuild it with "holdfast ` +
      `rescue metadata", or stop the daemon and delete ${pool.replicaPath(order.volumeId)}`,
    { reason: 'StoreWentBack' },
  );
}

/** Of a pool that can't be used. The id of one that was not opened is not known. */
function noReport(poolId: PoolId, path: string, problem: string): PoolReport {
  return { poolId, path, capacityBytes: 0, freeBytes: 0, problem };
}

function emptySuperblock(order: CreateReplica, pool: Pool): Superblock {
  return {
    volumeId: order.volumeId,
    lineageId: order.lineageId,
    replicaId: order.replicaId,
    incarnationId: order.incarnationId,
    poolId: pool.id,
    nodeId: pool.nodeId,
    sizeBytes: order.sizeBytes,
    parameters: order.parameters,
    wrappedKey: null,
    promised: { epoch: 0, reignId: zeroUuid as ReignId },
    reigns: [],
    setVersion: order.setVersion,
    members: order.members,
    flushed: null,
    checkpoint: null,
    previousCheckpoint: null,
    joining: order.joining ?? false,
    retired: false,
    // It is empty and synced: nothing of it can have been lost with a page cache.
    cache: cacheIdentity(pool),
  };
}
