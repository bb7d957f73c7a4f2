// What the machine allows: whether volumes can be mounted here, and which tools the demo can use.

import { accessSync, constants, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

export interface Machine {
  /** Why volumes can't be mounted here; empty when they can. */
  readonly mountProblem: string;
  readonly hasFio: boolean;
  /** Without it the kernel refuses to grow a mounted ext4. */
  readonly canGrowMountedExt4: boolean;
}

// Bits of a capability set, from linux/capability.h.
const capSysAdmin = 21n;
const capSysResource = 24n;
const mountTools = ['mount', 'umount', 'findmnt', 'losetup', 'blkid', 'blockdev', 'mkfs.ext4', 'e2fsck', 'resize2fs'];

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}

function isInstalled(program: string): boolean {
  const folders = (process.env.PATH ?? '').split(delimiter).filter((folder) => folder !== '');
  return folders.some((folder) => isAccessible(join(folder, program), constants.X_OK));
}

/** The effective capabilities of this process; all of root's where /proc does not tell. */
function capabilities(): bigint {
  try {
    const match = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'));
    if (match) return BigInt(`0x${match[1]}`);
  } catch {
    // No /proc: the tools will tell.
  }
  return process.getuid?.() === 0 ? ~0n : 0n;
}

function has(set: bigint, bit: bigint): boolean {
  return ((set >> bit) & 1n) === 1n;
}

function mountProblem(set: bigint): string {
  if (process.platform !== 'linux') return `this is ${process.platform}, mounting needs Linux`;
  if (process.getuid?.() !== 0) return 'not root';
  if (!has(set, capSysAdmin)) return 'root without CAP_SYS_ADMIN (an unprivileged container?)';
  for (const device of ['/dev/fuse', '/dev/loop-control']) {
    if (!isAccessible(device, constants.R_OK | constants.W_OK)) return `no ${device}`;
  }
  const missing = mountTools.filter((tool) => !isInstalled(tool));
  return missing.length === 0 ? '' : `not in PATH: ${missing.join(', ')}`;
}

export function lookAtMachine(): Machine {
  const set = capabilities();
  return {
    mountProblem: mountProblem(set),
    hasFio: isInstalled('fio'),
    canGrowMountedExt4: has(set, capSysResource),
  };
}
