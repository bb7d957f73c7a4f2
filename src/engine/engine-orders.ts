// The orders that the agent gives an open volume: freeze, clone, grow, delete a snapshot, list changed blocks. Each is a
// control entry in the log, applied to the map when it is committed and answered when it is durable. All are idempotent by
// what they name, so an order cut short is repeated to the next reign without harm.

import {
  assert,
  BLOCK_SIZE,
  type Clock,
  type GroupId,
  HoldfastError,
  invalid,
  notFound,
  type SnapshotId,
  zeroUuid,
} from '../base/index.js';
import { type CheckpointPlace, type LogPoint, type Reign, type Superblock, VOLUME_SIZE_MAX } from '../format/index.js';
import { type BlockMap, changedRanges } from '../hotpath/index.js';
import type { Checkpointer } from './checkpointer.js';
import type { CloneTarget, Engine, EngineVolume } from './engine-api.js';
import { CHANGED_PAGES, SNAPSHOTS_MAX } from './limits.js';
import type { LogWriter } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { DescribeUpdate, ReplicaPort } from './replica-port.js';
import type { ReplicaSet } from './replica-set.js';
import type { ReplyGate } from './reply-gate.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface OrderParts {
  readonly volume: EngineVolume;
  readonly reign: Reign;
  readonly reigns: readonly Reign[];
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly set: ReplicaSet;
  readonly gate: ReplyGate;
  readonly checkpointer: Checkpointer;
  /** Nothing needs the segment. */
  readonly isDead: (entry: TableEntry) => boolean;
  /** What a snapshot alone held was given up. */
  readonly freed: () => void;
  /** Throws UNAVAILABLE when the volume is closed or deposed. */
  readonly mustServe: () => void;
  readonly durable: (seq: number) => Promise<void>;
  readonly describe: (update: DescribeUpdate) => Promise<unknown>;
  readonly clock: Clock;
}

type CloneOrder = Parameters<Engine['clone']>[0];
type FreezeOrder = Parameters<Engine['freeze']>[0];
type Frozen = Awaited<ReturnType<Engine['freeze']>>;

export class EngineOrders {
  readonly #parts: OrderParts;
  /** Clones under way: the snapshots they start from and the segments they link must stay. */
  readonly #cloning = new Map<Promise<void>, SnapshotId>();
  readonly #deleting = new Set<SnapshotId>();
  readonly #freezing = new Map<SnapshotId, Promise<Frozen>>();
  /** No clone entry lies above this seq; at first all that earlier reigns wrote is under suspicion. */
  #lastCloneSeq: number;

  constructor(parts: OrderParts) {
    this.#parts = parts;
    this.#lastCloneSeq = parts.writer.lastSeq;
  }

  /** Resolves when no clone that is under way now needs the log's segments any more. */
  async clonesSettled(): Promise<void> {
    await Promise.allSettled(this.#cloning.keys());
  }

  /** A repeat of a freeze that is under way answers with it. */
  freeze(order: FreezeOrder): Promise<Frozen> {
    const running = this.#freezing.get(order.snapshotId);
    if (running !== undefined) return running;
    const freezing = this.#freeze(order).finally(() => this.#freezing.delete(order.snapshotId));
    this.#freezing.set(order.snapshotId, freezing);
    return freezing;
  }

  async #freeze(order: FreezeOrder): Promise<Frozen> {
    const { map, writer, pipeline, gate, clock, mustServe, durable } = this.#parts;
    mustServe();
    if (order.holdToken !== null && gate.token !== order.holdToken) {
      throw new HoldfastError('ABORTED', 'the hold of this group snapshot has run out; the group must be taken anew', {
        reason: 'Deadline',
      });
    }
    const existing = map.snapshot(order.snapshotId);
    if (existing) return { sizeBytes: existing.sizeBytes, wallMs: existing.wallMs, seq: existing.seq };
    if (map.snapshotCount >= SNAPSHOTS_MAX) {
      throw new HoldfastError(
        'RESOURCE_EXHAUSTED',
        `the volume has ${SNAPSHOTS_MAX} snapshots, the most there can be; delete some first`,
      );
    }
    const wallMs = clock.wallMs();
    const groupId = order.groupId ?? (zeroUuid as GroupId);
    const frame = writer.writeControl({ kind: 'freeze', snapshotId: order.snapshotId, groupId, wallMs });
    let sizeBytes = map.sizeBytes;
    pipeline.newest(frame).apply = () => {
      sizeBytes = map.freeze(order.snapshotId, groupId, frame.seq, wallMs).sizeBytes;
    };
    pipeline.transmit();
    await durable(frame.seq);
    return { sizeBytes, wallMs, seq: frame.seq };
  }

  async deleteSnapshot(snapshotId: SnapshotId): Promise<void> {
    const { map, writer, pipeline, freed, mustServe, durable } = this.#parts;
    await this.#freezing.get(snapshotId)?.catch(() => {});
    mustServe();
    if (map.snapshot(snapshotId) === undefined) return;
    if ([...this.#cloning.values()].includes(snapshotId)) throw busy(`snapshot ${snapshotId} is being cloned`);
    this.#deleting.add(snapshotId);
    const frame = writer.writeControl({ kind: 'snapshotDelete', snapshotId });
    pipeline.newest(frame).apply = () => {
      map.deleteSnapshot(snapshotId);
      freed();
    };
    pipeline.transmit();
    try {
      await durable(frame.seq);
    } finally {
      this.#deleting.delete(snapshotId);
    }
  }

  /** True when the volume grew. */
  async resize(sizeBytes: number): Promise<boolean> {
    const { map, writer, pipeline, mustServe, durable, describe } = this.#parts;
    mustServe();
    if (!Number.isSafeInteger(sizeBytes) || sizeBytes % BLOCK_SIZE !== 0 || sizeBytes > VOLUME_SIZE_MAX) {
      throw invalid(`a volume's size is a multiple of ${BLOCK_SIZE} bytes up to ${VOLUME_SIZE_MAX}, not ${sizeBytes}`);
    }
    if (sizeBytes <= map.sizeBytes) return false;
    const frame = writer.writeControl({ kind: 'resize', sizeBytes });
    pipeline.newest(frame).apply = () => {
      map.sizeBytes = Math.max(map.sizeBytes, sizeBytes);
    };
    pipeline.transmit();
    await durable(frame.seq);
    await describe({ sizeBytes });
    return true;
  }

  async clone(order: CloneOrder): Promise<void> {
    const { map, set, mustServe } = this.#parts;
    mustServe();
    const snapshot = map.snapshot(order.snapshotId);
    if (snapshot === undefined) throw this.#noSnapshot(order.snapshotId);
    const sources = order.targets.map((target) => {
      const link = set.links.find((candidate) => candidate.member.replicaId === target.sourceReplicaId);
      if (link?.state !== 'in-sync' || link.port === undefined) {
        throw new HoldfastError(
          'UNAVAILABLE',
          `replica ${target.sourceReplicaId} is not in sync now, so nothing can be cloned from it; retry`,
          { reason: 'NotInSync' },
        );
      }
      return { target, port: link.port };
    });
    // Not registered yet: a checkpoint may have to delete segments, which waits for registered clones.
    const checkpoint = await this.#freshCheckpoint();
    if (map.snapshot(order.snapshotId) === undefined) throw this.#noSnapshot(order.snapshotId);
    if (this.#deleting.has(order.snapshotId)) throw busy(`snapshot ${order.snapshotId} is being deleted`);
    const cloning = this.#link(order, sources, snapshot.sizeBytes, checkpoint);
    this.#cloning.set(cloning, order.snapshotId);
    try {
      await cloning;
    } finally {
      this.#cloning.delete(cloning);
    }
  }

  /**
   * A checkpoint that covers every clone entry there is. An order that was cut short leaves one behind; replaying it a second
   * time, behind writes of the source that followed it, would give the new volume those writes.
   */
  async #freshCheckpoint(): Promise<CheckpointPlace> {
    for (;;) {
      const place = await this.#parts.checkpointer.write();
      if (place.coveredThrough >= this.#lastCloneSeq) return place;
    }
  }

  /** Clone entry, sealed segment; then each source replica links what the log consists of now. */
  async #link(
    order: CloneOrder,
    sources: readonly { target: CloneTarget; port: ReplicaPort }[],
    sizeBytes: number,
    checkpoint: CheckpointPlace,
  ): Promise<void> {
    const { writer, table, pipeline, durable, isDead } = this.#parts;
    const frame = writer.writeControl({
      kind: 'clone',
      newVolumeId: order.newVolumeId,
      snapshotId: order.snapshotId,
    });
    this.#lastCloneSeq = frame.seq;
    writer.sealSegment();
    const segments = table.entries().filter((entry) => entry.closed && !entry.dropped && !isDead(entry));
    // Before anything is sent: a commit may let a waiting write into the next segment at once.
    const sealedAt = writer.lastSeq;
    const end = { epoch: this.#parts.reign.epoch, seq: sealedAt, digest: writer.digest.toString('hex') };
    assert(frame.seq < sealedAt, 'the clone entry lies in a sealed segment');
    pipeline.transmit();
    await durable(sealedAt);
    const names = segments.map(({ epoch, ordinal }) => ({ epoch, ordinal }));
    await Promise.all(
      sources.map(({ target, port }) =>
        port.clone({
          superblock: this.#superblock(order, { target, port }, checkpoint, sizeBytes, end),
          segments: names,
        }),
      ),
    );
  }

  #superblock(
    order: CloneOrder,
    { target, port }: { readonly target: CloneTarget; readonly port: ReplicaPort },
    checkpoint: CheckpointPlace,
    sizeBytes: number,
    end: LogPoint,
  ): Superblock {
    const { volume, reign, reigns } = this.#parts;
    return {
      volumeId: order.newVolumeId,
      lineageId: volume.lineageId,
      replicaId: target.member.replicaId,
      incarnationId: target.member.incarnationId,
      nodeId: port.nodeId,
      // What only the host knows is filled in there.
      poolId: zeroUuid as Superblock['poolId'],
      cache: null,
      sizeBytes,
      parameters: order.parameters,
      wrappedKey: volume.wrappedKey,
      promised: reign,
      reigns,
      setVersion: 1,
      members: order.targets.map((one) => one.member),
      flushed: end,
      checkpoint,
      previousCheckpoint: null,
      joining: false,
      retired: false,
    };
  }

  async changed(order: Parameters<Engine['changed']>[0]): ReturnType<Engine['changed']> {
    this.#parts.mustServe();
    const target = this.#snapshot(order.target);
    const base = order.base === null ? undefined : this.#snapshot(order.base);
    if (base !== undefined && base.seq >= target.seq) {
      throw invalid(`snapshot ${order.base} is not older than ${order.target}: the base is the earlier one`);
    }
    const limits = { ranges: order.maxResults, pages: CHANGED_PAGES };
    const { ranges, nextBlock } = await changedRanges(
      this.#parts.map,
      target,
      base,
      Math.floor(order.startingOffset / BLOCK_SIZE),
      limits,
    );
    return {
      volumeSizeBytes: target.sizeBytes,
      extents: ranges.map(([block, count]) => ({ offset: block * BLOCK_SIZE, length: count * BLOCK_SIZE })),
      nextOffset: nextBlock === null ? null : nextBlock * BLOCK_SIZE,
    };
  }

  #snapshot(id: SnapshotId) {
    const snapshot = this.#parts.map.snapshot(id);
    if (snapshot === undefined) throw this.#noSnapshot(id);
    return snapshot;
  }

  #noSnapshot(id: SnapshotId): HoldfastError {
    return notFound(`volume ${this.#parts.volume.volumeId} has no snapshot ${id}`);
  }
}

function busy(what: string): HoldfastError {
  return new HoldfastError('ABORTED', `${what}; retry when that has ended`, { reason: 'Busy' });
}
