// Lists of what a snapshot holds and of what differs between two, as a stream: asked of the volume's engine part by part, the
// next one only when the caller took the last, so that a list of any length costs one part of memory here and no more than a part's
// work at a time there. An engine that moves meanwhile changes nothing: snapshots do not change, and a part names where it begins.

import { HoldfastError, invalid } from '../base/index.js';
import type { EngineOrders } from './engine-orders.js';
import { CHANGED_PART_EXTENTS, ORDER_DEADLINE_MS } from './limits.js';
import type { SnapshotEntry } from './records.js';
import type { Snapshots } from './snapshots.js';

export interface ChangedOrder {
  /** The earlier snapshot of the same volume; null: all that target holds. */
  readonly baseId: string | null;
  readonly targetId: string;
  /** Bytes; what ends at or before it is left out. */
  readonly startingOffset: number;
  /** Extents in one part at most; 0 leaves it to us. */
  readonly maxResults: number;
}

export interface ByteExtent {
  readonly offset: number;
  readonly length: number;
}

export interface ChangedPart {
  /** Of the target, at its instant; the same in all parts. */
  readonly volumeSizeBytes: number;
  readonly extents: readonly ByteExtent[];
}

export class ChangedBlocks {
  readonly #snapshots: Pick<Snapshots, 'get'>;
  readonly #orders: Pick<EngineOrders, 'give'>;

  constructor(snapshots: Pick<Snapshots, 'get'>, orders: Pick<EngineOrders, 'give'>) {
    this.#snapshots = snapshots;
    this.#orders = orders;
  }

  /**
   * At least one part; extents ascending over all of them, exact to 4 KiB, with a gap between any two. Throws INVALID_ARGUMENT (two
   * volumes, the wrong order, a negative maximum), NOT_FOUND (also when a snapshot is deleted meanwhile), OUT_OF_RANGE for a start
   * outside the volume, and what the way to the engine throws: then go on behind the last extent that arrived.
   */
  async *list(order: ChangedOrder, signal: AbortSignal): AsyncGenerator<ChangedPart> {
    const { startingOffset, maxResults } = order;
    if (maxResults < 0) throw invalid(`max_results is negative: ${maxResults}`);
    const target = await this.#snapshots.get(order.targetId);
    const base = order.baseId === null ? null : await this.#snapshots.get(order.baseId);
    if (base !== null) refusePair(base, target);
    const { sizeBytes } = target;
    if (startingOffset < 0 || startingOffset > sizeBytes) {
      throw new HoldfastError(
        'OUT_OF_RANGE',
        `starting_offset ${startingOffset} lies outside of snapshot ${target.id}, which has ${sizeBytes} bytes`,
        { reason: 'BadField' },
      );
    }
    const most = Math.min(maxResults || CHANGED_PART_EXTENTS, CHANGED_PART_EXTENTS);
    let told = false;
    for await (const extents of inLots(this.#extents(target, base, startingOffset, signal), most)) {
      told = true;
      yield { volumeSizeBytes: sizeBytes, extents };
    }
    if (!told) yield { volumeSizeBytes: sizeBytes, extents: [] };
  }

  /** The engine's answers one after the other, extents that touch made one: an answer may end in the middle of a longer one. */
  async *#extents(
    target: SnapshotEntry,
    base: SnapshotEntry | null,
    startingOffset: number,
    signal: AbortSignal,
  ): AsyncGenerator<ByteExtent> {
    const { volumeId } = target;
    const what = `the blocks of snapshot ${target.id}`;
    let held: ByteExtent | undefined;
    for (let from = startingOffset; ; ) {
      signal.throwIfAborted();
      const request = {
        volume_id: volumeId,
        base_snapshot_id: base?.id ?? '',
        target_snapshot_id: target.id,
        starting_offset: from,
        max_results: CHANGED_PART_EXTENTS,
      };
      const answer = await this.#orders.give(volumeId, what, (engine) =>
        engine.Changed(request, { deadlineMs: ORDER_DEADLINE_MS, signal }),
      );
      for (const extent of answer.extents) {
        if (held !== undefined && held.offset + held.length === extent.offset) {
          held = { offset: held.offset, length: held.length + extent.length };
          continue;
        }
        if (held !== undefined) yield held;
        held = extent;
      }
      if (answer.next_offset === 0) break;
      if (answer.next_offset <= from) {
        const message = `the engine of volume ${volumeId} would go on at ${answer.next_offset}, behind ${from}`;
        throw new HoldfastError('INTERNAL', message, { reason: 'Protocol' });
      }
      from = answer.next_offset;
    }
    if (held !== undefined) yield held;
  }
}

function refusePair(base: SnapshotEntry, target: SnapshotEntry): void {
  if (base.id === target.id) throw invalid(`base and target are one snapshot, ${base.id}: nothing differs`);
  if (base.volumeId === target.volumeId) return;
  throw invalid(
    `snapshot ${base.id} shows volume ${base.volumeId} and snapshot ${target.id} volume ${target.volumeId}: compare two of one volume`,
  );
}

async function* inLots(extents: AsyncIterable<ByteExtent>, most: number): AsyncGenerator<readonly ByteExtent[]> {
  let lot: ByteExtent[] = [];
  for await (const extent of extents) {
    lot.push(extent);
    if (lot.length < most) continue;
    yield lot;
    lot = [];
  }
  if (lot.length > 0) yield lot;
}
