// A disk in memory that remembers every change and every sync, so that a test can ask what would be on it after the power
// failed, or the process died, at any point of its history.
//
// Model of a power cut after n changes: of each file, what was written before its last completed datasync is there; later
// writes are there, partly there (by sectors of 512 bytes or cut at a byte) or not, as the test's choice says. Of each
// directory, changes before its last completed sync are there; later ones survive or not, again by choice. A kill keeps
// everything, but may cut the change under way when it is a write.
//
// Blocks may have gone bad: they can't be read, nor written in part, until they are written whole.

import { createHash } from 'node:crypto';
import { basename } from 'node:path';
import { HoldfastError } from '../../src/base/index.js';
import {
  type Disk,
  type DiskFile,
  type DiskLock,
  type DiskSpace,
  diskError,
  FileReads,
  type FileStat,
  type OpenMode,
  type RowsEnded,
  readOneByOne,
} from '../../src/segment/index.js';

const BLOCK = 4096;

interface Inode {
  readonly id: number;
  /** Null for a file. */
  entries: Map<string, number> | null;
  data: Buffer;
  size: number;
  /** Numbers of the blocks that went bad. */
  readonly bad: Set<number>;
  /** Another state of the disk refers to the same data: copied before it is changed. */
  shared: boolean;
}

export type Change =
  | {
      readonly op: 'create';
      readonly directory: number;
      readonly name: string;
      readonly inode: number;
      readonly isDirectory: boolean;
    }
  | { readonly op: 'link'; readonly directory: number; readonly name: string; readonly inode: number }
  | { readonly op: 'unlink'; readonly directory: number; readonly name: string; readonly inode: number }
  | {
      readonly op: 'rename';
      readonly from: number;
      readonly fromName: string;
      readonly to: number;
      readonly toName: string;
      readonly inode: number;
    }
  | { readonly op: 'write'; readonly inode: number; readonly position: number; readonly bytes: Buffer }
  | { readonly op: 'truncate'; readonly inode: number; readonly length: number }
  /** One bit changed by itself, on the medium. */
  | { readonly op: 'rot'; readonly inode: number; readonly byte: number; readonly bit: number }
  /** A block went bad by itself. */
  | { readonly op: 'break'; readonly inode: number; readonly block: number }
  /** `through`: index of the first change that it does not cover. */
  | { readonly op: 'sync'; readonly inode: number; readonly through: number };

/** What becomes of one unsynced change: kept, dropped, or (of a write) only these stretches of it kept. */
export type Fate = boolean | readonly (readonly [from: number, to: number])[];
export type Choice = (change: Change, index: number) => Fate;

export const dropAll: Choice = () => false;
export const keepAll: Choice = () => true;

/** Keeps, drops or tears each unsynced change, by a seed. */
export function randomChoice(seed: number): Choice {
  const random = lcg(seed);
  return (change) => {
    if (change.op !== 'write') return random() < 0.5;
    const dice = random();
    if (dice < 0.3) return true;
    if (dice < 0.5) return false;
    if (dice < 0.65) return [[0, Math.floor(random() * change.bytes.length)]];
    const sectors: [number, number][] = [];
    // Sectors are the disk's, not the write's.
    let at = 0;
    while (at < change.bytes.length) {
      const end = Math.min(change.bytes.length, at + 512 - ((change.position + at) % 512));
      if (random() < 0.6) sectors.push([at, end]);
      at = end;
    }
    return sectors;
  };
}

/** Numbers in [0, 1), the same for the same seed. */
export function lcg(seed: number): () => number {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 0x1_0000_0000;
  };
}

export class RecordingDisk implements Disk {
  readonly journal: Change[] = [];
  #boot: number;
  #nextInode = 2;
  #inodes = new Map<number, Inode>();
  /** The state before the journal's first change. */
  readonly #base: Map<number, Inode>;
  readonly #locks = new Set<string>();
  /** Faults: the write, sync or space that fails next. Counted down at each call; at 0 it fails. */
  failWrite: { after: number; errno: string; keepBytes: number } | null = null;
  failSync: { after: number; errno: string } | null = null;
  failTruncate: string | null = null;
  /** The write to a file whose name ends so that goes `back` bytes too far towards the file's beginning. */
  misdirect: { after: number; name: string; back: number } | null = null;
  failRead: { path: string; errno: string } | null = null;
  /** All that is looked up below the path fails so. */
  failBelow: { path: string; errno: string } | null = null;
  /** Files may have this many names. */
  linkMax = 65_000;
  capacityBytes = Number.MAX_SAFE_INTEGER;
  /** Set to hold every sync back until releaseSyncs(). */
  holdSyncs = false;
  #held: (() => void)[] = [];
  syncs = 0;
  writeBacks = 0;
  /** Files whose page cache was given up. */
  readonly dropped: string[] = [];
  writes = 0;
  /** Files opened and not closed yet. */
  openFiles = 0;
  reads = 0;
  /** Told of every change and sync, right after it was noted in the journal. */
  onChange: (() => void) | null = null;
  /** Every row of readAll() takes as long as this promise. */
  readDelay: ((path: string) => Promise<void>) | null = null;
  /** Every sync takes as long as this promise. */
  syncDelay: (() => Promise<void>) | null = null;

  constructor(state?: { inodes: Map<number, Inode>; nextInode: number; boot: number }) {
    this.#boot = state?.boot ?? 1;
    this.#inodes =
      state?.inodes ??
      new Map([[1, { id: 1, entries: new Map(), data: Buffer.alloc(0), size: 0, bad: new Set(), shared: false }]]);
    this.#nextInode = state?.nextInode ?? 2;
    this.#base = copyInodes(this.#inodes);
  }

  // --- What a test may ask --------------------------------------------------------------------------------------------

  /** The disk after the power failed when `count` changes had been made. */
  afterPowerCut(count: number, choice: Choice): RecordingDisk {
    const durable = this.#durable(count);
    const inodes = copyInodes(this.#base);
    for (let i = 0; i < count; i++) {
      const change = this.journal[i]!;
      const fate = durable(change, i) || choice(change, i);
      if (fate !== false) applyChange(inodes, change, fate === true ? null : fate);
    }
    return new RecordingDisk({ inodes, nextInode: this.#nextInode, boot: this.#boot + 1 });
  }

  /** The disk after the process died when `count` changes had been made, and `tornBytes` of the next one if it is a write. */
  afterKill(count: number, tornBytes = 0): RecordingDisk {
    const inodes = copyInodes(this.#base);
    for (let i = 0; i < count; i++) applyChange(inodes, this.journal[i]!, null);
    const next = this.journal[count];
    if (next?.op === 'write' && tornBytes > 0) applyChange(inodes, next, [[0, Math.min(tornBytes, next.bytes.length)]]);
    return new RecordingDisk({ inodes, nextInode: this.#nextInode, boot: this.#boot });
  }

  /** The same for disks that hold the same files with the same contents. */
  fingerprint(): string {
    const hash = createHash('sha256');
    const visit = (inode: Inode, path: string) => {
      hash.update(`${path} ${inode.id} ${inode.size}\n`);
      if (inode.entries === null) hash.update(inode.data.subarray(0, inode.size));
      else for (const [name, id] of [...inode.entries].sort()) visit(this.#inodes.get(id)!, `${path}/${name}`);
    };
    visit(this.#inodes.get(1)!, '');
    return hash.digest('base64');
  }

  /** Indices of the changes among the first `count` that no sync has covered by then. */
  unsynced(count: number): number[] {
    const durable = this.#durable(count);
    const indices: number[] = [];
    for (let i = 0; i < count; i++) if (!durable(this.journal[i]!, i)) indices.push(i);
    return indices;
  }

  #durable(count: number): (change: Change, index: number) => boolean {
    const syncedThrough = new Map<number, number>();
    for (let i = 0; i < count; i++) {
      const change = this.journal[i]!;
      if (change.op === 'sync')
        syncedThrough.set(change.inode, Math.max(change.through, syncedThrough.get(change.inode) ?? 0));
    }
    const through = (inode: number) => syncedThrough.get(inode) ?? 0;
    return (change, index) => {
      if (change.op === 'sync' || change.op === 'rot' || change.op === 'break') return true;
      if (change.op === 'write' || change.op === 'truncate') return index < through(change.inode);
      if (change.op === 'rename') return index < Math.max(through(change.from), through(change.to));
      return index < through(change.directory);
    };
  }

  /** Flips one bit of a file, as rot would. */
  flipBit(path: string, byte: number, bit: number): void {
    const inode = this.#file(path);
    if (byte >= inode.size) throw new Error(`${path} has ${inode.size} bytes`);
    this.#change({ op: 'rot', inode: inode.id, byte, bit });
  }

  /** The block of a file that holds `byte` goes bad. */
  breakBlock(path: string, byte: number): void {
    const inode = this.#file(path);
    if (byte >= inode.size) throw new Error(`${path} has ${inode.size} bytes`);
    this.#change({ op: 'break', inode: inode.id, block: Math.floor(byte / BLOCK) });
  }

  /** How many bad blocks a file has. */
  badBlocks(path: string): number {
    return this.#file(path).bad.size;
  }

  /** Also where blocks are bad. */
  contents(path: string): Buffer {
    const inode = this.#file(path);
    return Buffer.from(inode.data.subarray(0, inode.size));
  }

  /** Replaces a file's contents behind everyone's back. */
  overwrite(path: string, bytes: Buffer): void {
    const inode = this.#file(path);
    inode.data = Buffer.from(bytes);
    inode.size = bytes.length;
    inode.shared = false;
    inode.bad.clear();
  }

  /** Removes a directory with all that is in it, as a careless hand would. */
  wipe(path: string): void {
    const { parent, name } = this.#parent(path);
    const inode = parent.entries!.get(name);
    if (inode === undefined) return;
    this.#change({ op: 'unlink', directory: parent.id, name, inode });
    const through = this.journal.length;
    this.journal.push({ op: 'sync', inode: parent.id, through });
    this.onChange?.();
  }

  releaseSyncs(): void {
    const held = this.#held;
    this.#held = [];
    for (const release of held) release();
  }

  /** Makes a directory that is there from the start. */
  prepareDirectory(path: string): void {
    this.mkdir(path);
    const through = this.journal.length;
    this.journal.push({ op: 'sync', inode: this.#parent(path).parent.id, through });
  }

  // --- The port -------------------------------------------------------------------------------------------------------

  openFile(path: string, mode: OpenMode): DiskFile {
    this.#checkBelow('open', path);
    const { parent, name } = this.#parent(path);
    const present = parent.entries!.get(name);
    if (mode === 'create') {
      if (present !== undefined) throw fault('EEXIST', 'open', path);
      this.#checkSpace(0, path);
      const inode = this.#nextInode++;
      this.#change({ op: 'create', directory: parent.id, name, inode, isDirectory: false });
    } else if (present === undefined) throw fault('ENOENT', 'open', path);
    return new RecordingFile(this, path, this.#file(path));
  }

  readAll(reads: FileReads, ended: RowsEnded): void {
    const delay = this.readDelay;
    if (delay === null) return readOneByOne(reads, ended);
    // Every row takes its own time; the disk looks at its bytes when that is over.
    const rows = Array.from({ length: reads.count }, (_, i) => {
      const one = new FileReads();
      one.add(reads.files[i]!, reads.positions[i]!, reads.into[i]!, reads.at[i]!, reads.lengths[i]!);
      (one.files[0] as RecordingFile).hold();
      return one;
    });
    reads.clear();
    if (rows.length === 0) ended(null, null);
    for (const [i, one] of rows.entries()) {
      const file = one.files[0] as RecordingFile;
      delay(file.path).then(() => {
        readOneByOne(one, (error) => {
          file.letGo();
          ended(error, [i]);
        });
      });
    }
  }

  rename(from: string, to: string): void {
    const source = this.#parent(from);
    const target = this.#parent(to);
    const inode = source.parent.entries!.get(source.name);
    if (inode === undefined) throw fault('ENOENT', 'rename', from);
    const replaced = target.parent.entries!.get(target.name);
    if (replaced !== undefined && (this.#inodes.get(replaced)!.entries?.size ?? 0) > 0)
      throw fault('ENOTEMPTY', 'rename', to);
    this.#change({
      op: 'rename',
      from: source.parent.id,
      fromName: source.name,
      to: target.parent.id,
      toName: target.name,
      inode,
    });
  }

  link(existing: string, path: string): boolean {
    const inode = this.#file(existing);
    const { parent, name } = this.#parent(path);
    if (parent.entries!.has(name)) throw fault('EEXIST', 'link', path);
    if (this.#names(inode.id) >= this.linkMax) return false;
    this.#change({ op: 'link', directory: parent.id, name, inode: inode.id });
    return true;
  }

  async unlink(path: string): Promise<boolean> {
    const { parent, name } = this.#parent(path);
    const inode = parent.entries!.get(name);
    if (inode === undefined) return false;
    if (this.#inodes.get(inode)!.entries !== null) throw fault('EISDIR', 'delete', path);
    this.#change({ op: 'unlink', directory: parent.id, name, inode });
    return true;
  }

  mkdir(path: string): void {
    const { parent, name } = this.#parent(path);
    if (parent.entries!.has(name)) throw fault('EEXIST', 'create directory', path);
    this.#change({ op: 'create', directory: parent.id, name, inode: this.#nextInode++, isDirectory: true });
  }

  rmdir(path: string): void {
    const { parent, name } = this.#parent(path);
    const inode = this.#directory(path);
    if (inode.entries!.size > 0) throw fault('ENOTEMPTY', 'remove directory', path);
    this.#change({ op: 'unlink', directory: parent.id, name, inode: inode.id });
  }

  list(path: string): string[] {
    this.#checkBelow('list', path);
    return [...this.#directory(path).entries!.keys()].sort();
  }

  #checkBelow(what: string, path: string): void {
    const failing = this.failBelow;
    if (failing !== null && path.startsWith(failing.path)) throw fault(failing.errno, what, path);
  }

  stat(path: string): FileStat | undefined {
    this.#checkBelow('look at', path);
    const inode = this.#lookup(path);
    if (inode === undefined) return undefined;
    return {
      inode: inode.id,
      links: this.#names(inode.id),
      storedBytes: Math.ceil(inode.size / 512) * 512,
      sizeBytes: inode.size,
      directory: inode.entries !== null,
    };
  }

  syncDirectory(path: string): Promise<void> {
    return this.recordSync(this.#directory(path).id, path);
  }

  space(): DiskSpace {
    // What has no name any more is gone.
    const named = new Set<number>();
    for (const { entries } of this.#inodes.values()) for (const id of entries?.values() ?? []) named.add(id);
    let used = 0;
    for (const id of named) used += this.#inodes.get(id)!.size;
    return { capacityBytes: this.capacityBytes, freeBytes: Math.max(0, this.capacityBytes - used) };
  }

  checkWritable(path: string): void {
    this.#directory(path);
  }
  bootId(): string {
    return `boot-${this.#boot}`;
  }
  mountId(): string {
    return 'mount-1';
  }

  async lock(path: string): Promise<DiskLock> {
    if (this.#locks.has(path))
      throw new HoldfastError('FAILED_PRECONDITION', `${path} is locked`, { reason: 'PoolInUse' });
    if (this.#lookup(path) === undefined) this.openFile(path, 'create').close();
    this.#locks.add(path);
    return { release: () => this.#locks.delete(path) };
  }

  // --- Inside ---------------------------------------------------------------------------------------------------------

  #change(change: Change): void {
    this.journal.push(change);
    applyChange(this.#inodes, change, null);
    this.onChange?.();
  }

  recordWrite(inode: number, path: string, position: number, bytes: Buffer): void {
    this.writes++;
    const failing = this.failWrite;
    if (failing !== null && failing.after-- <= 0) {
      if (failing.keepBytes > 0)
        this.#change({ op: 'write', inode, position, bytes: bytes.subarray(0, failing.keepBytes) });
      throw fault(failing.errno, 'write', path);
    }
    const astray = this.misdirect;
    if (astray !== null && path.endsWith(astray.name) && position >= astray.back && astray.after-- <= 0) {
      this.misdirect = null;
      return this.#change({ op: 'write', inode, position: position - astray.back, bytes });
    }
    if (meetsBad(this.#inodes.get(inode)!, position, bytes.length, true)) throw fault('EIO', 'write', path);
    const grows = Math.max(0, position + bytes.length - this.#inodes.get(inode)!.size);
    this.#checkSpace(grows, path);
    this.#change({ op: 'write', inode, position, bytes });
  }

  recordTruncate(inode: number, length: number): void {
    this.#change({ op: 'truncate', inode, length });
  }

  async recordSync(inode: number, path: string): Promise<void> {
    const through = this.journal.length;
    this.syncs++;
    if (this.holdSyncs) await new Promise<void>((resolve) => this.#held.push(resolve));
    else await (this.syncDelay?.() ?? Promise.resolve());
    const failing = this.failSync;
    if (failing !== null && failing.after-- <= 0) throw fault(failing.errno, 'fdatasync', path);
    this.journal.push({ op: 'sync', inode, through });
    this.onChange?.();
  }

  #checkSpace(bytes: number, path: string): void {
    if (this.capacityBytes !== Number.MAX_SAFE_INTEGER && this.space().freeBytes < Math.max(bytes, 1))
      throw fault('ENOSPC', 'write', path);
  }

  #lookup(path: string): Inode | undefined {
    let inode = this.#inodes.get(1)!;
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (inode.entries === null) throw fault('ENOTDIR', 'look up', path);
      const next = inode.entries.get(name);
      if (next === undefined) return undefined;
      inode = this.#inodes.get(next)!;
    }
    return inode;
  }
  #file(path: string): Inode {
    const inode = this.#lookup(path);
    if (inode === undefined) throw fault('ENOENT', 'open', path);
    if (inode.entries !== null) throw fault('EISDIR', 'open', path);
    return inode;
  }
  #directory(path: string): Inode {
    const inode = this.#lookup(path);
    if (inode === undefined) throw fault('ENOENT', 'open', path);
    if (inode.entries === null) throw fault('ENOTDIR', 'open', path);
    return inode;
  }
  #parent(path: string): { parent: Inode; name: string } {
    const slash = path.lastIndexOf('/');
    return { parent: this.#directory(path.slice(0, slash)), name: path.slice(slash + 1) };
  }
  #names(id: number): number {
    let count = 0;
    for (const inode of this.#inodes.values()) {
      if (inode.entries !== null) for (const entry of inode.entries.values()) if (entry === id) count++;
    }
    return count;
  }
}

class RecordingFile implements DiskFile {
  readonly path: string;
  readonly #disk: RecordingDisk;
  readonly #inode: Inode;
  #open = true;
  #busy = 0;
  /** Reads under way: they go on, also if the file is closed. */
  #holds = 0;

  constructor(disk: RecordingDisk, path: string, inode: Inode) {
    this.#disk = disk;
    this.path = path;
    this.#inode = inode;
    disk.openFiles++;
  }
  hold(): void {
    this.#check();
    this.#holds++;
  }
  letGo(): void {
    this.#holds--;
  }
  #check(): void {
    if (!this.#open && this.#holds === 0) throw new Error(`${this.path} is closed`);
  }
  write(buffers: readonly Uint8Array[], position: number): void {
    this.#check();
    this.#disk.recordWrite(this.#inode.id, this.path, position, Buffer.concat(buffers));
  }
  startWriteBack(): void {
    this.#check();
    this.#disk.writeBacks++;
  }
  dropCached(): void {
    this.#check();
    this.#disk.dropped.push(basename(this.path));
  }
  read(into: Uint8Array, position: number): number {
    this.#check();
    this.#disk.reads++;
    const failing = this.#disk.failRead;
    if (failing !== null && this.path.endsWith(failing.path)) throw fault(failing.errno, 'read', this.path);
    const count = Math.max(0, Math.min(into.length, this.#inode.size - position));
    if (meetsBad(this.#inode, position, count, false)) throw fault('EIO', 'read', this.path);
    into.set(this.#inode.data.subarray(position, position + count));
    return count;
  }
  truncate(length: number): void {
    this.#check();
    if (this.#disk.failTruncate !== null) throw fault(this.#disk.failTruncate, 'truncate', this.path);
    this.#disk.recordTruncate(this.#inode.id, length);
  }
  truncateLater(length: number, done: (error: Error | null) => void): void {
    this.#check();
    this.#busy++;
    // It happens at some time; the next turn is one.
    queueMicrotask(() => {
      this.#busy--;
      this.#disk.recordTruncate(this.#inode.id, length);
      done(null);
    });
  }
  datasync(done: (error: Error | null) => void): void {
    this.#check();
    this.#busy++;
    const end = (error: Error | null) => {
      this.#busy--;
      done(error);
    };
    this.#disk.recordSync(this.#inode.id, this.path).then(() => end(null), end);
  }
  size(): number {
    this.#check();
    return this.#inode.size;
  }
  close(): void {
    if (this.#busy > 0) throw new Error(`${this.path} is closed while it is being synced or truncated`);
    if (this.#open) this.#disk.openFiles--;
    this.#open = false;
  }
}

function applyChange(
  inodes: Map<number, Inode>,
  change: Change,
  stretches: readonly (readonly [number, number])[] | null,
): void {
  switch (change.op) {
    case 'create':
      inodes.set(change.inode, {
        id: change.inode,
        entries: change.isDirectory ? new Map() : null,
        data: Buffer.alloc(0),
        size: 0,
        bad: new Set(),
        shared: false,
      });
      inodes.get(change.directory)?.entries?.set(change.name, change.inode);
      return;
    case 'link':
      if (inodes.has(change.inode)) inodes.get(change.directory)?.entries?.set(change.name, change.inode);
      return;
    case 'unlink': {
      const entries = inodes.get(change.directory)?.entries;
      if (entries?.get(change.name) === change.inode) entries.delete(change.name);
      return;
    }
    case 'rename': {
      if (!inodes.has(change.inode)) return;
      const from = inodes.get(change.from)?.entries;
      if (from?.get(change.fromName) === change.inode) from.delete(change.fromName);
      inodes.get(change.to)?.entries?.set(change.toName, change.inode);
      return;
    }
    case 'write': {
      const inode = inodes.get(change.inode);
      if (!inode) return;
      for (const [from, to] of stretches ?? [[0, change.bytes.length]]) {
        writeInto(inode, change.bytes.subarray(from, to), change.position + from!);
      }
      return;
    }
    case 'truncate': {
      const inode = inodes.get(change.inode);
      if (!inode || inode.size <= change.length) return;
      ownData(inode);
      inode.data.fill(0, change.length);
      inode.size = change.length;
      for (const block of inode.bad) if (block * BLOCK >= change.length) inode.bad.delete(block);
      return;
    }
    case 'break':
      inodes.get(change.inode)?.bad.add(change.block);
      return;
    case 'rot': {
      const inode = inodes.get(change.inode);
      if (!inode || inode.size <= change.byte) return;
      ownData(inode);
      inode.data[change.byte] = inode.data[change.byte]! ^ (1 << change.bit);
      return;
    }
    case 'sync':
      return;
  }
}

function writeInto(inode: Inode, bytes: Buffer, position: number): void {
  const end = position + bytes.length;
  if (end > inode.data.length) {
    const larger = Buffer.alloc(Math.max(end, inode.data.length * 2));
    inode.data.copy(larger, 0, 0, inode.size);
    inode.data = larger;
    inode.shared = false;
  }
  ownData(inode);
  for (const block of inode.bad) if (block * BLOCK >= position && (block + 1) * BLOCK <= end) inode.bad.delete(block);
  bytes.copy(inode.data, position);
  inode.size = Math.max(inode.size, end);
}

/** Whether a bad block lies in the way of a read, or of a write that does not cover it. */
function meetsBad(inode: Inode, position: number, length: number, inPart: boolean): boolean {
  for (const block of inode.bad) {
    const [from, to] = [block * BLOCK, (block + 1) * BLOCK];
    if (from >= position + length || to <= position) continue;
    if (!inPart || from < position || to > position + length) return true;
  }
  return false;
}

function ownData(inode: Inode): void {
  if (!inode.shared) return;
  inode.data = Buffer.from(inode.data);
  inode.shared = false;
}

/** Directories are copied, file data is shared until one side changes it. */
function copyInodes(inodes: Map<number, Inode>): Map<number, Inode> {
  const copy = new Map<number, Inode>();
  for (const inode of inodes.values()) {
    inode.shared = true;
    copy.set(inode.id, {
      id: inode.id,
      entries: inode.entries === null ? null : new Map(inode.entries),
      data: inode.data,
      size: inode.size,
      bad: new Set(inode.bad),
      shared: true,
    });
  }
  return copy;
}

function fault(errno: string, what: string, path: string): HoldfastError {
  return diskError(Object.assign(new Error(errno), { code: errno }), what, path);
}
