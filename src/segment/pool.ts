// A pool: a directory of a filesystem in which replicas live.
//
//   <pool>/pool.json        who the pool is and which node it belongs to
//   <pool>/pool.lock        held while a daemon runs
//   <pool>/replicas/<volume id>/{superblock.0, superblock.1, *.seg}
//   <pool>/replicas/.tmp-*  replicas being made; removed at start
//   <pool>/trash/*          replicas being deleted; removed at start
//
// Owner: one daemon. Its main thread opens the pool exclusively (which takes the lock and tidies up), its workers open it
// shared under that lock. Nothing is ever made in a directory that is not there: a missing mount must not look like an
// empty pool.

import {
  type Clock,
  crc32c,
  HoldfastError,
  isUuid,
  type NodeId,
  type PoolId,
  parseNodeId,
  parseUuid,
  printable,
  type Random,
  unknownVersion,
  type VolumeId,
} from '../base/index.js';
import { type Disk, type DiskLock, type DiskSpace, synced } from './disk.js';

const POOL_FORMAT = 1;

export interface PoolIdentity {
  readonly poolId: PoolId;
  readonly nodeId: NodeId;
  readonly createdMs: number;
}

export class Pool {
  readonly disk: Disk;
  readonly path: string;
  readonly id: PoolId;
  readonly nodeId: NodeId;
  #lock: DiskLock | null;

  private constructor(disk: Disk, path: string, identity: PoolIdentity, lock: DiskLock | null) {
    this.disk = disk;
    this.path = path;
    this.id = identity.poolId;
    this.nodeId = identity.nodeId;
    this.#lock = lock;
  }

  /**
   * Makes an existing, empty directory a pool of this node; lost+found may be in it. ALREADY_EXISTS when it is a pool,
   * FAILED_PRECONDITION when it holds anything else. pool.json comes last, so a format cut short can be repeated.
   */
  static async format(
    disk: Disk,
    path: string,
    options: { nodeId: NodeId; random: Random; clock: Clock },
  ): Promise<PoolIdentity> {
    checkDirectory(disk, path);
    const names = disk.list(path);
    if (names.includes('pool.json')) throw new HoldfastError('ALREADY_EXISTS', `${path} is a pool already`);
    const foreign = names.filter(
      (name) => !['lost+found', 'pool.lock', 'pool.json.tmp', 'replicas', 'trash'].includes(name),
    );
    if (foreign.length > 0) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `${path} is not empty (it holds ${printable(foreign[0])}); a pool needs a directory of its own`,
      );
    }
    if (names.includes('replicas') && disk.list(`${path}/replicas`).length > 0) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `${path} holds replicas but no pool.json: it was a pool; restore the file instead of formatting anew`,
      );
    }
    disk.checkWritable(path);
    const lock = await disk.lock(`${path}/pool.lock`);
    try {
      for (const name of ['replicas', 'trash']) if (!names.includes(name)) disk.mkdir(`${path}/${name}`);
      const identity: PoolIdentity = {
        poolId: options.random.uuid() as PoolId,
        nodeId: options.nodeId,
        createdMs: options.clock.wallMs(),
      };
      await writeIdentity(disk, path, identity);
      return identity;
    } finally {
      lock.release();
    }
  }

  /**
   * Opens a pool. `exclusive` takes the lock for as long as the pool is open and removes what a crash left half made or half
   * deleted; without it the caller vouches that its process holds the lock. Errors: PoolMissing, PoolNotWritable,
   * PoolForeign (another node's), PoolInUse, Corrupt, DiskFailed.
   */
  static async open(disk: Disk, path: string, options: { nodeId: NodeId; exclusive: boolean }): Promise<Pool> {
    checkDirectory(disk, path);
    const identity = readPoolIdentity(disk, path);
    if (identity.nodeId !== options.nodeId) {
      throw new HoldfastError(
        'FAILED_PRECONDITION',
        `pool ${path} belongs to node ${identity.nodeId}, this is node ${options.nodeId}; if the disk was moved on purpose, retire the old node first`,
        { reason: 'PoolForeign' },
      );
    }
    disk.checkWritable(path);
    if (!options.exclusive) return new Pool(disk, path, identity, null);
    const lock = await disk.lock(`${path}/pool.lock`);
    const pool = new Pool(disk, path, identity, lock);
    try {
      await pool.#tidy();
    } catch (error) {
      lock.release();
      throw error;
    }
    return pool;
  }

  async #tidy(): Promise<void> {
    for (const name of ['replicas', 'trash']) {
      if (this.disk.stat(`${this.path}/${name}`) === undefined) {
        // Not made anew: that would turn a pool that lost its replicas into an empty one.
        throw new HoldfastError(
          'FAILED_PRECONDITION',
          `pool ${this.path} has no ${name} directory: its contents are lost`,
          { reason: 'PoolMissing' },
        );
      }
    }
    for (const name of this.disk.list(`${this.path}/replicas`)) {
      if (name.startsWith('.tmp-')) await removeTree(this.disk, `${this.path}/replicas/${name}`);
    }
    for (const name of this.disk.list(`${this.path}/trash`)) await removeTree(this.disk, `${this.path}/trash/${name}`);
  }

  /**
   * Throws FAILED_PRECONDITION/PoolMissing when the directory is no longer this pool (its disk was unmounted, say): what is
   * not found in it then proves nothing.
   */
  checkPresent(): void {
    checkDirectory(this.disk, this.path);
    const found = readPoolIdentity(this.disk, this.path).poolId;
    if (found !== this.id) {
      throw new HoldfastError('FAILED_PRECONDITION', `${this.path} now holds pool ${found}, it held ${this.id}`, {
        reason: 'PoolMissing',
      });
    }
    if (this.disk.stat(this.replicasPath) === undefined) {
      throw new HoldfastError('FAILED_PRECONDITION', `pool ${this.path} has no replicas directory any more`, {
        reason: 'PoolMissing',
      });
    }
  }

  get replicasPath(): string {
    return `${this.path}/replicas`;
  }
  get trashPath(): string {
    return `${this.path}/trash`;
  }
  replicaPath(volumeId: VolumeId): string {
    return `${this.replicasPath}/${volumeId}`;
  }
  /** Volumes that have a directory here, whatever state it is in. */
  volumes(): VolumeId[] {
    return this.disk.list(this.replicasPath).filter(isUuid) as VolumeId[];
  }
  space(): DiskSpace {
    return this.disk.space(this.path);
  }
  /** Releases the lock. */
  close(): void {
    this.#lock?.release();
    this.#lock = null;
  }
}

function checkDirectory(disk: Disk, path: string): void {
  const stat = disk.stat(path);
  if (stat === undefined) {
    throw new HoldfastError(
      'FAILED_PRECONDITION',
      `pool directory ${path} does not exist; create it, or mount its disk`,
      { reason: 'PoolMissing' },
    );
  }
  if (!stat.directory)
    throw new HoldfastError('FAILED_PRECONDITION', `pool ${path} is not a directory`, { reason: 'PoolMissing' });
}

async function writeIdentity(disk: Disk, path: string, identity: PoolIdentity): Promise<void> {
  const body = { format: POOL_FORMAT, ...identity };
  const text = `${JSON.stringify({ ...body, crc32c: checksum(body) }, null, 2)}\n`;
  const temporary = `${path}/pool.json.tmp`;
  await disk.unlink(temporary);
  const file = disk.openFile(temporary, 'create');
  try {
    file.write([Buffer.from(text)], 0);
    await synced(file);
  } finally {
    file.close();
  }
  disk.rename(temporary, `${path}/pool.json`);
  await disk.syncDirectory(path);
}

function checksum(body: object): string {
  return crc32c(Buffer.from(JSON.stringify(body)))
    .toString(16)
    .padStart(8, '0');
}

/** Whose pool a directory is. FAILED_PRECONDITION/PoolMissing when it is none, DATA_LOSS when that can't be read. */
export function readPoolIdentity(disk: Disk, path: string): PoolIdentity {
  const name = `${path}/pool.json`;
  const stat = disk.stat(name);
  if (stat === undefined) {
    throw new HoldfastError('FAILED_PRECONDITION', `${path} is no pool (it has no pool.json); format it first`, {
      reason: 'PoolMissing',
    });
  }
  const bad = (what: string, cause?: unknown) =>
    new HoldfastError('DATA_LOSS', `${name}: ${what}`, { reason: 'Corrupt', cause });
  if (stat.sizeBytes > 65536) throw bad(`${stat.sizeBytes} bytes are too many`);
  const file = disk.openFile(name, 'read');
  const bytes = Buffer.alloc(stat.sizeBytes);
  try {
    file.read(bytes, 0);
  } finally {
    file.close();
  }
  let parsed: Record<string, unknown>;
  try {
    parsed = JSON.parse(bytes.toString('utf8')) as Record<string, unknown>;
  } catch (error) {
    throw bad('not JSON', error);
  }
  if (typeof parsed !== 'object' || parsed === null) throw bad('not an object');
  const { crc32c: stored, ...body } = parsed;
  if (stored !== checksum(body)) throw bad('wrong checksum');
  if (typeof body.format !== 'number') throw bad(`pool format ${printable(body.format)}`);
  if (body.format !== POOL_FORMAT)
    throw unknownVersion(`the format of ${name}`, body.format, { min: POOL_FORMAT, max: POOL_FORMAT });
  return {
    poolId: parseUuid<PoolId>(body.poolId, `poolId of ${name}`),
    nodeId: parseNodeId(body.nodeId),
    createdMs: Number(body.createdMs),
  };
}

/** Deletes a directory of files (one level), with `pause` between the files. Missing is no error. */
export async function removeTree(disk: Disk, path: string, pause?: () => Promise<void>): Promise<void> {
  if (disk.stat(path) === undefined) return;
  for (const name of disk.list(path)) {
    await disk.unlink(`${path}/${name}`);
    await pause?.();
  }
  disk.rmdir(path);
}
