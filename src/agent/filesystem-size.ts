// How large a filesystem says it is, from its own superblock: resize2fs wants a full check before it would tell, which costs
// minutes on a large volume, and most stages have nothing to grow. Layouts: Linux, Documentation/filesystems/ext4 ("The
// Super Block"); XFS Algorithms & Data Structures ("Superblocks"); btrfs on-disk format ("Superblock").

import { open } from 'node:fs/promises';
import type { FsType } from '../platform/mount/index.js';

const superblockBytes = 68 * 1024;

/** Bytes, or undefined when there is no such superblock. Only of a device that is not mounted writable. */
export async function filesystemSize(device: string, fsType: FsType): Promise<number | undefined> {
  const handle = await open(device, 'r');
  try {
    const bytes = Buffer.alloc(superblockBytes);
    const { bytesRead } = await handle.read(bytes, 0, bytes.length, 0);
    return bytesRead < bytes.length ? undefined : superblockSize(bytes, fsType);
  } finally {
    await handle.close();
  }
}

export function superblockSize(bytes: Buffer, fsType: FsType): number | undefined {
  switch (fsType) {
    case 'ext4': {
      if (bytes.readUInt16LE(1024 + 0x38) !== 0xef53) return undefined;
      const blockSize = 1024 * 2 ** bytes.readUInt32LE(1024 + 0x18);
      // The upper half counts only with the 64-bit feature.
      const wide = (bytes.readUInt32LE(1024 + 0x60) & 0x80) !== 0;
      const high = wide ? bytes.readUInt32LE(1024 + 0x150) : 0;
      return (bytes.readUInt32LE(1024 + 0x04) + high * 2 ** 32) * blockSize;
    }
    case 'xfs':
      if (bytes.toString('latin1', 0, 4) !== 'XFSB') return undefined;
      return Number(bytes.readBigUInt64BE(8)) * bytes.readUInt32BE(4);
    case 'btrfs':
      if (bytes.toString('latin1', 65536 + 64, 65536 + 72) !== '_BHRfS_M') return undefined;
      return Number(bytes.readBigUInt64LE(65536 + 112));
  }
}
