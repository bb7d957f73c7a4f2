// What a killed holder leaves behind: a FUSE mount nobody answers, a loop device over it, files. A volume's leftovers are
// touched only by the process that has bound the volume's lock, so a cleaner never meets a living holder.

import { readdir, unlink } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { type Clock, errnoOf, HoldfastError, type VolumeId } from '../../base/index.js';
import type { Exec } from '../exec.js';
import { createMounter, mountsUsing } from '../mount/index.js';
import { abortFuse, unmountFuse } from './fuse-mount.js';
import { listLoops, releaseLoop } from './loop-device.js';
import { type AttachPaths, volumeOfFile } from './paths.js';

export interface VolumeLock {
  release(): Promise<void>;
}

/**
 * Takes the volume's lock: an abstract socket, which the kernel frees when its process ends, however it ends. Undefined
 * when another process has it.
 */
export function lockVolume(paths: AttachPaths): Promise<VolumeLock | undefined> {
  return new Promise((resolve, reject) => {
    const server: Server = createServer((socket) => socket.destroy());
    server.once('error', (error) => {
      if (errnoOf(error) === 'EADDRINUSE') resolve(undefined);
      else reject(error);
    });
    server.listen(paths.lock, () => {
      server.unref();
      resolve({ release: () => new Promise((closed) => server.close(() => closed())) });
    });
  });
}

/**
 * Removes what a dead holder of this volume left. The caller has the lock. FAILED_PRECONDITION/Busy when the dead device
 * is still mounted or open: its user has to let go first.
 */
export async function clearLeftovers(exec: Exec, clock: Clock, paths: AttachPaths, volumeId: VolumeId): Promise<void> {
  const mounter = createMounter(exec, clock);
  const loops = (await listLoops(exec)).filter((loop) => loop.backingFile === paths.file);
  for (const { devicePath } of loops) {
    const [mounted] = await mountsUsing(exec, devicePath);
    if (mounted) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `the device of volume ${volumeId} has lost its holder and is still mounted at ${mounted.target}: unmount it first`,
        { reason: 'Busy' },
      );
    }
  }
  if (await mounter.isMountPoint(paths.file)) {
    // Nobody answers this connection any more; what waits on it would keep the loop device from going.
    await abortFuse(exec, paths.file);
  }
  for (const { devicePath } of loops) await releaseLoop(exec, clock, devicePath, paths.file);
  await unmountFuse(exec, clock, paths.file);
  await removeFiles([paths.file, paths.socket]);
}

/** Removes files; those that are not there are fine. */
export async function removeFiles(files: readonly string[]): Promise<void> {
  for (const file of files) {
    await unlink(file).catch((error) => {
      if (errnoOf(error) !== 'ENOENT') throw error;
    });
  }
}

/** Volumes that have a holder's files in the directory, alive or dead. */
export async function volumesIn(directory: string): Promise<VolumeId[]> {
  const names = await readdir(directory).catch((error) => {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  });
  const volumes = new Set<VolumeId>();
  for (const name of names) {
    const volumeId = volumeOfFile(name);
    if (volumeId) volumes.add(volumeId);
  }
  return [...volumes].sort();
}
