// The disk port over node:fs.

import {
  accessSync,
  close as closeCallback,
  closeSync,
  constants,
  fdatasync,
  fstatSync,
  fsync,
  ftruncate,
  ftruncateSync,
  linkSync,
  mkdirSync,
  open as openCallback,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmdirSync,
  statfsSync,
  statSync,
  unlink as unlinkCallback,
  writeSync,
  writevSync,
} from 'node:fs';
import { getSystemErrorName } from 'node:util';
import { errnoOf, messageOf } from '../base/index.js';
import { nativeBinding } from '../hotpath/index.js';
import type { Disk, DiskFile, DiskLock, DiskSpace, FileStat, OpenMode } from './disk.js';
import { diskError } from './disk-error.js';
import type { FileReads, RowsEnded } from './file-reads.js';
import { LoneSyncs, type SyncableFile } from './lone-syncs.js';
import { mountInstance } from './mount-instance.js';
import { NodeReads, type ReadableFile, readOneByOne } from './node-reads.js';
import { lockPoolFile } from './pool-lock.js';

/** Below IOV_MAX (1024). */
const VECTOR_MAX = 512;

const openFlags: Readonly<Record<OpenMode, number>> = {
  read: constants.O_RDONLY,
  write: constants.O_RDWR,
  create: constants.O_RDWR | constants.O_CREAT | constants.O_EXCL,
};

const native = nativeBinding();
/** This thread's; null without the native crate. */
const ofThisThread = native === null ? null : new LoneSyncs((action) => void setImmediate(action));
let nodeReads: NodeReads | null | undefined;

/** This thread's reader of many ranges; null where there is none to be had, which is found out once. */
function ownReads(): NodeReads | null {
  if (nodeReads !== undefined) return nodeReads;
  nodeReads = null;
  try {
    if (native !== null) nodeReads = new NodeReads(native);
  } catch (error) {
    process.emitWarning(`files are read one range after the other: ${messageOf(error)}`);
  }
  return nodeReads;
}

class NodeFile implements ReadableFile, SyncableFile {
  readonly path: string;
  readonly #fd: number;
  readonly #loneSyncs: LoneSyncs | null;
  #closed = false;
  /** Reads under way. */
  #holds = 0;

  constructor(path: string, fd: number, loneSyncs: LoneSyncs | null) {
    this.path = path;
    this.#fd = fd;
    this.#loneSyncs = loneSyncs;
  }

  get descriptor(): number {
    return this.#fd;
  }
  hold(): void {
    this.#holds++;
  }
  release(): void {
    if (--this.#holds === 0 && this.#closed) closeSync(this.#fd);
  }

  write(buffers: readonly Uint8Array[], position: number): void {
    try {
      if (buffers.length === 1) this.#writeOne(buffers[0]!, 0, position);
      else this.#writeMany(buffers, position);
      if (this.#loneSyncs !== null) {
        let bytes = 0;
        for (let i = 0; i < buffers.length; i++) bytes += buffers[i]!.length;
        this.#loneSyncs.wrote(this, bytes);
      }
    } catch (error) {
      throw diskError(error, 'write', this.path);
    }
  }

  #writeOne(buffer: Uint8Array, from: number, position: number): void {
    let done = from;
    while (done < buffer.length)
      done += writeSync(this.#fd, buffer, done, buffer.length - done, position + done - from);
  }

  #writeMany(buffers: readonly Uint8Array[], position: number): void {
    let at = position;
    for (let first = 0; first < buffers.length; first += VECTOR_MAX) {
      const part = buffers.length <= VECTOR_MAX ? buffers : buffers.slice(first, first + VECTOR_MAX);
      let written = writevSync(this.#fd, part, at);
      for (const buffer of part) {
        // After a short vectored write the rest goes buffer by buffer.
        if (written < buffer.length) {
          this.#writeOne(buffer, written, at + written);
          written = 0;
        } else written -= buffer.length;
        at += buffer.length;
      }
    }
  }

  startWriteBack(from: number, length: number): void {
    native?.startWriteBack(this.#fd, from, length);
  }

  dropCached(): void {
    native?.dropCached(this.#fd);
  }

  read(into: Uint8Array, position: number): number {
    let done = 0;
    try {
      while (done < into.length) {
        const count = readSync(this.#fd, into, done, into.length - done, position + done);
        if (count === 0) break;
        done += count;
      }
    } catch (error) {
      throw diskError(error, 'read', this.path);
    }
    return done;
  }

  truncate(length: number): void {
    try {
      ftruncateSync(this.#fd, length);
    } catch (error) {
      throw diskError(error, 'truncate', this.path);
    }
  }

  truncateLater(length: number, done: (error: Error | null) => void): void {
    ftruncate(this.#fd, length, (error) => done(error ? diskError(error, 'truncate', this.path) : null));
  }

  datasync(done: (error: Error | null) => void, lone = false): void {
    if (this.#loneSyncs === null) this.syncInPool(done);
    else this.#loneSyncs.sync(this, done, lone);
  }
  syncInPool(done: (error: Error | null) => void): void {
    fdatasync(this.#fd, (error) => done(error ? diskError(error, 'fdatasync', this.path) : null));
  }
  syncInPlace(): number {
    return native!.syncInPlace(this.#fd);
  }
  syncError(negative: number): Error {
    const cause = Object.assign(new Error('data sync failed'), { code: getSystemErrorName(negative) });
    return diskError(cause, 'fdatasync', this.path);
  }

  size(): number {
    try {
      return fstatSync(this.#fd).size;
    } catch (error) {
      throw diskError(error, 'stat', this.path);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#holds === 0) closeSync(this.#fd);
  }
}

export class NodeDisk implements Disk {
  readonly #loneSyncs: LoneSyncs | null;

  /** `syncsInPlace` false: every sync goes to the pool. For a thread of several disks, which is not to hang with one of them. */
  constructor(syncsInPlace = true) {
    this.#loneSyncs = syncsInPlace ? ofThisThread : null;
  }

  openFile(path: string, mode: OpenMode): DiskFile {
    return attempt('open', path, () => new NodeFile(path, openSync(path, openFlags[mode], 0o600), this.#loneSyncs));
  }
  readAll(reads: FileReads, ended: RowsEnded): void {
    this.#loneSyncs?.read();
    const reader = ownReads();
    if (reader === null) readOneByOne(reads, ended);
    else reader.read(reads, ended);
  }
  rename(from: string, to: string): void {
    attempt('rename', `${from} to ${to}`, () => renameSync(from, to));
  }
  link(existing: string, path: string): boolean {
    try {
      linkSync(existing, path);
      return true;
    } catch (error) {
      if (errnoOf(error) === 'EMLINK') return false;
      throw diskError(error, 'link', `${existing} as ${path}`);
    }
  }
  unlink(path: string): Promise<boolean> {
    return new Promise((resolve, reject) => {
      unlinkCallback(path, (error) => {
        if (!error) resolve(true);
        else if (error.code === 'ENOENT') resolve(false);
        else reject(diskError(error, 'delete', path));
      });
    });
  }
  mkdir(path: string): void {
    attempt('create directory', path, () => mkdirSync(path, 0o700));
  }
  rmdir(path: string): void {
    attempt('remove directory', path, () => rmdirSync(path));
  }
  list(path: string): string[] {
    return attempt('list', path, () => readdirSync(path).sort());
  }
  stat(path: string): FileStat | undefined {
    const stat = attempt('stat', path, () => statSync(path, { throwIfNoEntry: false }));
    if (!stat) return undefined;
    return {
      inode: stat.ino,
      links: stat.nlink,
      storedBytes: stat.blocks * 512,
      sizeBytes: stat.size,
      directory: stat.isDirectory(),
    };
  }
  syncDirectory(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      openCallback(path, constants.O_RDONLY | constants.O_DIRECTORY, (openError, fd) => {
        if (openError) return reject(diskError(openError, 'open', path));
        fsync(fd, (syncError) => {
          closeCallback(fd, () => (syncError ? reject(diskError(syncError, 'fsync', path)) : resolve()));
        });
      });
    });
  }
  space(path: string): DiskSpace {
    return attempt('statfs', path, () => {
      const stat = statfsSync(path);
      return { capacityBytes: stat.blocks * stat.bsize, freeBytes: stat.bavail * stat.bsize };
    });
  }
  checkWritable(path: string): void {
    attempt('write into', path, () => accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK));
  }
  bootId(): string {
    return attempt('read', bootIdFile, () => readFileSync(bootIdFile, 'utf8').trim());
  }
  mountId(path: string): string {
    return attempt('find the mount of', path, () => mountInstance(path));
  }
  lock(path: string): Promise<DiskLock> {
    return lockPoolFile(path);
  }
}

const bootIdFile = '/proc/sys/kernel/random/boot_id';

function attempt<T>(what: string, path: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    throw diskError(error, what, path);
  }
}
