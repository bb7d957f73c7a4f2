// Which mount of a filesystem a directory lies on. With the boot id it proves that a page cache survived: both equal means
// the kernel still holds what was written. An orderly unmount writes everything back, so a reused number does no harm.

import { readFileSync, statSync } from 'node:fs';

/** Throws system errors. Text such as "254:0/27": device and the number of the filesystem's oldest mount. */
export function mountInstance(path: string): string {
  const device = statSync(path).dev;
  // Linux: 12 bits of major, 20 bits of minor, as glibc's gnu_dev_major and gnu_dev_minor spread them.
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  const name = `${major}:${minor}`;
  return `${name}/${oldestMount(mountTable(), name)}`;
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
