// Gives dead segments back: names them in a drop entry and has their files deleted. Owner: one engine; one drop at a time.
//
// A segment may go when
// - it takes no more frames, and nothing refers to it: no map entry of the volume or of a snapshot, and no page, table or list of the
//   newest checkpoint or of the one before, which is the fallback when the newest does not read back;
// - replay from either of these checkpoints begins behind it;
// - a drop entry that names it is durable on every in-sync replica, and with it every frame before, thus all that took its entries away.
// So no checkpoint has to be written for it: pages of the newest one may still name places in it, but replay takes each such entry away
// before anybody reads. Reads, clones and deletions under way are waited for by `deleteSegments`.

import type { Logger } from '../base/index.js';
import type { SegmentName } from '../format/index.js';
import type { BlockMap } from '../hotpath/index.js';
import type { Checkpointer } from './checkpointer.js';
import { HELD_BYTES, HELD_LOOK_BYTES, HELD_LOOK_SHARE } from './limits.js';
import type { LogWriter } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface DropperParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly checkpointer: Checkpointer;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  /** Resolves when everything through seq is durable on all counting replicas. */
  readonly durable: (seq: number) => Promise<void>;
  /** Deletes segment files on every connected replica, after the reads that may need them. */
  readonly deleteSegments: (segments: readonly SegmentName[]) => Promise<void>;
  readonly logger: Logger;
}

export class SegmentDropper {
  readonly #parts: DropperParts;
  #running: Promise<number> | undefined;
  /** Bytes of log at the last look at what is dead and kept. */
  #lookedAt = 0;
  /** Length of what was deleted. */
  droppedBytes = 0;

  constructor(parts: DropperParts) {
    this.#parts = parts;
  }

  /** True when replay may not need the segment any more. */
  isBehind(entry: TableEntry): boolean {
    const oldest = this.#parts.checkpointer.oldestReplayOrdinal;
    return entry.closed && oldest !== null && entry.ordinal < oldest;
  }

  /** Nothing needs the segment, whether it was dropped yet or not. One that a power loss brought back may be on some replicas only. */
  isDead(entry: TableEntry): boolean {
    return this.isBehind(entry) && this.#parts.map.references(entry.slot) === 0;
  }

  /** True when much is dead that replay may still need; nearly always false without a look. */
  holdsMuch(): boolean {
    const { map, table, writer } = this.#parts;
    const step = Math.max(HELD_LOOK_BYTES, table.storedBytes * HELD_LOOK_SHARE);
    if (writer.bytesWritten - this.#lookedAt < step) return false;
    this.#lookedAt = writer.bytesWritten;
    let bytes = 0;
    for (const entry of table.entries())
      if (entry.closed && !this.isBehind(entry) && map.references(entry.slot) === 0) bytes += entry.length;
    return bytes >= HELD_BYTES;
  }

  /** Deletes what is dead; resolves with the bytes won. */
  drop(): Promise<number> {
    this.#running ??= this.#drop().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #drop(): Promise<number> {
    const { table, writer, pipeline, durable, deleteSegments, logger } = this.#parts;
    const dead = table.entries().filter((entry) => this.isDead(entry));
    let bytes = 0;
    for (let i = 0; i < dead.length; i += DROPPED_AT_ONCE) {
      const some = dead.slice(i, i + DROPPED_AT_ONCE);
      const names = some.map(({ epoch, ordinal }) => ({ epoch, ordinal }));
      const frame = writer.writeControl({ kind: 'drop', segments: names });
      for (const entry of some) entry.dropped = true;
      pipeline.transmit();
      await durable(frame.seq);
      await deleteSegments(names);
      await this.#forget(some);
      bytes += some.reduce((sum, entry) => sum + entry.length, 0);
    }
    this.droppedBytes += bytes;
    if (dead.length > 0) logger.info({ segments: dead.length, bytes }, 'dead segments deleted');
    return bytes;
  }

  /** Deletes what an earlier reign had dropped without living to delete the files. */
  async finish(names: readonly SegmentName[]): Promise<void> {
    const { map, table, deleteSegments } = this.#parts;
    const wanted = new Set(names.map((name) => `${name.epoch}/${name.ordinal}`));
    const dead = table
      .entries()
      .filter((entry) => wanted.has(`${entry.epoch}/${entry.ordinal}`) && map.references(entry.slot) === 0);
    if (dead.length === 0) return;
    for (const entry of dead) entry.dropped = true;
    await deleteSegments(dead.map(({ epoch, ordinal }) => ({ epoch, ordinal })));
    await this.#forget(dead);
  }

  /** Not while a checkpoint is written: its pages may still name the slots, then its list of segments must do so, too. */
  #forget(dead: readonly TableEntry[]): Promise<void> {
    const { map, table, checkpointer } = this.#parts;
    return checkpointer.apart(() => {
      for (const { slot } of dead) {
        table.remove(slot);
        map.counts.forget(slot);
      }
    });
  }
}

/** Named by one entry, so that it stays small and the deletion of a large volume's segments begins before all are named. */
const DROPPED_AT_ONCE = 256;
