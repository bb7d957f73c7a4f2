// What a replica's superblock must agree with, and the errors of callers that may not act on it.

import { HoldfastError, type VolumeId } from '../base/index.js';
import type { Reign, Superblock } from '../format/index.js';
import type { Pool } from '../segment/index.js';

export type CacheIdentity = NonNullable<Superblock['cache']>;

/** Under which boot and mount bytes are written now. */
export function cacheIdentity(pool: Pool): CacheIdentity {
  return { bootId: pool.disk.bootId(), mountId: pool.disk.mountId(pool.path) };
}

/** Whether the page cache that took a replica's last bytes is still the one in use. */
export function sameCache(then: Superblock['cache'], now: CacheIdentity): boolean {
  return then !== null && then.bootId === now.bootId && then.mountId === now.mountId;
}

/**
 * Whether nothing suggests that frames are missing at a log's end although the page cache survived. One that ends with a sealed
 * segment looks like one that has lost the file after it, unless the superblock says that this is the end: an engine seals
 * a segment because of a frame for the next one, and an idle or closing one notes where it stopped.
 */
export function endsAsNoted(
  last: { readonly sealed: boolean; readonly lastSeq: number } | undefined,
  { flushed }: Superblock,
): boolean {
  return last === undefined || !last.sealed || last.lastSeq <= (flushed?.seq ?? 0);
}

/** Throws when the superblock found in the volume's directory belongs to another volume or pool. */
export function checkIdentity(superblock: Superblock, pool: Pool, volumeId: VolumeId): void {
  const where = pool.replicaPath(volumeId);
  if (superblock.volumeId !== volumeId) {
    const message = `${where} holds a replica of volume ${superblock.volumeId}: it was moved`;
    throw new HoldfastError('DATA_LOSS', message, { reason: 'Corrupt' });
  }
  if (superblock.poolId === pool.id) return;
  const message = `${where} belongs to pool ${superblock.poolId}, not to ${pool.id}: it was copied here`;
  throw new HoldfastError('FAILED_PRECONDITION', message, { reason: 'PoolForeign' });
}

export function staleReign(volumeId: VolumeId, promised: Reign, asked: Reign): HoldfastError {
  const message = `replica of volume ${volumeId} promised reign ${promised.epoch} (${promised.reignId}), not ${asked.epoch} (${asked.reignId})`;
  return new HoldfastError('ABORTED', message, { reason: 'StaleReign' });
}

/** Why a port that is not the current one may do nothing. Only a higher reign deposes: a newer connection of the same does not. */
export function superseded(volumeId: VolumeId, own: Reign | null, promised: Reign): HoldfastError {
  const replica = `replica of volume ${volumeId}`;
  if (own === null)
    return new HoldfastError('FAILED_PRECONDITION', `${replica}: nothing is done before a fence`, {
      reason: 'Protocol',
    });
  if (own.epoch === promised.epoch && own.reignId === promised.reignId) {
    const message = `${replica} now serves a newer connection of reign ${own.epoch}`;
    return new HoldfastError('UNAVAILABLE', message, { reason: 'Closed' });
  }
  return new HoldfastError('ABORTED', `${replica} promised reign ${promised.epoch}, ${own.epoch} is over`, {
    reason: 'StaleReign',
  });
}

export function tooMany(volumeId: VolumeId): HoldfastError {
  const message = `too many operations wait at the replica of volume ${volumeId}`;
  return new HoldfastError('RESOURCE_EXHAUSTED', message, { reason: 'Busy' });
}

export function closedHere(volumeId: VolumeId): HoldfastError {
  return new HoldfastError('UNAVAILABLE', `replica of volume ${volumeId} was closed here`, { reason: 'Closed' });
}

export function damagedLog(damage: string): HoldfastError {
  return new HoldfastError('DATA_LOSS', `no append to a damaged log: ${damage}`, { reason: 'Corrupt' });
}
