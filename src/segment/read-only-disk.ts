// A disk on which nothing can be changed: files are opened for reading only, whatever was asked for, and every other change is
// refused before it is tried. For looking at pools that are evidence (rescue): what they hold must be the same afterwards.

import { precondition } from '../base/index.js';
import type { Disk, DiskFile, DiskLock, DiskSpace, FileStat, OpenMode } from './disk.js';
import type { FileReads, RowsEnded } from './file-reads.js';

export class ReadOnlyDisk implements Disk {
  readonly #disk: Disk;

  constructor(disk: Disk) {
    this.#disk = disk;
  }

  openFile(path: string, mode: OpenMode): DiskFile {
    if (mode !== 'read') throw refused('opened for writing', path);
    return this.#disk.openFile(path, 'read');
  }
  readAll(reads: FileReads, ended: RowsEnded): void {
    this.#disk.readAll(reads, ended);
  }
  list(path: string): string[] {
    return this.#disk.list(path);
  }
  stat(path: string): FileStat | undefined {
    return this.#disk.stat(path);
  }
  space(path: string): DiskSpace {
    return this.#disk.space(path);
  }
  bootId(): string {
    return this.#disk.bootId();
  }
  mountId(path: string): string {
    return this.#disk.mountId(path);
  }
  rename(from: string): void {
    throw refused('renamed', from);
  }
  link(existing: string): boolean {
    throw refused('linked', existing);
  }
  unlink(path: string): Promise<boolean> {
    return Promise.reject(refused('deleted', path));
  }
  mkdir(path: string): void {
    throw refused('made', path);
  }
  rmdir(path: string): void {
    throw refused('removed', path);
  }
  syncDirectory(path: string): Promise<void> {
    return Promise.reject(refused('synced', path));
  }
  checkWritable(path: string): void {
    throw refused('written to', path);
  }
  lock(path: string): Promise<DiskLock> {
    return Promise.reject(refused('locked', path));
  }
}

function refused(what: string, path: string): Error {
  return precondition(`${path} is only read here and can't be ${what}`, 'PoolNotWritable');
}
