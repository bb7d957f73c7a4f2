// A FUSE connection and its mount: one regular file, made by mounting with rootmode=100000 over an empty file, so that
// no directory has to be served. The descriptor is the connection: the mount lives while any process has it open.

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Clock, errnoOf, HoldfastError, type VolumeId } from '../../base/index.js';
import { type Exec, ExecError } from '../exec.js';
import { createMounter } from '../mount/index.js';
import { payloadBytesMax } from './fuse-codec.js';

export interface FuseMount {
  readonly fd: number;
  /** Ends this process's hold. Once the bridge is gone too, the kernel fails all I/O on the mount. */
  closeFd(): Promise<void>;
}

const mountTimeoutMs = 30_000;
export const fuseFsType = 'fuse.holdfast';

/** Opens a connection and mounts it over `file`, which is made when missing. */
export async function mountFuse(exec: Exec, file: string, volumeId: VolumeId): Promise<FuseMount> {
  await (await open(file, constants.O_RDONLY | constants.O_CREAT, 0o600)).close();
  const handle = await open('/dev/fuse', 'r+').catch((cause) => {
    const advice = errnoOf(cause) === 'ENOENT' ? 'load the kernel module "fuse"' : 'attaching needs root';
    throw new HoldfastError('FAILED_PRECONDITION', `/dev/fuse cannot be opened: ${advice}`, { cause });
  });
  const options = `fd=3,rootmode=100000,user_id=0,group_id=0,default_permissions,max_read=${payloadBytesMax}`;
  try {
    await exec.run('mount', ['-i', '-t', fuseFsType, '-o', options, `holdfast:${volumeId}`, file], {
      timeoutMs: mountTimeoutMs,
      inheritFd: handle.fd,
    });
  } catch (error) {
    await handle.close();
    throw error;
  }
  return { fd: handle.fd, closeFd: () => handle.close() };
}

/** Takes the mount off `file`, alive or dead; fine when there is none. */
export function unmountFuse(exec: Exec, clock: Clock, file: string): Promise<void> {
  return createMounter(exec, clock).unmount(file);
}

/** Makes the kernel fail everything that waits on the mount, when nobody will ever answer it. */
export async function abortFuse(exec: Exec, file: string): Promise<void> {
  try {
    await exec.run('umount', ['-c', '-f', file], { timeoutMs: mountTimeoutMs });
  } catch (error) {
    // Still in use: the connection is aborted nevertheless, which was the purpose.
    if (!(error instanceof ExecError)) throw error;
  }
}
