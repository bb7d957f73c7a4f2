// A replica's directory behind the replica port, for reading only: no daemon, no promise, no change. What an engine would be told by
// a replica it has fenced, this tells of the files alone. Everything that would change something is refused.
//
// Owner: whoever opened it. A damaged log shows what stands before the damage and says so; a joining one shows what it has.

import { asHoldfastError, type HoldfastError, type NodeId, precondition, type ReplicaId } from '../base/index.js';
import type { SegmentName, Superblock } from '../format/index.js';
import { BareLog, type Disk, SuperblockStore } from '../segment/index.js';
import type {
  FrameInfo,
  RangesEnded,
  ReadRange,
  ReplicaEvents,
  ReplicaPort,
  ReplicaStatus,
  SegmentInfo,
} from '../wire/index.js';
import { checkNotMarked } from './failure-marker.js';
import { endsAsNoted, sameCache } from './identity.js';
import { segmentInfos } from './segment-info.js';

type Done = (error: Error | null) => void;

/** Told of each stretch that another replica had to stand in for. */
export type OnDamage = (segment: SegmentName, offset: number, length: number) => void;

export class BareReplica implements ReplicaPort {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  /** Its reads are done in this process. */
  readonly local = true;
  readonly directory: string;
  readonly status: ReplicaStatus;
  /** When its first segment was made, ms since 1970; null while it has none. */
  readonly createdMs: number | null;
  onDamage: OnDamage = () => {};
  readonly #disk: Disk;
  readonly #log: BareLog;
  readonly #found: string;

  private constructor(disk: Disk, directory: string, superblock: Superblock, log: BareLog, found: string) {
    this.#disk = disk;
    this.#log = log;
    this.#found = found;
    this.directory = directory;
    this.replicaId = superblock.replicaId;
    this.nodeId = superblock.nodeId;
    this.createdMs = log.segments[0]?.header.createdAtMs ?? null;
    const { epoch, seq, digest } = log.end;
    this.status = {
      superblock,
      end: { epoch, seq, digest: digest.toString('hex') },
      cacheSurvived: survived(disk, directory, superblock) && endsAsNoted(log.segments.at(-1), superblock),
      damage: failure(disk, directory) ?? log.damage,
      flushedThrough: log.flushedThrough,
      stoppedEngine: false,
    };
  }

  /**
   * NOT_FOUND/ReplicaLost when the directory has no superblock, DATA_LOSS/Corrupt when neither is good. `disk` should be one that
   * refuses changes; none is tried.
   */
  static open(disk: Disk, directory: string): BareReplica {
    const found = fingerprint(disk, directory);
    const superblock = SuperblockStore.open(disk, directory).current;
    const { flushed, checkpoint, joining } = superblock;
    const log = new BareLog(disk, directory, {
      joining,
      cacheSurvived: survived(disk, directory, superblock),
      flushedSeq: flushed?.seq ?? 0,
      checkpointSeq: checkpoint?.coveredThrough ?? 0,
    });
    return new BareReplica(disk, directory, superblock, log, found);
  }

  /** Whether its files are others, or of other lengths, than when it was opened: somebody is at work on it. */
  changed(): boolean {
    return fingerprint(this.#disk, this.directory) !== this.#found;
  }

  listen(_events: ReplicaEvents): void {}

  /** What it holds. It promises nothing: an engine elsewhere goes on. */
  async fence(): Promise<ReplicaStatus> {
    return this.status;
  }

  async segments(): Promise<SegmentInfo[]> {
    return segmentInfos(this.#log.segments, this.#disk);
  }

  async frames(segment: SegmentName): Promise<FrameInfo[]> {
    return this.#log.frames(segment).map(({ header, offset, length, digest }) => ({
      seq: header.seq,
      offset,
      length,
      digest: digest.toString('hex'),
    }));
  }

  read(ranges: readonly ReadRange[], done: Done): void {
    let left = ranges.length;
    let failed: Error | null = null;
    this.readParts(ranges, (error, ended) => {
      failed ??= error;
      left -= ended === null ? left : ended.length;
      if (left === 0) done(failed);
    });
  }

  readParts(ranges: readonly ReadRange[], ended: RangesEnded): void {
    this.#log.read(ranges, ended);
  }

  /** Nothing is repaired; who asked is told what would have been. */
  async repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    this.onDamage(segment, offset, bytes.length);
  }

  confirm(done: Done): void {
    done(null);
  }
  freeBytes(): number {
    return 0;
  }
  append(): void {
    throw this.#refusal();
  }
  sync(_throughSeq: number, done: Done): void {
    done(this.#refusal());
  }
  async cut(): Promise<void> {
    throw this.#refusal();
  }
  async deleteSegments(): Promise<void> {
    throw this.#refusal();
  }
  async describe(): Promise<void> {
    throw this.#refusal();
  }
  async clone(): Promise<void> {
    throw this.#refusal();
  }
  async usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    throw this.#refusal();
  }

  #refusal(): HoldfastError {
    return precondition(`${this.directory} is only read here`, 'PoolNotWritable');
  }

  close(): void {
    this.#log.close();
  }
}

function fingerprint(disk: Disk, directory: string): string {
  const files = disk.list(directory).map((name) => `${name} ${disk.stat(`${directory}/${name}`)?.sizeBytes}`);
  return [JSON.stringify(SuperblockStore.open(disk, directory).current), ...files].join('\n');
}

function survived(disk: Disk, directory: string, superblock: Superblock): boolean {
  return sameCache(superblock.cache, { bootId: disk.bootId(), mountId: disk.mountId(directory) });
}

/** A replica whose disk failed under it proves nothing by what can be read now. */
function failure(disk: Disk, directory: string): string | null {
  try {
    checkNotMarked(disk, directory);
    return null;
  } catch (error) {
    const found = asHoldfastError(error);
    if (found.reason !== 'DiskFailed') throw found;
    return found.message;
  }
}
