// A FUSE connection and its mount: one regular file, made by mounting with rootmode=100000 over an empty file, so that
// no directory has to be served. The descriptor is the connection: the mount lives while any process has it open.

import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { type Clock, errnoOf, HoldfastError, type VolumeId } from '../../base/index.js';
import { type Exec, ExecError } from '../exec.js';
import { createMounter } from '../mount/index.js';
import { payloadBytesMax } from './fuse-codec.js';

export interface FuseConnection {
  readonly fd: number;
  /** Mounts it over `file`, which is made when missing. From here on whoever looks at the file waits for the bridge. */
  mount(exec: Exec, file: string, volumeId: VolumeId): Promise<void>;
  /** Ends this process's hold. Once the bridge is gone too, the kernel fails all I/O on the mount. */
  close(): Promise<void>;
}

const mountTimeoutMs = 30_000;
export const fuseFsType = 'fuse.holdfast';

/** A connection that is mounted nowhere yet. */
export async function openFuse(): Promise<FuseConnection> {
  const handle = await open('/dev/fuse', 'r+').catch((cause) => {
    const advice = errnoOf(cause) === 'ENOENT' ? 'load the kernel module "fuse"' : 'attaching needs root';
    throw new HoldfastError('FAILED_PRECONDITION', `/dev/fuse cannot be opened: ${advice}`, { cause });
  });
  const options = `fd=3,rootmode=100000,user_id=0,group_id=0,default_permissions,max_read=${payloadBytesMax}`;
  return {
    fd: handle.fd,
    async mount(exec, file, volumeId) {
      await (await open(file, constants.O_RDONLY | constants.O_CREAT, 0o600)).close();
      await exec.run('mount', ['-i', '-t', fuseFsType, '-o', options, `holdfast:${volumeId}`, file], {
        timeoutMs: mountTimeoutMs,
        inheritFd: handle.fd,
      });
    },
    close: () => handle.close(),
  };
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
