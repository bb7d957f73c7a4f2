// What is mounted where, as util-linux tells it. The whole list is read and filtered here: asking findmnt for one
// target makes it resolve the path, which fails exactly on the dead mounts one wants to find.

import { realpath } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, HoldfastError, MiB } from '../../base/index.js';
import type { Exec } from '../exec.js';

export interface MountEntry {
  readonly target: string;
  /** The device without findmnt's "[subdirectory]" (that is fsRoot). */
  readonly source: string;
  readonly fsType: string;
  readonly options: readonly string[];
  /** Of this mount, whatever the filesystem below allows. */
  readonly readOnly: boolean;
  readonly propagation: string;
  /** The directory (or file, for a bind-mounted device) of the filesystem that is mounted; "/" for all of it. */
  readonly fsRoot: string;
}

/** Nodes have thousands of mounts at about 300 bytes each. */
const findmntOutputBytesMax = 64 * MiB;

export async function listMounts(exec: Exec): Promise<MountEntry[]> {
  const columns = 'TARGET,SOURCE,FSTYPE,OPTIONS,VFS-OPTIONS,PROPAGATION,FSROOT';
  const { stdout } = await exec.run('findmnt', ['-J', '-l', '-o', columns], {
    timeoutMs: 20_000,
    maxOutputBytes: findmntOutputBytesMax,
  });
  return parseFindmnt(stdout);
}

/** Reads `findmnt -J -l`. Throws INTERNAL when the text is not what util-linux promises. */
export function parseFindmnt(text: string): MountEntry[] {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (cause) {
    throw new HoldfastError('INTERNAL', 'findmnt did not write JSON', { cause });
  }
  const rows = (document as { filesystems?: unknown } | null)?.filesystems;
  if (!Array.isArray(rows)) throw new HoldfastError('INTERNAL', 'findmnt wrote JSON without a list of filesystems');
  return rows.map(parseRow);
}

function parseRow(row: Record<string, unknown>): MountEntry {
  const text = (field: string): string => {
    const value = row[field];
    if (value === null) return '';
    if (typeof value !== 'string') throw new HoldfastError('INTERNAL', `findmnt left out the column ${field}`);
    return value;
  };
  const fsRoot = text('fsroot');
  const source = text('source');
  const suffix = `[${fsRoot}]`;
  return {
    target: text('target'),
    source: source.endsWith(suffix) ? source.slice(0, -suffix.length) : source,
    fsType: text('fstype'),
    options: text('options').split(','),
    readOnly: text('vfs-options').split(',').includes('ro'),
    propagation: text('propagation'),
    fsRoot,
  };
}

/** Mounts at `path`, lowest first: the last one is what one sees there. */
export async function mountsAt(exec: Exec, path: string): Promise<MountEntry[]> {
  const target = await canonical(path);
  if (target === undefined) return [];
  return (await listMounts(exec)).filter((entry) => entry.target === target);
}

/** Mounts of `device`, bind mounts of its filesystem included. */
export async function mountsOf(exec: Exec, device: string): Promise<MountEntry[]> {
  const source = (await canonical(device)) ?? device;
  return (await listMounts(exec)).filter((entry) => entry.source === source);
}

/** Whatever keeps `device` in use: mounts of its filesystem, and bind mounts of its node (a raw block volume in a pod). */
export async function mountsUsing(exec: Exec, device: string): Promise<MountEntry[]> {
  const isNode = ({ fsType, fsRoot }: MountEntry) => /^(dev)?tmpfs$/.test(fsType) && `/dev${fsRoot}` === device;
  return (await listMounts(exec)).filter((entry) => entry.source === device || isNode(entry));
}

/** The path without symbolic links, also when what is mounted there is dead; undefined when there is no such path. */
async function canonical(path: string): Promise<string | undefined> {
  try {
    return await realpath(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return undefined;
    return join(await realpath(dirname(path)), basename(path));
  }
}
