// The port to a pool's filesystem. Writes are synchronous because they go to the page cache, which is memory, and so are the
// reads of recoveries and repairs; whatever waits for the device (reads on behalf of clients, data sync, directory sync, unlink
// of large files) is asynchronous. Every failure is a HoldfastError (disk-error.ts): a full disk is RESOURCE_EXHAUSTED/NoSpace,
// a failing or read-only one UNAVAILABLE/DiskFailed, a place that can't be read DATA_LOSS/Corrupt.

import type { FileReads, RowsEnded } from './file-reads.js';

/** read: must exist. write: must exist, read and write. create: must not exist, read and write. */
export type OpenMode = 'read' | 'write' | 'create';

export interface DiskFile {
  readonly path: string;
  /** Writes all bytes of all buffers, one after the other, from `position` on. After an error any part of them may be there. */
  write(buffers: readonly Uint8Array[], position: number): void;
  /** Has bytes that were written brought to the disk soon, without waiting and without any promise. May do nothing. */
  startWriteBack(from: number, length: number): void;
  /** Nothing of the file is expected to be read soon: memory that only keeps synced bytes of it may be used for others. May do nothing. */
  dropCached(): void;
  /** Fills `into` from `position` on as far as the file goes; returns the bytes read. Waits for the disk. */
  read(into: Uint8Array, position: number): number;
  /** Only for bytes that are no part of a log (see SegmentLog). */
  truncate(length: number): void;
  /** The same off this thread, at some time before `done`: for files that nothing is written to any more. */
  truncateLater(length: number, done: (error: Error | null) => void): void;
  /**
   * Everything written before the call is on stable storage when `done(null)` comes. After an error nothing more may be expected of the
   * file. `lone`: nobody has anything to do for the file's log until then; the disk may be waited for in place (lone-syncs.ts).
   */
  datasync(done: (error: Error | null) => void, lone?: boolean): void;
  /** Bytes. */
  size(): number;
  /** Must not be called while a datasync or truncateLater is under way. */
  close(): void;
}

export interface FileStat {
  readonly inode: number;
  readonly links: number;
  /** Bytes allocated on disk. */
  readonly storedBytes: number;
  readonly sizeBytes: number;
  readonly directory: boolean;
}

export interface DiskLock {
  release(): void;
}

export interface DiskSpace {
  readonly capacityBytes: number;
  /** What an unprivileged writer may still use. */
  readonly freeBytes: number;
}

export interface Disk {
  openFile(path: string, mode: OpenMode): DiskFile;
  /**
   * Begins all reads at once, of files of this disk, and tells `ended` of each of them once. What is in the page cache is there
   * before it returns, and never waits for what is not; a read that is alone may be waited for while the disk is quick (decision 027).
   * A file that ends too soon is DATA_LOSS. `reads` is cleared before anything is told. From then on files may be closed or deleted;
   * memory to read into belongs to the disk until its row has ended.
   */
  readAll(reads: FileReads, ended: RowsEnded): void;
  /** Replaces `to` atomically. Durable after syncDirectory() of both parents. */
  rename(from: string, to: string): void;
  /** A second name for a file; false when the file can't have more names (EMLINK). */
  link(existing: string, path: string): boolean;
  /** False when there was none. */
  unlink(path: string): Promise<boolean>;
  /** The parent must exist, the directory must not. */
  mkdir(path: string): void;
  /** The directory must be empty. */
  rmdir(path: string): void;
  /** Names in a directory, sorted. */
  list(path: string): string[];
  /** Undefined when there is nothing at `path`; any other trouble throws. */
  stat(path: string): FileStat | undefined;
  syncDirectory(path: string): Promise<void>;
  space(path: string): DiskSpace;
  /** Throws PERMISSION_DENIED or UNAVAILABLE when entries can't be made in the directory. */
  checkWritable(path: string): void;
  /** Differs after each boot of the machine. */
  bootId(): string;
  /** Differs when the filesystem of `path` was mounted anew. */
  mountId(path: string): string;
  /** An exclusive lock that dies with the process; creates the file. Throws FAILED_PRECONDITION/PoolInUse when another holds it. */
  lock(path: string): Promise<DiskLock>;
}

/** datasync() as a promise, for what is not done often. */
export function synced(file: DiskFile): Promise<void> {
  return new Promise((resolve, reject) => {
    file.datasync((error) => (error === null ? resolve() : reject(error)));
  });
}
