// What a volume's record must say before something may be done with it, and how the record looks at each turn of its life:
//
//   (nothing) -> creating -> ready -> deleting -> (nothing)
//                    |         |          |
//                    |         |          v
//                    |         +--> snapshots-only -> deleting        (the last snapshot went)
//                    +--> deleting                                    (given up: undone, or placed anew under another id)
//
// creating: the intent; replicas are being made. deleting: a tombstone; replicas are being retired.

import { createHash } from 'node:crypto';
import {
  HoldfastError,
  isUuid,
  notFound,
  precondition,
  printable,
  type SnapshotId,
  uuidFromBytes,
  type VolumeId,
} from '../base/index.js';
import type { VolumeRecord } from '../meta/index.js';
import type { Records } from './records.js';

/** A volume for the caller to use. Throws NOT_FOUND for ids of any shape that name none. */
export async function readyVolume(records: Records, id: string): Promise<VolumeRecord> {
  const record = isUuid(id) ? await records.volume(id as VolumeId) : undefined;
  if (record?.state !== 'ready') throw notFound(`volume ${printable(id)} does not exist`);
  return record;
}

/** Inside a change: the record is still in use. */
export function stillReady(record: VolumeRecord): void {
  if (record.state !== 'ready') throw notFound(`volume ${record.id} does not exist any more`);
}

export function refusePublished(record: VolumeRecord): void {
  if (record.publications.length === 0) return;
  const nodes = record.publications.map((publication) => publication.nodeId).join(', ');
  throw precondition(`volume ${record.id} is published on ${nodes}; unpublish it first`, 'Busy');
}

/** All replicas made: they are the first in-sync set. */
export function asReady(record: VolumeRecord, origin?: VolumeRecord): VolumeRecord {
  if (record.state === 'ready') return record;
  if (record.state !== 'creating') {
    throw new HoldfastError('ABORTED', `creating volume ${record.id} was given up meanwhile; retry`, {
      reason: 'Busy',
    });
  }
  return {
    ...record,
    state: 'ready',
    replicas: record.replicas.map((replica) => ({ ...replica, state: 'ok' })),
    inSync: record.replicas.map((replica) => replica.id),
    setVersion: 1,
    ...(record.parameters.dataLocality === 'required' ? { pinnedTo: record.replicas.map(({ nodeId }) => nodeId) } : {}),
    // A clone holds its source's segments, and no name of a segment may come again: its epochs go on above the source's.
    ...(origin === undefined ? {} : { epoch: origin.epoch, wrappedKey: origin.wrappedKey }),
  };
}

/** Whether replicas of this volume ever were an in-sync set. */
export function wasReady(record: VolumeRecord): boolean {
  return record.inSync.length > 0;
}

/**
 * What the store knows of a volume, for a daemon to compare with what a replica knows before it deletes it. `source`: the volume it is a clone
 * of, if that still exists.
 */
export function knownOf(record: VolumeRecord, source?: VolumeRecord): { epoch: number; set_version: number } {
  if (wasReady(record)) return { epoch: record.epoch, set_version: record.setVersion };
  // As CreateVolume makes them; a clone begins with the epoch of its source.
  const epoch = record.source === undefined ? 0 : (source?.epoch ?? Number.MAX_SAFE_INTEGER);
  return { epoch, set_version: 1 };
}

/** What a replica's superblock says of its volume, so that the pools alone explain themselves. */
export function superblockParameters(record: VolumeRecord): Record<string, string> {
  const { parameters } = record;
  return {
    name: record.name,
    ...Object.fromEntries(Object.entries(parameters).map(([key, value]) => [key, String(value)])),
    ...(record.wrappedKey === null ? {} : { wrappedKey: JSON.stringify(record.wrappedKey) }),
  };
}

/** The snapshot a clone of a volume starts from; derived, so that every repetition means the same one. */
export function cloneSnapshotId(newVolume: VolumeId): SnapshotId {
  const digest = createHash('sha256').update(`holdfast clone of ${newVolume}`).digest();
  digest[6] = (digest[6]! & 0x0f) | 0x80;
  digest[8] = (digest[8]! & 0x3f) | 0x80;
  return uuidFromBytes(digest, 0) as SnapshotId;
}
