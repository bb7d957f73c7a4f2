// Reads a volume out of replicas at rest: no reign, no lease, nothing written. The log of one replica counts; the others give what it
// can't read intact. For rescue, where neither daemons nor metadata are to be had.
//
// Owner: whoever opened it, until close(). Nothing may change the replicas meanwhile. Memory: the table of the map's pages and of the
// segments, and the pages that the thread's cache holds, as for an open volume.

import {
  BLOCK_SIZE,
  type Clock,
  HoldfastError,
  type LineageId,
  type Logger,
  notFound,
  type SnapshotId,
  type VolumeId,
} from '../base/index.js';
import { type CheckpointPlace, type Compression, PAGE_ENTRIES } from '../format/index.js';
import { blocksOf, KeyRing, type MapSnapshot, type PageCache } from '../hotpath/index.js';
import type { BlockRequest } from './block-device.js';
import { commonPoint } from './log-compare.js';
import { LogReader } from './log-reader.js';
import { checkCompression, type LoadedLog, loadLog } from './open-engine.js';
import { ReadPath } from './read-path.js';
import type { SetNamed } from './replay.js';
import type { ReplicaPort, ReplicaStatus, SegmentInfo } from './replica-port.js';

export interface RestingReplica {
  readonly port: ReplicaPort;
  readonly status: ReplicaStatus;
}

export interface VolumeReaderOptions {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  /** Undefined: not known, and a record that can't be decompressed is one that can't be read. */
  readonly compression?: Compression | undefined;
  /** Null: the map of an encrypted volume can be looked at, its blocks can't. */
  readonly dataKey: Buffer | null;
  /** The replica whose log counts. */
  readonly source: RestingReplica;
  readonly others: readonly RestingReplica[];
  readonly pages?: PageCache;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface RestingSnapshot {
  readonly snapshotId: MapSnapshot['snapshotId'];
  /** Zeroes: none. */
  readonly groupId: MapSnapshot['groupId'];
  readonly sizeBytes: number;
  readonly wallMs: number;
}

/** Blocks of one page number, which is 4 MiB of the volume. */
export interface PageRanges {
  /** Mapped ones as [block, count], ascending; an error when the page can't be read. */
  readonly mapped: readonly (readonly [number, number])[] | Error;
  readonly block: number;
  readonly count: number;
}

/** Rejects with DATA_LOSS when the map can't be built from any of the replicas. */
export async function openVolumeReader(options: VolumeReaderOptions): Promise<VolumeReader> {
  const { volumeId, lineageId, compression, dataKey, source, others, pages, clock, logger } = options;
  if (compression !== undefined) checkCompression({ volumeId, compression });
  const keys = new KeyRing(lineageId, dataKey);
  try {
    const own = await source.port.segments();
    const segments = [...own];
    for (const other of others) for (const info of await sharedSegments(source.port, other.port)) segments.push(info);
    const ports = [source, ...others].map(({ port }) => port);
    const { reigns, checkpoint, previousCheckpoint } = source.status.superblock;
    // One beyond the end of a damaged log is not there; the log from its beginning may be.
    const checkpoints = [checkpoint, previousCheckpoint].filter((place) => place !== null && liesIn(place, own));
    const from = { described: reigns, reign: null, checkpoints, noteSets: true };
    const parts = { ...from, volumeId, segments, ports, keys, pages, clock, logger };
    return new VolumeReader(await loadLog(parts), ports, clock, logger);
  } catch (error) {
    keys.destroy();
    throw error;
  }
}

function liesIn({ segment, frameOffset }: CheckpointPlace, segments: readonly SegmentInfo[]): boolean {
  const found = segments.find(({ epoch, ordinal }) => epoch === segment.epoch && ordinal === segment.ordinal);
  return found !== undefined && frameOffset < found.length;
}

/** Segments of the part that two logs have in common: the source may have lost the file of one. */
async function sharedSegments(source: ReplicaPort, other: ReplicaPort): Promise<SegmentInfo[]> {
  const mine = await other.segments();
  try {
    const common = await commonPoint(source, await source.segments(), other, mine);
    return mine.filter((segment) => segment.lastSeq <= common);
  } catch (error) {
    // Where they part is not to be seen: then nothing proves that its files belong to this log.
    if (error instanceof HoldfastError && error.code === 'DATA_LOSS') return [];
    throw error;
  }
}

export class VolumeReader {
  readonly #loaded: LoadedLog;
  readonly #reads: ReadPath;

  constructor(loaded: LoadedLog, ports: readonly ReplicaPort[], clock: Clock, logger: Logger) {
    this.#loaded = loaded;
    const { table, keys, replayed } = loaded;
    const reader = new LogReader(() => ports, logger);
    const common = { table, keys, reader, closed: () => true, clock, logger };
    this.#reads = new ReadPath({ ...common, map: replayed.map, source: () => ports[0] });
  }

  get sizeBytes(): number {
    return this.#loaded.replayed.map.sizeBytes;
  }
  get allocatedBytes(): number {
    return this.#loaded.replayed.map.allocatedBlocks * BLOCK_SIZE;
  }
  /** Oldest first. */
  get snapshots(): readonly RestingSnapshot[] {
    return this.#loaded.replayed.map.snapshots;
  }
  /** The newest in-sync set that the replayed log names. */
  get set(): SetNamed | null {
    return this.#loaded.replayed.set;
  }

  /** From now on this is the snapshot, and nothing else can be read. Throws NOT_FOUND. */
  showSnapshot(snapshotId: SnapshotId): void {
    const { map } = this.#loaded.replayed;
    if (map.snapshot(snapshotId) === undefined) throw notFound(`the volume has no snapshot ${snapshotId}`);
    map.startFrom(snapshotId);
  }

  /** What is mapped, page by page and ascending; pages with nothing are left out. */
  async *pages(): AsyncGenerator<PageRanges> {
    const { map } = this.#loaded.replayed;
    const blocks = blocksOf(map.sizeBytes);
    for (let number = 0; number < map.table.numbers && number * PAGE_ENTRIES < blocks; number++) {
      const id = map.table.head(number);
      if (id === 0 || !map.table.isPage(id)) continue;
      const block = number * PAGE_ENTRIES;
      const count = Math.min(PAGE_ENTRIES, blocks - block);
      const mapped = await new Promise<PageRanges['mapped']>((resolve) => {
        map.loadLive([number], (error) => resolve(error ?? mappedIn(map.page(block)!.words, block, count)));
      });
      yield { mapped, block, count };
    }
  }

  /** Fills `into` from byte `offset` on, a multiple of the block size; false when a part of it is not to be had. */
  read(offset: number, into: Uint8Array): Promise<boolean> {
    return new Promise((resolve) => {
      const fields = { op: 'read', offset, length: into.length, fua: false, data: into, dataAt: 0 } as const;
      const request: BlockRequest = { ...fields, cancelled: false, complete: () => {} };
      this.#reads.read([request], (_, failed) => resolve(failed === null));
    });
  }

  close(): void {
    this.#loaded.replayed.map.close();
    this.#loaded.keys.destroy();
  }
}

function mappedIn(words: Uint32Array, block: number, count: number): [number, number][] {
  const ranges: [number, number][] = [];
  for (let index = 0; index < count; index++) {
    if (words[index * 2 + 1] === 0) continue;
    const last = ranges.at(-1);
    if (last !== undefined && last[0] + last[1] === block + index) last[1]++;
    else ranges.push([block + index, 1]);
  }
  return ranges;
}
