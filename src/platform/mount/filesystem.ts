// Making, checking, growing and measuring filesystems with each one's own tools. Nothing here decides whether a device
// may be formatted: see blank.ts.

import { statfs } from 'node:fs/promises';
import { HoldfastError, invalid, precondition, printable, type VolumeId } from '../../base/index.js';
import { type Exec, ExecError } from '../exec.js';
import { blockDeviceSize, proveBlank, readStart } from './blank.js';

export const fsTypes = ['ext4', 'xfs', 'btrfs'] as const;
export type FsType = (typeof fsTypes)[number];

/** Checks a filesystem's name from a StorageClass or capability. Throws INVALID_ARGUMENT. */
export function parseFsType(text: string): FsType {
  const found = fsTypes.find((fsType) => fsType === text);
  if (!found) throw invalid(`filesystem type ${printable(text)} is none of ${fsTypes.join(', ')}`, 'UnknownParameter');
  return found;
}

/** What lies on a device: `none` is said only of one whose start was read. */
export type Probed =
  | { readonly kind: 'filesystem'; readonly fsType: string; readonly uuid: string; readonly label: string }
  | { readonly kind: 'other'; readonly what: string }
  | { readonly kind: 'none' };

export interface FilesystemStats {
  readonly bytes: { readonly total: number; readonly used: number; readonly available: number };
  readonly inodes: { readonly total: number; readonly used: number; readonly available: number };
}

export interface Filesystems {
  /** Makes a filesystem whose UUID is the volume's id. Overwrites: the caller has proven the device blank. */
  format(device: string, fsType: FsType, volumeId: VolumeId, mkfsOptions: readonly string[]): Promise<void>;
  /** What is on the device. UNAVAILABLE when it can't be read, which is never the same as `none`. */
  probe(device: string): Promise<Probed>;
  /** Two of the three proofs that a device may be formatted; see blank.ts. */
  proveBlank(device: string, expectedSizeBytes: number): Promise<void>;
  /** Repairs what is safe to repair before a mount. DATA_LOSS when a person must look. xfs and btrfs do it at mount. */
  check(device: string, fsType: FsType): Promise<void>;
  /**
   * Grows a mounted filesystem to its device. FAILED_PRECONDITION/PermissionDenied in the text when the kernel demands
   * a privilege this process lacks (ext4 needs CAP_SYS_RESOURCE): growUnmounted does it at the next stage.
   */
  growMounted(device: string, fsType: FsType, mountPoint: string): Promise<void>;
  /** Grows before the mount. `needs-mount` for xfs and btrfs, which grow mounted only (and without that privilege). */
  growUnmounted(device: string, fsType: FsType): Promise<'grown' | 'needs-mount'>;
  stats(path: string): Promise<FilesystemStats>;
  deviceSize(device: string): Promise<number>;
}

const formatTimeoutMs = 300_000;
const checkTimeoutMs = 900_000;
const growTimeoutMs = 300_000;

export function createFilesystems(exec: Exec): Filesystems {
  return {
    format: (device, fsType, volumeId, options) => format(exec, device, fsType, volumeId, options),
    probe: (device) => probe(exec, device),
    proveBlank: (device, expected) => proveBlank(exec, device, expected),
    check: (device, fsType) => check(exec, device, fsType),
    growMounted: (device, fsType, mountPoint) => growMounted(exec, device, fsType, mountPoint),
    growUnmounted: (device, fsType) => growUnmounted(exec, device, fsType),
    stats,
    deviceSize: (device) => blockDeviceSize(exec, device),
  };
}

async function format(
  exec: Exec,
  device: string,
  fsType: FsType,
  volumeId: VolumeId,
  mkfsOptions: readonly string[],
): Promise<void> {
  // The user's options come last but for the device, so that they win.
  const own: Readonly<Record<FsType, readonly string[]>> = {
    ext4: ['-q', '-F', '-m', '0', '-U', volumeId],
    xfs: ['-q', '-f', '-m', `uuid=${volumeId}`],
    btrfs: ['-q', '-f', '-U', volumeId],
  };
  await exec.run(`mkfs.${fsType}`, [...own[fsType], ...mkfsOptions, device], { timeoutMs: formatTimeoutMs });
}

async function probe(exec: Exec, device: string): Promise<Probed> {
  const size = await blockDeviceSize(exec, device);
  if (size === 0) {
    throw new HoldfastError('UNAVAILABLE', `${device} has no size: it is not connected`, { reason: 'DiskFailed' });
  }
  // Read before blkid is asked: its "nothing found" covers a device that fails every read.
  await readStart(device, size);
  const { code, stdout } = await exec.run('blkid', ['-p', '-o', 'export', device], {
    timeoutMs: 60_000,
    okCodes: [0, 2, 8],
  });
  if (code === 8) return { kind: 'other', what: 'signatures of more than one kind' };
  return code === 2 ? { kind: 'none' } : parseBlkid(stdout);
}

/** Reads `blkid -p -o export` of a device on which it found something. */
export function parseBlkid(text: string): Probed {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const at = line.indexOf('=');
    // Values are shell-escaped with backslashes.
    if (at > 0) fields.set(line.slice(0, at), line.slice(at + 1).replaceAll(/\\(.)/g, '$1'));
  }
  const type = fields.get('TYPE');
  if (type !== undefined && fields.get('USAGE') === 'filesystem') {
    return {
      kind: 'filesystem',
      fsType: type,
      uuid: fields.get('UUID') ?? '',
      label: fields.get('LABEL') ?? '',
    };
  }
  const what = type ?? (fields.has('PTTYPE') ? `a partition table (${fields.get('PTTYPE')})` : 'an unknown signature');
  return { kind: 'other', what };
}

async function check(exec: Exec, device: string, fsType: FsType): Promise<void> {
  if (fsType !== 'ext4') return;
  await e2fsck(exec, ['-p', device], device);
}

async function e2fsck(exec: Exec, args: readonly string[], device: string): Promise<void> {
  // 1 and 2 mean repaired; from 4 on something was left.
  const okCodes = [0, 1, 2, 3, 4, 5, 6, 7];
  const { code, stdout, stderr } = await exec.run('e2fsck', args, { timeoutMs: checkTimeoutMs, okCodes });
  if (code < 4) return;
  const said = `${stdout}\n${stderr}`.trim().split('\n').at(-1)?.trim() ?? '';
  throw new HoldfastError(
    'DATA_LOSS',
    `the ext4 filesystem on ${device} has damage that can't be repaired unattended (${said}): run e2fsck by hand`,
    { reason: 'Corrupt' },
  );
}

async function growMounted(exec: Exec, device: string, fsType: FsType, mountPoint: string): Promise<void> {
  if (fsType === 'xfs') await exec.run('xfs_growfs', [mountPoint], { timeoutMs: growTimeoutMs });
  else if (fsType === 'btrfs') {
    await exec.run('btrfs', ['filesystem', 'resize', 'max', mountPoint], { timeoutMs: growTimeoutMs });
  } else {
    try {
      await exec.run('resize2fs', [device], { timeoutMs: growTimeoutMs });
    } catch (error) {
      if (error instanceof ExecError && /permission denied|not permitted/i.test(error.result.stderr)) {
        throw precondition(
          `the mounted ext4 filesystem on ${device} cannot grow here, because the kernel asks for CAP_SYS_RESOURCE and ` +
            'this process lacks it: the volume itself has grown, its filesystem will at the next mount',
        );
      }
      throw error;
    }
  }
}

async function growUnmounted(exec: Exec, device: string, fsType: FsType): Promise<'grown' | 'needs-mount'> {
  if (fsType !== 'ext4') return 'needs-mount';
  // resize2fs insists on a full check before it works offline.
  await e2fsck(exec, ['-f', '-p', device], device);
  await exec.run('resize2fs', [device], { timeoutMs: growTimeoutMs });
  return 'grown';
}

async function stats(path: string): Promise<FilesystemStats> {
  const fs = await statfs(path, { bigint: true });
  const bytes = (blocks: bigint) => Number(blocks * fs.bsize);
  return {
    bytes: { total: bytes(fs.blocks), used: bytes(fs.blocks - fs.bfree), available: bytes(fs.bavail) },
    inodes: { total: Number(fs.files), used: Number(fs.files - fs.ffree), available: Number(fs.ffree) },
  };
}
