// The superblock of one replica on disk: two slot files, each rewritten in place.
//
// Owner: the Replica (one writer; calls of update() must not overlap). Invariants: an update is written and synced to one
// slot, then to the other, before it resolves. So a crash spoils at most the slot being written while the other holds the
// former or the new contents, and when nothing is being written both hold the newest: a slot that rots later costs nothing
// (with one slot a step behind, a rotten promise would let a deposed engine back in). One that can't be read is made anew as
// another file by the next update: its sectors can't be written in part. May fail: full or failing disk.

import { assert, corrupt, HoldfastError, unknownVersion } from '../base/index.js';
import {
  decodeSuperblock,
  encodeSuperblock,
  FORMATS_READ,
  SUPERBLOCK_SIZE_MAX,
  type Superblock,
  type SuperblockFault,
  superblockVersion,
} from '../format/index.js';
import { type Disk, synced } from './disk.js';
import { isUnreadable } from './disk-error.js';

const slotNames = ['superblock.0', 'superblock.1'] as const;

export function superblockPath(directory: string, slot: number): string {
  return `${directory}/${slotNames[slot]!}`;
}

interface Slot {
  readonly superblock: Superblock | null;
  readonly generation: number;
  readonly fault: SuperblockFault | 'missing' | 'unreadable' | null;
  /** Of the format; 0 for a slot that is none. */
  readonly version: number;
}

export class SuperblockStore {
  readonly #disk: Disk;
  readonly #directory: string;
  #current: Superblock;
  #generation: number;
  /** The slot to write first: one that is bad or behind, else the first. */
  #firstSlot: number;
  #updating = false;
  readonly #unreadable: boolean[];

  private constructor(
    disk: Disk,
    directory: string,
    current: Superblock,
    generation: number,
    firstSlot: number,
    unreadable: boolean[],
  ) {
    this.#disk = disk;
    this.#directory = directory;
    this.#current = current;
    this.#generation = generation;
    this.#firstSlot = firstSlot;
    this.#unreadable = unreadable;
  }

  /** Writes the first superblock into a directory that has none. Durable but for the directory's own entry in its parent. */
  static async create(disk: Disk, directory: string, superblock: Superblock): Promise<SuperblockStore> {
    const store = new SuperblockStore(disk, directory, superblock, 0, 0, []);
    await store.update(superblock);
    return store;
  }

  /**
   * Reads both slots and takes the valid one of the higher generation. NOT_FOUND/ReplicaLost when neither file is there,
   * DATA_LOSS/Corrupt naming both when neither is valid, FAILED_PRECONDITION/UnknownVersion when another release wrote one.
   */
  static open(disk: Disk, directory: string): SuperblockStore {
    const slots = [readSlot(disk, directory, 0), readSlot(disk, directory, 1)] as const;
    const [first, second] = slots;
    if (first.fault === 'missing' && second.fault === 'missing') {
      throw new HoldfastError('NOT_FOUND', `${directory} holds no superblock: the replica that was there is lost`, {
        reason: 'ReplicaLost',
      });
    }
    for (const [i, { fault, version }] of slots.entries()) {
      // Not even if the other slot is good: what it says may have been overtaken, its promise above all.
      const path = superblockPath(directory, i);
      if (fault === 'version') throw unknownVersion(`the disk format of ${path}`, version, FORMATS_READ);
      if (fault === 'content') throw corrupt(`${path} is whole, but it is no superblock that this program knows`);
    }
    const newest = first.generation >= second.generation ? first : second;
    if (newest.superblock === null) {
      throw new HoldfastError(
        'DATA_LOSS',
        `both superblocks are bad: ${superblockPath(directory, 0)} (${first.fault}), ${superblockPath(directory, 1)} (${second.fault})`,
        { reason: 'Corrupt' },
      );
    }
    const unreadable = slots.map(({ fault }) => fault === 'unreadable');
    const firstSlot = newest === first ? 1 : 0;
    return new SuperblockStore(disk, directory, newest.superblock, newest.generation, firstSlot, unreadable);
  }

  get current(): Superblock {
    return this.#current;
  }

  /** Durable when it resolves. When it rejects, either contents may be found later. */
  async update(next: Superblock): Promise<void> {
    assert(!this.#updating, `two updates at once of the superblock in ${this.#directory}`);
    const generation = this.#generation + 1;
    const bytes = encodeSuperblock(next, generation);
    this.#updating = true;
    try {
      await this.#writeSlot(this.#firstSlot, bytes);
      this.#current = next;
      this.#generation = generation;
      // If the other can't be written it is bad or behind: it stays the next to be written, never the good one.
      this.#firstSlot = 1 - this.#firstSlot;
      await this.#writeSlot(this.#firstSlot, bytes);
      this.#firstSlot = 0;
    } finally {
      this.#updating = false;
    }
  }

  async #writeSlot(slot: number, bytes: Buffer): Promise<void> {
    const path = superblockPath(this.#directory, slot);
    if (this.#unreadable[slot] === true) await this.#disk.unlink(path);
    this.#unreadable[slot] = false;
    const created = this.#disk.stat(path) === undefined;
    const file = this.#disk.openFile(path, created ? 'create' : 'write');
    try {
      file.write([bytes], 0);
      await synced(file);
    } finally {
      file.close();
    }
    if (created) await this.#disk.syncDirectory(this.#directory);
  }
}

function readSlot(disk: Disk, directory: string, slot: number): Slot {
  const path = superblockPath(directory, slot);
  if (disk.stat(path) === undefined) return { superblock: null, generation: -1, fault: 'missing', version: 0 };
  const file = disk.openFile(path, 'read');
  try {
    const bytes = Buffer.alloc(Math.min(file.size(), SUPERBLOCK_SIZE_MAX));
    const decoded = decodeSuperblock(bytes.subarray(0, file.read(bytes, 0)));
    const version = bytes.length < 6 ? 0 : superblockVersion(bytes);
    if (typeof decoded === 'string') return { superblock: null, generation: -1, fault: decoded, version };
    return { ...decoded, fault: null, version };
  } catch (error) {
    if (!isUnreadable(error)) throw error;
    return { superblock: null, generation: -1, fault: 'unreadable', version: 0 };
  } finally {
    file.close();
  }
}
