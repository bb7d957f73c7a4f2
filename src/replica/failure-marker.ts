// A replica whose disk failed under it stays failed over a restart: after a failed sync the kernel may show bytes that never
// reached the disk, so what a new process reads proves nothing. The marker is a best effort on a disk that fails.

import { HoldfastError } from '../base/index.js';
import { type Disk, synced } from '../segment/index.js';

const markerName = 'failed';

export function isMarked(disk: Disk, directory: string): boolean {
  return disk.stat(`${directory}/${markerName}`) !== undefined;
}

/** Throws UNAVAILABLE/DiskFailed when the replica in `directory` failed before. */
export function checkNotMarked(disk: Disk, directory: string): void {
  if (!isMarked(disk, directory)) return;
  const path = `${directory}/${markerName}`;
  throw new HoldfastError(
    'UNAVAILABLE',
    `the disk failed under the replica in ${directory} (${path} says how); delete the replica, or that file if its contents are known to be good`,
    { reason: 'DiskFailed' },
  );
}

export async function markFailed(disk: Disk, directory: string, error: HoldfastError): Promise<void> {
  const path = `${directory}/${markerName}`;
  if (disk.stat(path) !== undefined) return;
  const file = disk.openFile(path, 'create');
  try {
    file.write([Buffer.from(`${error.message}\n`)], 0);
    await synced(file);
  } finally {
    file.close();
  }
  await disk.syncDirectory(directory);
}
