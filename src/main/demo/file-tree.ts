// A real file tree: the packages that this installation runs on. Copied into a volume with a checksum of each file taken on
// the way, and compared from then on.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { HoldfastError, MiB } from '../../base/index.js';
import type { VolumeView } from './view.js';

export interface TreeFile {
  readonly name: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface FileTree {
  readonly files: readonly TreeFile[];
  readonly bytes: number;
  /** Over all names and checksums, shortened for people. */
  readonly fingerprint: string;
}

export type Progress = (done: number, total: number) => void;

export const treeBytesMax = 96 * MiB;
const filesMax = 2_500;
const fileBytesMax = 12 * MiB;
const atOnce = 8;

/** The nearest node_modules above this file. */
function packagesDirectory(): string {
  for (let at = dirname(fileURLToPath(import.meta.url)); ; at = dirname(at)) {
    const candidate = join(at, 'node_modules');
    if (existsSync(candidate)) return candidate;
    if (dirname(at) === at) throw new HoldfastError('NOT_FOUND', 'there is no node_modules to copy: run npm ci');
  }
}

interface Chosen {
  readonly root: string;
  readonly paths: readonly string[];
}

/** Files in the order of their names, until `bytesMax` or the bound on files is reached. */
async function chooseFiles(bytesMax: number): Promise<Chosen> {
  const root = packagesDirectory();
  const entries = await readdir(root, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const chosen: string[] = [];
  let bytes = 0;
  for (const path of paths.sort()) {
    const { size } = await stat(path);
    if (size > fileBytesMax || bytes + size > bytesMax) continue;
    bytes += size;
    chosen.push(path);
    if (chosen.length === filesMax) break;
  }
  return { root, paths: chosen };
}

async function eachOf<T>(items: readonly T[], signal: AbortSignal, work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const workers = Array.from({ length: atOnce }, async () => {
    for (const item of queue) {
      signal.throwIfAborted();
      await work(item);
    }
  });
  // All of them, also when one fails: none may go on behind the caller's back.
  const failed = (await Promise.allSettled(workers)).find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}

export function sha256(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Copies a tree of at most `bytesMax` bytes into the volume, flushed. */
export async function writeTree(
  view: VolumeView,
  bytesMax: number,
  signal: AbortSignal,
  progress: Progress,
): Promise<FileTree> {
  const { root, paths } = await chooseFiles(bytesMax);
  const files: TreeFile[] = [];
  await eachOf(paths, signal, async (path) => {
    const data = await readFile(path);
    const name = join('tree', relative(root, path));
    await view.put(name, data);
    files.push({ name, bytes: data.length, sha256: sha256(data) });
    progress(files.length, paths.length);
  });
  await view.flush();
  files.sort((a, b) => (a.name < b.name ? -1 : 1));
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  return { files, bytes, fingerprint: fingerprintOf(files.map((file) => `${file.name} ${file.sha256}`)) };
}

function fingerprintOf(lines: readonly string[]): string {
  return sha256(Buffer.from(lines.join('\n'))).slice(0, 16);
}

/** Reads every file from the volume's device. Resolves to the fingerprint of what is there. */
export async function readTree(
  view: VolumeView,
  tree: FileTree,
  signal: AbortSignal,
  progress: Progress,
): Promise<string> {
  const found = new Map<string, string>();
  await eachOf(tree.files, signal, async ({ name }) => {
    found.set(name, await view.hash(name));
    progress(found.size, tree.files.length);
  });
  return fingerprintOf(tree.files.map(({ name }) => `${name} ${found.get(name)}`));
}
