// What a node tells of its replicas and pools. A pool that can't be read hides its own replicas and nobody else's.

import {
  asHoldfastError,
  HoldfastError,
  type IncarnationId,
  type PoolId,
  type ReplicaId,
  type VolumeId,
  zeroUuid,
} from '../base/index.js';
import type { Superblock } from '../format/index.js';
import { directoryUsage, type Pool, SuperblockStore } from '../segment/index.js';
import { checkNotMarked, isMarked } from './failure-marker.js';
import type { Replica } from './replica.js';

export interface ReplicaReport {
  readonly volumeId: VolumeId;
  /** Zero, like the incarnation, when its superblocks can't be read. */
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

export interface UnreadPool {
  /** Zero when it was not opened since the start. */
  readonly poolId: PoolId;
  readonly path: string;
  /** A sentence. */
  readonly problem: string;
  /** Its disk failed, so that nothing in it comes back; else it may only be unmounted. */
  readonly failed: boolean;
}

/** Null when what is found in the pool, and what is not, can be believed. */
export function unreadPool(pool: Pool): UnreadPool | null {
  try {
    pool.checkPresent();
    pool.volumes();
    return null;
  } catch (error) {
    const { message, reason } = asHoldfastError(error);
    return { poolId: pool.id, path: pool.path, problem: message, failed: reason === 'DiskFailed' };
  }
}

/** What was not found may be there. */
export function unreadError({ problem, failed }: UnreadPool): HoldfastError {
  return new HoldfastError('UNAVAILABLE', problem, { reason: failed ? 'DiskFailed' : 'PoolMissing' });
}

/** Whether what is asked for may be there all the same. */
export function isUnread(error: unknown): boolean {
  return error instanceof HoldfastError && (error.reason === 'DiskFailed' || error.reason === 'PoolMissing');
}

/** Of one that is in the pool. In one that can't be read only what is open is known, from memory. */
export function replicaReport(
  pool: Pool,
  volumeId: VolumeId,
  open: Replica | undefined,
  unread: UnreadPool | null,
): ReplicaReport {
  const nobody = zeroUuid as ReplicaId & IncarnationId;
  let problem = open?.problem || unread?.problem || '';
  let failed = (open?.failed || unread?.failed) ?? false;
  let superblock: Superblock | null = open?.superblock ?? null;
  let usage = { storedBytes: 0, sharedBytes: 0 };
  const look = (at: () => void) => {
    try {
      at();
    } catch (error) {
      problem ||= asHoldfastError(error).message;
    }
  };
  const directory = pool.replicaPath(volumeId);
  look(() => {
    superblock ??= SuperblockStore.open(pool.disk, directory).current;
    usage = directoryUsage(pool.disk, directory);
  });
  look(() => {
    failed ||= isMarked(pool.disk, directory);
    checkNotMarked(pool.disk, directory);
  });
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

/** Of a pool that can't be used. The id of one that was not opened is not known. */
export function noReport(poolId: PoolId, path: string, problem: string): PoolReport {
  return { poolId, path, capacityBytes: 0, freeBytes: 0, problem };
}
