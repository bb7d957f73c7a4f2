// The disk of one node: a small filesystem in a loop file, which can be full, fail, and lose what was not synced.

import { closeSync, mkdirSync, openSync, rmSync, statfsSync, truncateSync } from 'node:fs';
import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { run } from '../lib/system-needs.js';

export type PoolFsType = 'ext4' | 'xfs';

const mkfs: Readonly<Record<PoolFsType, readonly string[]>> = {
  ext4: ['-q', '-m', '0', '-E', 'lazy_itable_init=0,lazy_journal_init=0'],
  xfs: ['-q', '-f'],
};

export class LoopPool {
  readonly fsType: PoolFsType;
  readonly mountPoint: string;
  readonly #image: string;
  readonly #ballast: string;
  /** The disk's own device. */
  device = '';
  #mounted = false;

  /** `image` is made, `mountPoint` too. */
  constructor(image: string, mountPoint: string, fsType: PoolFsType, sizeBytes: number) {
    this.#image = image;
    this.mountPoint = mountPoint;
    this.fsType = fsType;
    this.#ballast = join(mountPoint, 'somebody-elses-file');
    closeSync(openSync(image, 'w'));
    truncateSync(image, sizeBytes);
    mkdirSync(mountPoint, { recursive: true });
    try {
      this.device = run('losetup', '--find', '--show', image).trim();
      run(`mkfs.${fsType}`, ...mkfs[fsType], this.device);
      this.#mount();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #mount(): void {
    run('mount', '-t', this.fsType, this.device, this.mountPoint);
    this.#mounted = true;
  }

  /** Takes all room but so many bytes, to the next lower MiB: in one call, so that it is full from one moment to the next. */
  fill(leaveBytes: number): void {
    const { bavail, bsize } = statfsSync(this.mountPoint);
    const bytes = Math.floor((bavail * bsize - leaveBytes) / MiB) * MiB;
    if (bytes > 0) run('fallocate', '-l', String(bytes), this.#ballast);
  }

  empty(): void {
    rmSync(this.#ballast, { force: true });
  }

  /** From now on every access ends with an I/O error, and what was not synced is lost, as if the disk's power were cut. */
  cutPower(): void {
    run('xfs_io', '-x', '-c', 'shutdown', this.mountPoint);
  }

  /** Mounts again what cutPower() left; nothing may have it open. */
  restore(): void {
    run('umount', this.mountPoint);
    this.#mounted = false;
    this.#mount();
  }

  close(): void {
    const tries: [string, string[]][] = [];
    if (this.#mounted) tries.push(['umount', [this.mountPoint]]);
    if (this.device !== '') tries.push(['losetup', ['--detach', this.device]]);
    for (const [program, args] of tries) {
      try {
        run(program, ...args);
      } catch (error) {
        process.stderr.write(`${(error as Error).message}\n`);
      }
    }
    rmSync(this.#image, { force: true });
  }
}
