// The replica port without a network: the engine of this worker beside its own replica, and the end that a wire session
// drives for an engine elsewhere. Thin: what a port may do is decided by the Replica.
//
// Owner: whoever asked the host for it. States: unfenced -> fenced -> lost (or closed). Acknowledgements come before append()
// returns, an already synced sync() likewise.

import { AssertionError, asHoldfastError, HoldfastError, type NodeId, type ReplicaId } from '../base/index.js';
import type { Reign, SegmentName } from '../format/index.js';
import type {
  AppendItem,
  BatchReplicaPort,
  CloneOrder,
  DescribeUpdate,
  FrameInfo,
  RangesEnded,
  ReadRange,
  ReplicaEvents,
  ReplicaStatus,
  SegmentInfo,
} from '../wire/index.js';
import type { Done, PortHandle, Replica } from './replica.js';

const nothing: Uint8Array = new Uint8Array(0);

export class LocalReplica implements BatchReplicaPort {
  readonly replicaId: ReplicaId;
  readonly nodeId: NodeId;
  readonly local = true;
  readonly #replica: Replica;
  readonly #handle: PortHandle;
  #events: ReplicaEvents | null = null;
  #lost: HoldfastError | null = null;
  /** The batch of an append that ends before the call does: used again and again. */
  readonly #item = { segment: { epoch: 0, ordinal: 0 } as SegmentName, offset: 0, bytes: nothing, lastSeq: 0 };
  readonly #items: readonly AppendItem[] = [this.#item];

  /** `engineElsewhere`: the port is driven for an engine on another node. */
  constructor(replica: Replica, engineElsewhere: boolean) {
    this.#replica = replica;
    this.replicaId = replica.superblock.replicaId;
    this.nodeId = replica.superblock.nodeId;
    this.#handle = {
      reign: null,
      engineElsewhere,
      appended: (seq) => this.#events?.appended(seq),
      lose: (error) => this.#lose(error),
    };
  }

  listen(events: ReplicaEvents): void {
    this.#events = events;
  }

  async fence(reign: Reign): Promise<ReplicaStatus> {
    if (this.#lost !== null) throw this.#lost;
    try {
      return await this.#replica.fence(this.#handle, reign);
    } catch (error) {
      this.#lose(asHoldfastError(error));
      throw error;
    }
  }

  #lose(error: HoldfastError): void {
    if (this.#lost !== null) return;
    this.#lost = error;
    this.#replica.release(this.#handle);
    this.#events?.lost(error);
  }

  /** Runs one call; a refusal because the port is no longer current ends the port. */
  async #guard<T>(call: () => T | Promise<T>): Promise<T> {
    if (this.#lost !== null) throw this.#lost;
    try {
      return await call();
    } catch (error) {
      throw this.#noteRefusal(error);
    }
  }

  #noteRefusal(error: unknown): Error {
    if (error instanceof AssertionError) return error;
    const refusal = this.#replica.refusal(this.#handle);
    if (refusal !== null) this.#lose(refusal);
    return asHoldfastError(error);
  }

  segments(): Promise<SegmentInfo[]> {
    return this.#guard(() => this.#replica.segments(this.#handle));
  }

  frames(segment: SegmentName): Promise<FrameInfo[]> {
    return this.#guard(() => this.#replica.framesOf(this.#handle, segment));
  }

  append(segment: SegmentName, offset: number, bytes: Uint8Array, lastSeq: number): void {
    if (this.#replica.blocked) return this.appendBatch([{ segment, offset, bytes, lastSeq }]);
    const item = this.#item;
    item.segment = segment;
    item.offset = offset;
    item.bytes = bytes;
    item.lastSeq = lastSeq;
    this.appendBatch(this.#items);
    item.bytes = nothing;
  }

  appendBatch(items: readonly AppendItem[]): void {
    if (this.#lost !== null) return;
    const refusal = this.#replica.refusal(this.#handle);
    if (refusal !== null) this.#lose(refusal);
    else this.#replica.append(this.#handle, items);
  }

  sync(throughSeq: number, done: Done, lone = false): void {
    if (this.#lost !== null) done(this.#lost);
    else this.#replica.sync(this.#handle, throughSeq, done, lone);
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
    if (this.#lost !== null) return ended(this.#lost, null);
    this.#replica.read(this.#handle, ranges, (error, rows) => {
      // What ends after the port was lost ends with the reason of that.
      ended(this.#lost ?? (error === null ? null : this.#noteRefusal(error)), rows);
    });
  }

  confirm(done: Done): void {
    done(this.#lost ?? this.#replica.refusal(this.#handle));
  }

  cut(seq: number): Promise<void> {
    return this.#guard(() => this.#replica.cut(this.#handle, seq));
  }

  deleteSegments(segments: readonly SegmentName[]): Promise<void> {
    return this.#guard(() => this.#replica.deleteSegments(this.#handle, segments));
  }

  describe(update: DescribeUpdate): Promise<void> {
    return this.#guard(() => this.#replica.describe(this.#handle, update));
  }

  repair(segment: SegmentName, offset: number, bytes: Uint8Array): Promise<void> {
    return this.#guard(() => this.#replica.repair(this.#handle, segment, offset, bytes));
  }

  freeBytes(): number {
    return this.#replica.freeBytes;
  }

  clone(order: CloneOrder): Promise<void> {
    return this.#guard(() => this.#replica.clone(this.#handle, order));
  }

  usage(): Promise<{ storedBytes: number; sharedBytes: number }> {
    return this.#guard(() => this.#replica.usage());
  }

  close(): void {
    if (this.#lost !== null) return;
    this.#lost = new HoldfastError('UNAVAILABLE', `the port to replica ${this.replicaId} was closed`, {
      reason: 'Closed',
    });
    this.#replica.release(this.#handle);
  }
}
