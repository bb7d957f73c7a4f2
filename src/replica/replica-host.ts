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
  SerialQueues,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import { type Member, type Superblock, VOLUME_SIZE_MAX } from '../format/index.js';
import { createReplicaDirectory, HandleCache, type Pool, replicaIn, retireReplicaDirectory } from '../segment/index.js';
import { cacheIdentity } from './identity.js';
import { LocalReplica } from './local-replica.js';
import { Replica } from './replica.js';
import {
  isUnread,
  noReport,
  type PoolReport,
  type ReplicaReport,
  replicaReport,
  type UnreadPool,
  unreadError,
  unreadPool,
} from './replica-report.js';
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
  /** Where it was made. */
  readonly poolId: PoolId;
  /** The highest of the volume that the metadata store knows. */
  readonly epoch: number;
  readonly setVersion: number;
}

export class ReplicaHost {
  readonly #options: ReplicaHostOptions;
  readonly #handles = new HandleCache(HANDLES_MAX);
  readonly #open = new Map<VolumeId, Promise<Replica>>();
  /** The same once opened, for reports. */
  readonly #opened = new Map<VolumeId, Replica>();
  /** What is made and deleted, in the order of asking: nothing that a caller gave up waiting for is made after its deletion. */
  readonly #ordered = new SerialQueues();
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
  create(order: CreateReplica): Promise<void> {
    return this.#ordered.run(order.volumeId, () => this.#create(order));
  }

  async #create(order: CreateReplica): Promise<void> {
    this.#checkServes(order.volumeId);
    if (!Number.isSafeInteger(order.sizeBytes) || order.sizeBytes < 1 || order.sizeBytes > VOLUME_SIZE_MAX) {
      throw invalid(`size of volume ${order.volumeId} is ${order.sizeBytes} bytes, must be 1 to ${VOLUME_SIZE_MAX}`);
    }
    const pool = this.#options.pools.find((candidate) => candidate.id === order.poolId);
    if (pool === undefined)
      throw new HoldfastError('NOT_FOUND', `this node has no pool ${order.poolId}`, { reason: 'PoolMissing' });
    // What lies where its disk failed is in nobody's way: should it come back after all, nobody asks for it.
    const present = this.#lookUp(order.volumeId).having.find((one) => !this.#hasFailed(one, order.volumeId));
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
    let replica = await this.#replica(volumeId, replicaId);
    if (replica.superblock.replicaId !== replicaId && this.#poolOf(volumeId, replicaId) !== replica.pool) {
      // One that failed is still open, and the one that was made beside it is asked for.
      const why = `replica ${replicaId} of the volume is asked for in its place`;
      await replica.close(new HoldfastError('UNAVAILABLE', why, { reason: 'Closed' }));
      replica = await this.#replica(volumeId, replicaId);
    }
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
   * when it knows of more than the store from which the order comes. UNAVAILABLE, FAILED_PRECONDITION/PoolMissing when its pool can't be read.
   */
  retire(order: RetireReplica): Promise<void> {
    return this.#ordered.run(order.volumeId, () => this.#retire(order));
  }

  async #retire(order: RetireReplica): Promise<void> {
    this.#checkServes(order.volumeId);
    const { volumeId, replicaId, poolId } = order;
    await this.#closeRetired(order);
    const pause = () => this.#options.clock.sleep(RETIRE_PAUSE_MS);
    const home = this.#options.pools.find((pool) => pool.id === poolId);
    let found = false;
    for (const pool of this.#options.pools) {
      try {
        const check = (one: Superblock) => checkKnown(order, one, pool);
        found = (await retireReplicaDirectory(pool, volumeId, replicaId, check, pause)) || found;
      } catch (error) {
        // Another pool of the node that can't be read is not asked about this one.
        if (pool === home || home === undefined || !isUnread(error)) throw error;
      }
    }
    // Whoever opened it while it went would stand in the way of the next one that is made here.
    await this.#closeRetired(order);
    if (found) return;
    if (home === undefined) this.#checkAllOpen(`replica ${replicaId} of volume ${volumeId}`);
    const unread = (home === undefined ? this.#options.pools : [home]).map(unreadPool).find((one) => one !== null);
    if (unread) throw unreadError(unread);
  }

  async #closeRetired(order: RetireReplica): Promise<void> {
    const open = await this.#open.get(order.volumeId)?.catch(() => undefined);
    if (open === undefined || open.superblock.replicaId !== order.replicaId) return;
    checkKnown(order, open.superblock, open.pool);
    await open.close(
      new HoldfastError('NOT_FOUND', `replica ${order.replicaId} of volume ${order.volumeId} was deleted`, {
        reason: 'ReplicaLost',
      }),
    );
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

  /** Every replica of this worker, or those of one volume; unreadable ones with a sentence. What lies in unread() pools is not among them. */
  status(volumeId: VolumeId | null): ReplicaReport[] {
    const isAsked = (volume: VolumeId) => (volumeId === null || volume === volumeId) && this.#serves(volume);
    return this.#options.pools.flatMap((pool) => {
      const opened = (volume: VolumeId) => {
        const replica = this.#opened.get(volume);
        return replica?.pool === pool ? replica : undefined;
      };
      const unread = unreadPool(pool);
      const volumes = unread === null ? pool.volumes() : [...this.#opened.keys()].filter((one) => opened(one));
      return volumes.filter(isAsked).map((volume) => replicaReport(pool, volume, opened(volume), unread));
    });
  }

  /** Pools in which replicas may lie of which status() does not know. */
  unread(): UnreadPool[] {
    const unopened = (this.#options.unopened ?? []).map(({ path, problem }) => ({
      ...{ poolId: zeroUuid as PoolId, path, problem },
      failed: false,
    }));
    return [...this.#options.pools.flatMap((pool) => unreadPool(pool) ?? []), ...unopened];
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

  /**
   * Where the volume has a replica. In two pools, when one was away while the other got it: then where the one asked for is. Throws when it
   * may be in a pool that can't be read.
   */
  #poolOf(volumeId: VolumeId, replicaId: ReplicaId): Pool | undefined {
    const { having, unread } = this.#lookUp(volumeId);
    if (unread === undefined && having.length < 2) return having[0];
    const found = having.find((pool) => replicaIn(pool.disk, pool.replicaPath(volumeId)) === replicaId);
    if (found === undefined && unread !== undefined) throw unreadError(unread);
    return found ?? having[0];
  }

  #lookUp(volumeId: VolumeId): { having: Pool[]; unread: UnreadPool | undefined } {
    let unread: UnreadPool | undefined;
    const having = this.#options.pools.filter((pool) => {
      const problem = unreadPool(pool);
      unread ??= problem ?? undefined;
      return problem === null && pool.disk.stat(pool.replicaPath(volumeId)) !== undefined;
    });
    return { having, unread };
  }

  #hasFailed(pool: Pool, volumeId: VolumeId): boolean {
    const open = this.#opened.get(volumeId);
    return open?.pool === pool && open.failed;
  }

  #serves(volumeId: VolumeId): boolean {
    return this.#options.owns?.(volumeId) ?? true;
  }
  #ownVolumes(): VolumeId[] {
    return this.#options.pools.flatMap((pool) =>
      unreadPool(pool) === null ? pool.volumes().filter((volumeId) => this.#serves(volumeId)) : [],
    );
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
