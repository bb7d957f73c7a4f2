// Making and deleting a replica's directory so that a crash leaves it whole or not there: made under a temporary name and
// renamed, deleted by renaming it into the trash. Leftovers of either are removed when the pool is opened.

import { corrupt, HoldfastError, type ReplicaId, type VolumeId } from '../base/index.js';
import type { SegmentName, Superblock } from '../format/index.js';
import { type Disk, type DiskFile, synced } from './disk.js';
import { type Pool, removeTree } from './pool.js';
import { listSegments, segmentPath } from './segment-scan.js';
import { SuperblockStore } from './superblock-store.js';

/**
 * Formats a replica, with hard links to sealed, synced segments of another one of the same pool when `from` is given.
 * Durable when it resolves. Repeating it with the same incarnation is harmless; ALREADY_EXISTS when another is there.
 */
export async function createReplicaDirectory(
  pool: Pool,
  superblock: Superblock,
  from?: { directory: string; segments: readonly SegmentName[] },
): Promise<void> {
  const { disk } = pool;
  const target = pool.replicaPath(superblock.volumeId);
  if (disk.stat(target) !== undefined) {
    checkSame(disk, target, superblock);
    // Who renamed it may have died before it was durable.
    return disk.syncDirectory(pool.replicasPath);
  }
  const temporary = `${pool.replicasPath}/.tmp-${superblock.incarnationId}`;
  await removeTree(disk, temporary);
  disk.mkdir(temporary);
  try {
    for (const name of from?.segments ?? [])
      await linkOrCopy(disk, segmentPath(from!.directory, name), segmentPath(temporary, name));
    // Comes last and syncs the directory, and so the links made before.
    await SuperblockStore.create(disk, temporary, superblock);
    disk.rename(temporary, target);
  } catch (error) {
    await removeTree(disk, temporary).catch(() => undefined); // The first error says more; the rest goes at the next start.
    throw error;
  }
  await disk.syncDirectory(pool.replicasPath);
}

function checkSame(disk: Disk, target: string, wanted: Superblock): void {
  const found = SuperblockStore.open(disk, target).current;
  if (found.replicaId === wanted.replicaId && found.incarnationId === wanted.incarnationId) return;
  throw new HoldfastError(
    'ALREADY_EXISTS',
    `${target} holds replica ${found.replicaId} (incarnation ${found.incarnationId}); ${wanted.replicaId} (incarnation ${wanted.incarnationId}) can't be made there`,
  );
}

async function linkOrCopy(disk: Disk, source: string, target: string): Promise<void> {
  if (disk.link(source, target)) return;
  const from = disk.openFile(source, 'read');
  try {
    const to = disk.openFile(target, 'create');
    try {
      copyWhole(from, to);
      await synced(to);
    } finally {
      to.close();
    }
  } finally {
    from.close();
  }
}

function copyWhole(from: DiskFile, to: DiskFile): void {
  copyBytes(from, to, from.size());
}

/** The first `length` bytes of one file into another. */
export function copyBytes(from: DiskFile, to: DiskFile, length: number): void {
  const buffer = Buffer.allocUnsafe(1024 * 1024);
  for (let at = 0; at < length; ) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - at));
    if (from.read(part, at) < part.length) throw corrupt(`${from.path} ends before byte ${length}`);
    to.write([part], at);
    at += part.length;
  }
}

/**
 * Deletes the replica's directory; false when that replica is not there (a missing one is no error, another replica of the
 * volume is left alone). One whose superblocks are unreadable is taken for the one that was named. Gone for good when it
 * resolves; `pause` is taken between its files. `check` may throw what keeps it: it sees the superblock that goes.
 */
export async function retireReplicaDirectory(
  pool: Pool,
  volumeId: VolumeId,
  replicaId: ReplicaId,
  check: (superblock: Superblock) => void,
  pause?: () => Promise<void>,
): Promise<boolean> {
  const { disk } = pool;
  const directory = pool.replicaPath(volumeId);
  if (disk.stat(directory) === undefined) return false;
  const grave = `${pool.trashPath}/${volumeId}-${replicaId}`;
  await removeTree(disk, grave);
  const found = superblockIn(disk, directory);
  if (found !== null && found.replicaId !== replicaId) return false;
  if (found !== null) check(found);
  disk.rename(directory, grave);
  await disk.syncDirectory(pool.replicasPath);
  await disk.syncDirectory(pool.trashPath);
  await removeTree(disk, grave, pause);
  return true;
}

/** Whose replica a directory holds; null when its superblocks are unreadable. */
export function replicaIn(disk: Disk, directory: string): ReplicaId | null {
  return superblockIn(disk, directory)?.replicaId ?? null;
}

function superblockIn(disk: Disk, directory: string): Superblock | null {
  try {
    return SuperblockStore.open(disk, directory).current;
  } catch (error) {
    if (error instanceof HoldfastError && (error.reason === 'Corrupt' || error.reason === 'ReplicaLost')) return null;
    throw error;
  }
}

/** Bytes a replica's segments take on disk, by inode; `sharedBytes` are those of files with more than one name. */
export function directoryUsage(disk: Disk, directory: string): { storedBytes: number; sharedBytes: number } {
  let storedBytes = 0;
  let sharedBytes = 0;
  for (const name of listSegments(disk, directory)) {
    const stat = disk.stat(segmentPath(directory, name));
    if (stat === undefined) continue; // Deleted meanwhile.
    storedBytes += stat.storedBytes;
    if (stat.links > 1) sharedBytes += stat.storedBytes;
  }
  return { storedBytes, sharedBytes };
}
