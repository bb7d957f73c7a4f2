// Which mount of a filesystem a directory lies on. With the boot id it proves that a page cache survived: both equal means
// the kernel still holds what was written. The number of a mount alone proves nothing: a filesystem that shut itself down after
// an I/O error loses what was not synced, and when it is mounted again it gets the same number, the lowest that is free. The
// directory that the kernel makes for each mounted filesystem under /sys has an inode number that does not come again.

import { readFileSync, readlinkSync, statSync } from 'node:fs';
import { basename } from 'node:path';

/**
 * Throws system errors. Text such as "254:0/27/18504": device, number of the filesystem's oldest mount, and of its directory
 * under /sys, which is missing for kinds of filesystems that have none (then a new mount may look like the old one).
 */
export function mountInstance(path: string): string {
  const device = statSync(path).dev;
  // Linux: 12 bits of major, 20 bits of minor, as glibc's gnu_dev_major and gnu_dev_minor spread them.
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  const name = `${major}:${minor}`;
  const instance = `${name}/${oldestMount(mountTable(), name)}`;
  const unique = sysInode('/sys', name);
  return unique === undefined ? instance : `${instance}/${unique}`;
}

/** Filesystems that show each mounted one as /sys/fs/KIND/DEVICE. */
const kinds = ['ext4', 'xfs', 'f2fs'];

/** Undefined where `sys`, which is laid out as /sys, shows no mounted filesystem of the device. */
export function sysInode(sys: string, device: string): number | undefined {
  let name: string;
  try {
    name = basename(readlinkSync(`${sys}/dev/block/${device}`));
  } catch {
    return undefined;
  }
  for (const kind of kinds) {
    const found = statSync(`${sys}/fs/${kind}/${name}`, { throwIfNoEntry: false });
    if (found) return found.ino;
  }
  return undefined;
}

/**
 * The lowest mount number of a device: bind mounts made later (a container's) must not look like a new filesystem. "none"
 * when the device is not in the table (btrfs shows another number there); then only the boot id tells.
 */
export function oldestMount(table: string, device: string): string {
  let lowest: number | undefined;
  for (const line of table.split('\n')) {
    const fields = line.split(' ');
    if (fields[2] !== device) continue;
    const id = Number(fields[0]);
    if (lowest === undefined || id < lowest) lowest = id;
  }
  return lowest === undefined ? 'none' : String(lowest);
}

function mountTable(): string {
  // The init process sees the machine's own mounts when this process may look there.
  try {
    return readFileSync('/proc/1/mountinfo', 'utf8');
  } catch {
    return readFileSync('/proc/self/mountinfo', 'utf8');
  }
}
