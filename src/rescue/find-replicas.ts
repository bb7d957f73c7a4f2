// Where replicas lie: in the pools that were named, or in directories that are replicas themselves (copied out of a pool, say).

import { HoldfastError, isUuid, messageOf, type PoolId, precondition, type VolumeId } from '../base/index.js';
import { type Disk, readPoolIdentity, SuperblockStore } from '../segment/index.js';

export interface ReplicaPlace {
  readonly directory: string;
  /** As its directory is named; as its superblock says where that is no pool's. Null when neither tells. */
  readonly volumeId: VolumeId | null;
  /** Null for a directory that lies in no pool, or in one whose pool.json can't be read. */
  readonly poolId: PoolId | null;
}

export interface FoundPlaces {
  readonly places: readonly ReplicaPlace[];
  /** One sentence for each thing about the directories that is not as it should be. */
  readonly notes: readonly string[];
}

/** Throws FAILED_PRECONDITION naming a directory that holds neither pool nor replica. */
export function findReplicas(disk: Disk, paths: readonly string[]): FoundPlaces {
  // A pool and a directory in it may both be named.
  const places = new Map<string, ReplicaPlace>();
  const add = (place: ReplicaPlace) => {
    if (places.get(place.directory)?.poolId == null) places.set(place.directory, place);
  };
  const notes: string[] = [];
  for (const path of paths) {
    if (disk.stat(path)?.directory !== true) throw precondition(`${path} is no directory`, 'PoolMissing');
    const names = disk.list(path);
    if (names.includes('replicas')) {
      const poolId = poolIdOf(disk, path, notes);
      for (const name of disk.list(`${path}/replicas`))
        if (isUuid(name)) add({ directory: `${path}/replicas/${name}`, volumeId: name as VolumeId, poolId });
    } else if (names.includes('superblock.0') || names.includes('superblock.1')) {
      add({ directory: path, volumeId: volumeOf(disk, path, notes), poolId: null });
    } else {
      throw precondition(
        `${path} is no pool (it has no directory "replicas") and no replica's directory (it has no superblock): name a pool, or a directory below a pool's "replicas"`,
        'PoolMissing',
      );
    }
  }
  return { places: [...places.values()], notes };
}

function poolIdOf(disk: Disk, path: string, notes: string[]): PoolId | null {
  try {
    return readPoolIdentity(disk, path).poolId;
  } catch (error) {
    const missing = error instanceof HoldfastError && error.reason === 'PoolMissing';
    const why = missing ? `${path} has no pool.json` : messageOf(error);
    notes.push(`${why}: whose pool it is can't be checked, and its replicas are taken for what they say of themselves`);
    return null;
  }
}

function volumeOf(disk: Disk, path: string, notes: string[]): VolumeId | null {
  try {
    return SuperblockStore.open(disk, path).current.volumeId;
  } catch (error) {
    notes.push(messageOf(error));
    return null;
  }
}

/** The volumes of some places, each with its own, in the order of their ids. */
export function byVolume(places: readonly ReplicaPlace[]): Map<VolumeId, ReplicaPlace[]> {
  const found = new Map<VolumeId, ReplicaPlace[]>();
  for (const place of places) {
    if (place.volumeId === null) continue;
    const list = found.get(place.volumeId);
    if (list === undefined) found.set(place.volumeId, [place]);
    else list.push(place);
  }
  return new Map([...found].sort(([a], [b]) => (a < b ? -1 : 1)));
}
