// "Is there anything on this device?" decides whether mkfs may run, so a wrong "no" destroys a volume. blkid, lsblk and
// wipefs all report "nothing found" for a device that answers every read with EIO. Hence three proofs: the size is the
// expected one, a direct read of the start succeeds and is all zero, and the volume's own record says that it was never
// formatted. The first two are here; the record is the caller's.

import { constants } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { HoldfastError, MiB, messageOf, precondition } from '../../base/index.js';
import type { Exec } from '../exec.js';
import { alignedBuffer } from './aligned.js';

/** Superblocks of ext4 (1 KiB), xfs (0) and btrfs (64 KiB), and partition tables, all lie in here. */
const proofBytes = MiB;

/** Size in bytes of a block device. */
export async function blockDeviceSize(exec: Exec, device: string): Promise<number> {
  const { stdout } = await exec.run('blockdev', ['--getsize64', device], { timeoutMs: 20_000 });
  const size = Number(stdout.trim());
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new HoldfastError('INTERNAL', `blockdev gave no size for ${device}`);
  }
  return size;
}

/**
 * The first bytes of the device, read past the page cache. UNAVAILABLE/DiskFailed when any of them can't be read: that
 * is neither "blank" nor "has a filesystem".
 */
export async function readStart(device: string, sizeBytes: number): Promise<Buffer> {
  const wanted = Math.min(proofBytes, sizeBytes);
  const buffer = alignedBuffer(wanted);
  try {
    const handle = await open(device, constants.O_RDONLY | constants.O_DIRECT);
    try {
      let done = 0;
      while (done < wanted) {
        const { bytesRead } = await handle.read(buffer, done, wanted - done, done);
        if (bytesRead === 0) throw new Error(`ends after ${done} of ${wanted} bytes`);
        done += bytesRead;
      }
    } finally {
      await handle.close();
    }
  } catch (cause) {
    throw new HoldfastError('UNAVAILABLE', `the start of ${device} cannot be read: ${messageOf(cause)}`, {
      reason: 'DiskFailed',
      cause,
    });
  }
  return buffer;
}

/**
 * Returns only when the device has exactly `expectedSizeBytes` and its first MiB was read from it, all zero. Errors:
 * NOT_FOUND no such device, FAILED_PRECONDITION wrong size or contents present, UNAVAILABLE unreadable. A caller also
 * needs the volume's own record that it was never formatted.
 */
export async function proveBlank(exec: Exec, device: string, expectedSizeBytes: number): Promise<void> {
  const info = await stat(device).catch((cause) => {
    throw new HoldfastError('NOT_FOUND', `there is no device ${device}`, { cause });
  });
  if (!info.isBlockDevice()) throw precondition(`${device} is not a block device`);
  const size = await blockDeviceSize(exec, device);
  if (size !== expectedSizeBytes || size === 0) {
    throw precondition(`${device} has ${size} bytes but the volume has ${expectedSizeBytes}: it is not formatted`);
  }
  const start = await readStart(device, size);
  const at = start.findIndex((byte) => byte !== 0);
  if (at >= 0) throw precondition(`${device} is not blank (byte ${at} is set): it is not formatted`);
}
