// Mounting and unmounting through mount(8) and umount(8). Every operation may be repeated: it looks first and does only
// what is missing. It never unmounts lazily on its own, because a lazily unmounted filesystem goes on writing after the
// volume has moved to another node.

import { open, rmdir, stat, unlink } from 'node:fs/promises';
import { dirname, isAbsolute } from 'node:path';
import { type Clock, errnoOf, HoldfastError, invalid, precondition, printable } from '../../base/index.js';
import { type Exec, ExecError } from '../exec.js';
import { makeDirectory } from '../make-directory.js';
import type { FsType } from './filesystem.js';
import { type MountEntry, mountsAt, mountsOf } from './findmnt.js';

export interface MountFilesystem {
  readonly device: string;
  readonly target: string;
  readonly fsType: FsType;
  readonly options: readonly string[];
  readonly readOnly: boolean;
}

export interface BindMount {
  /** A directory, or a block device for a raw block volume. */
  readonly source: string;
  /** Made when missing: a directory for a directory, an empty file for a device. */
  readonly target: string;
  /** Of the filesystem only: a device node stays writable, so a read-only raw volume must be attached read-only. */
  readonly readOnly: boolean;
}

export interface Mounter {
  /** True when something is mounted at `path`, also when it is dead; false when the path does not exist. */
  isMountPoint(path: string): Promise<boolean>;
  findMounts(query: { readonly target: string } | { readonly device: string }): Promise<MountEntry[]>;
  /** Repeats are fine; FAILED_PRECONDITION when another device, or the same one in another mode, is mounted there. */
  mountFilesystem(mount: MountFilesystem): Promise<void>;
  bindMount(mount: BindMount): Promise<void>;
  /**
   * Takes away whatever is mounted at `target`; fine when nothing is. A busy mount is tried again for about four
   * seconds, then FAILED_PRECONDITION/Busy. `lazy` detaches even a busy one: only for a mount that is dead.
   */
  unmount(target: string, options?: { readonly lazy?: boolean }): Promise<void>;
  /** Unmounts, then removes the empty directory or file. Never removes contents. */
  unmountAndRemove(target: string): Promise<void>;
}

const mountTimeoutMs = 120_000;
const busyTriesMax = 20;
const busyDelayMs = 200;
/** More stacked mounts than this at one place are not ours. */
const stackedMountsMax = 16;

export function createMounter(exec: Exec, clock: Clock): Mounter {
  return {
    isMountPoint: async (path) => (await mountsAt(exec, path)).length > 0,
    findMounts: (query) => ('target' in query ? mountsAt(exec, query.target) : mountsOf(exec, query.device)),
    mountFilesystem: (mount) => mountFilesystem(exec, mount),
    bindMount: (mount) => bindMount(exec, mount),
    unmount: (target, options) => unmount(exec, clock, target, options?.lazy ?? false),
    unmountAndRemove: async (target) => {
      await unmount(exec, clock, target, false);
      await removeTarget(target);
    },
  };
}

/** A path that goes onto a command line: absolute (so never read as an option), bounded, without control characters. */
function checkPath(path: string, what: string): void {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  if (!isAbsolute(path) || path.length > 4096 || /[\0-\x1f\x7f]/.test(path)) {
    throw invalid(`${what} must be an absolute path without control characters: ${printable(path)}`);
  }
}

function checkOptions(options: readonly string[]): void {
  for (const option of options) {
    if (!/^[\x21-\x7e]{1,512}$/.test(option)) throw invalid(`mount option is not printable: ${printable(option)}`);
  }
}

async function mountFilesystem(exec: Exec, mount: MountFilesystem): Promise<void> {
  checkPath(mount.device, 'device');
  checkPath(mount.target, 'mount target');
  checkOptions(mount.options);
  const present = (await mountsAt(exec, mount.target)).at(-1);
  if (present) {
    if (present.source === mount.device && present.readOnly === mount.readOnly) return;
    const mode = present.readOnly ? 'read-only' : 'writable';
    throw precondition(`${mount.target} already has ${present.source} (${mode}) mounted: unmount it first`, 'Conflict');
  }
  makeDirectory(mount.target, 0o750);
  const options = new Set(mount.options.flatMap((option) => option.split(',')));
  if (mount.readOnly) options.add('ro');
  // A clone has its source's filesystem UUID, and xfs refuses to mount two of the same. Which device is which is known
  // here by the volume id, not by the UUID.
  if (mount.fsType === 'xfs') options.add('nouuid');
  const flags = options.size > 0 ? ['-o', [...options].join(',')] : [];
  await exec.run('mount', ['-t', mount.fsType, ...flags, mount.device, mount.target], { timeoutMs: mountTimeoutMs });
}

async function bindMount(exec: Exec, mount: BindMount): Promise<void> {
  checkPath(mount.source, 'bind source');
  checkPath(mount.target, 'bind target');
  const source = await stat(mount.source);
  if (source.isDirectory()) makeDirectory(mount.target, 0o750);
  else await makeFile(mount.target);
  const present = (await mountsAt(exec, mount.target)).at(-1);
  if (present) {
    if (!(await isSame(mount.source, mount.target))) {
      throw precondition(`${mount.target} already has ${present.source} mounted: unmount it first`, 'Conflict');
    }
    if (present.readOnly === mount.readOnly) return;
    // A remount that was cut short is finished by the repeat; what is read-only is never made writable.
    if (present.readOnly) throw precondition(`${mount.target} is mounted read-only: unmount it first`, 'Conflict');
  } else {
    await exec.run('mount', ['--bind', mount.source, mount.target], { timeoutMs: mountTimeoutMs });
  }
  if (!mount.readOnly) return;
  try {
    await exec.run('mount', ['-o', 'remount,bind,ro', mount.target], { timeoutMs: mountTimeoutMs });
  } catch (error) {
    if (!present) await exec.run('umount', [mount.target], { timeoutMs: mountTimeoutMs });
    throw error;
  }
}

async function makeFile(path: string): Promise<void> {
  makeDirectory(dirname(path), 0o750);
  try {
    await (await open(path, 'wx', 0o640)).close();
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** The same directory or the same device, whatever path leads to it. */
async function isSame(a: string, b: string): Promise<boolean> {
  const [left, right] = await Promise.all([stat(a), stat(b)]);
  if (left.isBlockDevice() || right.isBlockDevice()) return left.rdev === right.rdev && left.mode === right.mode;
  return left.dev === right.dev && left.ino === right.ino;
}

async function unmount(exec: Exec, clock: Clock, target: string, lazy: boolean): Promise<void> {
  checkPath(target, 'mount target');
  for (let layer = 0; layer < stackedMountsMax; layer++) {
    const present = (await mountsAt(exec, target)).at(-1);
    if (!present) return;
    // The canonical name from the kernel's table, not resolved again: resolving would touch a dead mount.
    await unmountOnce(exec, clock, present.target, lazy);
  }
  throw precondition(`${target} has more than ${stackedMountsMax} mounts on top of each other: unmount them by hand`);
}

async function unmountOnce(exec: Exec, clock: Clock, target: string, lazy: boolean): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await exec.run('umount', ['-c', ...(lazy ? ['-l'] : []), target], { timeoutMs: mountTimeoutMs });
      return;
    } catch (error) {
      if (!(error instanceof ExecError)) throw error;
      if (/not mounted|no mount point/.test(error.result.stderr)) return;
      if (!/busy/.test(error.result.stderr)) throw error;
      if (attempt >= busyTriesMax) {
        throw new HoldfastError(
          'FAILED_PRECONDITION',
          `${target} is still in use: end the programs that have files open there`,
          { reason: 'Busy', cause: error },
        );
      }
      await clock.sleep(busyDelayMs);
    }
  }
}

async function removeTarget(target: string): Promise<void> {
  try {
    if ((await stat(target)).isDirectory()) await rmdir(target);
    else await unlink(target);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}
