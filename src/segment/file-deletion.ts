// Unlinks files of one directory one at a time: each takes the filesystem some milliseconds, which are the foreground's.
//
// Owner: SegmentLog. Invariant: files go in the order of the calls.

import type { Disk } from './disk.js';

export class FileDeletion {
  readonly #disk: Disk;
  readonly #directory: string;
  #last: Promise<void> = Promise.resolve();
  /** Somebody waits for the end. */
  #hurry = 0;

  constructor(disk: Disk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  /** The files are gone and the directory is synced when it resolves; `pause` is taken in between. */
  delete(paths: readonly string[], pause: () => Promise<void>): Promise<void> {
    const done = this.#last.then(() => this.#unlink(paths, pause));
    this.#last = done.catch(() => undefined);
    return done;
  }

  async #unlink(paths: readonly string[], pause: () => Promise<void>): Promise<void> {
    for (const [i, path] of paths.entries()) {
      if (i > 0 && this.#hurry === 0) await pause();
      await this.#disk.unlink(path);
    }
    if (paths.length > 0) await this.#disk.syncDirectory(this.#directory);
  }

  /** Resolves when nothing is left to delete, without further pauses. */
  async finished(): Promise<void> {
    this.#hurry++;
    await this.#last;
    this.#hurry--;
  }
}
