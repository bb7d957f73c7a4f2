// A volume as its user sees it: named things that are written and read back. The same story is told over a mounted filesystem
// and over a bare block device, where a small table of contents stands in for the filesystem.

import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, mkdir, open, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { alignUp, BLOCK_SIZE, HoldfastError, MiB } from '../../base/index.js';
import type { NbdClient } from '../../nbd/index.js';
import { alignedBuffer, type Exec } from '../../platform/index.js';
import type { DemoVolume } from './sidecars.js';

export interface VolumeView {
  readonly volume: DemoVolume;
  readonly node: string;
  /** Where it is mounted; undefined for a bare device. */
  readonly directory: string | undefined;
  /** Writes the whole of `name` anew; durable: and does not answer before it is on stable storage. */
  put(name: string, data: Buffer, options?: { readonly durable?: boolean }): Promise<void>;
  /** SHA-256 of what the volume holds under `name`, read from its device and not from a cache. */
  hash(name: string): Promise<string>;
  flush(): Promise<void>;
  /** Bytes that its user can fill, without those of the filesystem itself. */
  capacityBytes(): Promise<number>;
  /** Lets go of what this process holds open. */
  close(): Promise<void>;
}

const readBytes = MiB;
const syncTimeoutMs = 120_000;

/** Aligned memory that is used again: O_DIRECT accepts no other. */
class Buffers {
  readonly #free: Buffer[] = [];

  async use<T>(work: (buffer: Buffer) => Promise<T>): Promise<T> {
    const buffer = this.#free.pop() ?? alignedBuffer(readBytes);
    try {
      return await work(buffer);
    } finally {
      this.#free.push(buffer);
    }
  }
}

const buffers = new Buffers();

export class MountedView implements VolumeView {
  readonly volume: DemoVolume;
  readonly node: string;
  readonly directory: string;
  readonly #exec: Exec;

  constructor(volume: DemoVolume, node: string, directory: string, exec: Exec) {
    this.volume = volume;
    this.node = node;
    this.directory = directory;
    this.#exec = exec;
  }

  async put(name: string, data: Buffer, options: { readonly durable?: boolean } = {}): Promise<void> {
    const path = join(this.directory, name);
    await mkdir(dirname(path), { recursive: true });
    const file = await open(path, 'w');
    try {
      await file.writeFile(data);
      if (options.durable) await file.sync();
    } finally {
      await file.close();
    }
  }

  async hash(name: string): Promise<string> {
    const file = await open(join(this.directory, name), constants.O_RDONLY | constants.O_DIRECT);
    try {
      const { size } = await file.stat();
      return await hashOf(
        size,
        async (buffer, offset) => (await file.read(buffer, 0, buffer.length, offset)).bytesRead,
      );
    } finally {
      await file.close();
    }
  }

  async flush(): Promise<void> {
    await this.#exec.run('sync', ['-f', this.directory], { timeoutMs: syncTimeoutMs });
  }

  async capacityBytes(): Promise<number> {
    const { blocks, bsize } = await statfs(this.directory);
    return blocks * bsize;
  }

  async close(): Promise<void> {}
}

async function hashOf(size: number, read: (buffer: Buffer, offset: number) => Promise<number>): Promise<string> {
  const hash = createHash('sha256');
  await buffers.use(async (buffer) => {
    for (let offset = 0; offset < size; ) {
      const count = Math.min(await read(buffer, offset), size - offset);
      if (count <= 0) throw new HoldfastError('DATA_LOSS', `a file of ${size} bytes ends after ${offset}`);
      hash.update(buffer.subarray(0, count));
      offset += count;
    }
  });
  return hash.digest('hex');
}

/** A block device without a filesystem, however it is reached. Offsets and lengths are whole blocks. */
export interface BlockIo {
  read(offset: number, target: Buffer): Promise<void>;
  write(offset: number, data: Buffer): Promise<void>;
  flush(): Promise<void>;
  sizeBytes(): Promise<number>;
  close(): Promise<void>;
}

/** Where on a bare device the demo put what. */
export class Contents {
  readonly #places = new Map<string, { readonly offset: number; readonly size: number }>();
  #end = 0;

  get(name: string): { readonly offset: number; readonly size: number } {
    const place = this.#places.get(name);
    if (!place) throw new HoldfastError('NOT_FOUND', `nothing was written under the name ${name}`);
    return place;
  }

  /** The place it has when that is large enough, else a new one at the end. */
  place(name: string, size: number): number {
    const present = this.#places.get(name);
    const fits = present !== undefined && alignUp(present.size, BLOCK_SIZE) >= size;
    const offset = fits ? present.offset : this.#end;
    if (!fits) this.#end += alignUp(size, BLOCK_SIZE);
    this.#places.set(name, { offset, size });
    return offset;
  }

  copy(): Contents {
    const copy = new Contents();
    for (const [name, place] of this.#places) copy.#places.set(name, place);
    copy.#end = this.#end;
    return copy;
  }
}

export class DeviceView implements VolumeView {
  readonly volume: DemoVolume;
  readonly node: string;
  readonly directory = undefined;
  readonly #io: BlockIo;
  readonly #contents: Contents;

  constructor(volume: DemoVolume, node: string, io: BlockIo, contents: Contents) {
    this.volume = volume;
    this.node = node;
    this.#io = io;
    this.#contents = contents;
  }

  async put(name: string, data: Buffer, options: { readonly durable?: boolean } = {}): Promise<void> {
    const whole = Buffer.alloc(alignUp(data.length, BLOCK_SIZE));
    data.copy(whole);
    if (whole.length > 0) await this.#io.write(this.#contents.place(name, data.length), whole);
    else this.#contents.place(name, 0);
    if (options.durable) await this.#io.flush();
  }

  hash(name: string): Promise<string> {
    const { offset, size } = this.#contents.get(name);
    return hashOf(size, async (buffer, from) => {
      const target = buffer.subarray(0, Math.min(buffer.length, alignUp(size - from, BLOCK_SIZE)));
      await this.#io.read(offset + from, target);
      return target.length;
    });
  }

  flush(): Promise<void> {
    return this.#io.flush();
  }

  capacityBytes(): Promise<number> {
    return this.#io.sizeBytes();
  }

  close(): Promise<void> {
    return this.#io.close();
  }
}

export function nbdIo(client: NbdClient): BlockIo {
  return {
    read: (offset, target) => client.readInto(offset, target),
    write: (offset, data) => client.write(offset, data),
    flush: () => client.flush(),
    sizeBytes: () => client.refreshSize(),
    close: () => client.close(),
  };
}

/** A raw block volume as a pod gets it: a device node at a path. */
export async function deviceIo(path: string, sizeBytes: number): Promise<BlockIo> {
  const file: FileHandle = await open(path, 'r+');
  return {
    async read(offset, target) {
      await file.read(target, 0, target.length, offset);
    },
    async write(offset, data) {
      await file.write(data, 0, data.length, offset);
    },
    flush: () => file.sync(),
    sizeBytes: async () => sizeBytes,
    close: () => file.close(),
  };
}
