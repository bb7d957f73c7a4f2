// Wins space: has dead segments dropped, has checkpoints written where they hold dead ones, and moves what still lives in mostly dead
// segments (mover.ts) so that these die too. What is worth it and when is decided in cleaning-policy.ts. Owner: one engine; one round at
// a time, woken by what clients write, by freed space and by the maintenance turn.
//
// Order, on which nothing that was acknowledged depends being kept: moved copies are committed before the map names them; a segment is
// named in a drop entry only when nothing refers to it; its file goes only when that entry is durable everywhere (segment-dropper.ts).
// May fail: a victim that no replica has intact is left alone until the next open; anything else is tried again at the next turn.

import { type Clock, HoldfastError, type Logger, messageOf, type TimerHandle } from '../base/index.js';
import { placeSlot, segmentFileName } from '../format/index.js';
import type { BlockMap } from '../hotpath/index.js';
import type { Checkpointer } from './checkpointer.js';
import {
  chooseVictims,
  liveShareOf,
  mostLive,
  movesFor,
  releaseWorth,
  type SegmentState,
  type Urgency,
  urgencyOf,
} from './cleaning-policy.js';
import {
  CLEAN_HELD_MIN,
  CLEAN_IDLE_MS,
  CLEAN_STEP_BYTES,
  MOVE_BATCH_BYTES,
  MOVE_BURST_BYTES,
  MOVE_PAGES_MOST,
  MOVE_RECORDS_MOST,
  SHARED_ASKED_MS,
  VICTIM_QUEUE_BYTES,
  VICTIMS_MOST,
} from './limits.js';
import type { LogReader } from './log-reader.js';
import type { LogWriter } from './log-writer.js';
import type { Mover } from './mover.js';
import type { Pipeline } from './pipeline.js';
import { RecordList } from './record-list.js';
import type { ReplicaPort } from './replica-port.js';
import type { SegmentDropper } from './segment-dropper.js';
import { addRecordsOf } from './segment-records.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface CleanerParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly reader: LogReader;
  readonly mover: Mover;
  readonly dropper: SegmentDropper;
  readonly checkpointer: Checkpointer;
  /** Smallest free space among counting replicas. */
  readonly freeBytes: () => number;
  /** What knows the segments' files: the nearest replica. */
  readonly nearest: () => ReplicaPort | undefined;
  /** Frames may be written: the volume serves, and enough replicas are in sync. */
  readonly mayWrite: () => boolean;
  /** Called after space was won: writes that wait for it may go on. */
  readonly won: () => void;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class Cleaner {
  readonly #parts: CleanerParts;
  #running = false;
  #again = false;
  #stopped = false;
  /** What clients wrote since the last round, and when they wrote last. */
  #written = 0;
  #writtenMs = Number.NEGATIVE_INFINITY;
  /** Bytes that may still be moved for what was written. */
  #allowance = 0;
  #freed = false;
  #later: TimerHandle | undefined;
  /** Slots of chosen victims, best first. */
  #queue: number[] = [];
  /** Slots whose segment other volumes hold too, and when that was asked. */
  #shared = new Set<number>();
  #sharedMs = Number.NEGATIVE_INFINITY;
  /** Segments that could not be read whole, or from which nothing was won. */
  readonly #passedOver = new Set<number>();

  constructor(parts: CleanerParts) {
    this.#parts = parts;
  }

  get stopped(): boolean {
    return this.#stopped || !this.#parts.mayWrite();
  }

  /** No frame is written any more after this. */
  stop(): void {
    this.#stopped = true;
    this.#later?.cancel();
  }

  /** Told of every write that clients make. */
  noteWritten(bytes: number): void {
    this.#written += bytes;
    if (this.#written >= CLEAN_STEP_BYTES) this.wake();
  }
  /** Told when a snapshot was deleted or something trimmed: dead segments are worth a look. */
  noteFreed(): void {
    this.#freed = true;
  }

  /** Does a round soon, unless one is under way: then another follows it. */
  wake(): void {
    if (this.#stopped) return;
    this.#again = true;
    if (this.#running) return;
    this.#running = true;
    void this.#rounds().finally(() => {
      this.#running = false;
    });
  }

  async #rounds(): Promise<void> {
    const { clock, logger } = this.#parts;
    while (this.#again && !this.stopped) {
      this.#again = false;
      try {
        await this.#round();
      } catch (error) {
        if (this.stopped) return;
        logger.warn({ error: messageOf(error) }, 'cleaning will be tried again');
        await clock.sleep(CLEAN_IDLE_MS);
      }
    }
  }

  async #round(): Promise<void> {
    const { clock, dropper } = this.#parts;
    const now = clock.monotonicMs();
    if (this.#written > 0) this.#writtenMs = now;
    const idle = now - this.#writtenMs >= CLEAN_IDLE_MS;
    const urgency = this.#urgency();
    this.#allowance = Math.min(this.#allowance + movesFor(this.#written, urgency), MOVE_BATCH_BYTES);
    this.#written = 0;
    if (!idle) this.#lookAgain();
    if (idle || urgency.short) this.#allowance = MOVE_BATCH_BYTES;
    if ((await dropper.drop()) > 0) this.#parts.won();
    if (urgency.pressure === 0 && !idle && !this.#freed) return;
    if (idle) this.#endIdleSegment();
    await this.#releaseByCheckpoint(urgency, idle);
    if (this.#allowance < MOVE_BURST_BYTES || this.stopped) return;
    const victims = await this.#victims(urgency, idle);
    if (victims.length === 0) return;
    const before = this.#parts.mover.movedBytes;
    await this.#move(await this.#recordsOf(victims), urgency.short || idle);
    this.#allowance -= Math.max(this.#parts.mover.movedBytes - before, MOVE_BURST_BYTES);
    if ((await dropper.drop()) > 0) this.#parts.won();
    // At ease the next one waits for the next turn, so that an idle volume is tidied at a few MiB a second.
    if (urgency.pressure > 0) this.#again = true;
  }

  /** Whoever wrote last may have been the last: then the volume is idle soon, and nothing else would tell. */
  #lookAgain(): void {
    this.#later?.cancel();
    this.#later = this.#parts.clock.after(2 * CLEAN_IDLE_MS, () => this.wake());
  }

  #urgency(): Urgency {
    const { freeBytes, pipeline, table } = this.#parts;
    return urgencyOf(freeBytes() - pipeline.bytesInFlight, table.storedBytes);
  }

  /** Of an idle volume the open segment is closed when most of it is dead: else its last MiB would stay forever. */
  #endIdleSegment(): void {
    const { writer, pipeline } = this.#parts;
    const open = writer.position?.segment;
    if (open === undefined || open.length < CLEAN_HELD_MIN || this.#stateOf(open).liveShare > 0.5) return;
    writer.sealSegment();
    pipeline.transmit();
  }

  /**
   * Segments that are dead, or worth cleaning, but young enough to be replayed, or in which only pieces of checkpoints are left: a
   * checkpoint releases them. The second one from now, in truth; it follows with the next turn.
   */
  async #releaseByCheckpoint(urgency: Urgency, idle: boolean): Promise<void> {
    const { table, map, dropper, checkpointer } = this.#parts;
    let held = 0;
    let behind = 0;
    /** Of live records; pieces of checkpoints may be left. */
    const emptied: number[] = [];
    for (const entry of table.entries()) {
      if (!entry.closed || this.#shared.has(entry.slot)) continue;
      const wonBytes = entry.length * (1 - this.#stateOf(entry).liveShare);
      if (!dropper.isBehind(entry)) {
        if (map.slotLive(entry.slot) === 0 || urgency.pressure > 0) held += wonBytes;
      } else if (map.slotLive(entry.slot) > 0) behind += wonBytes;
      else {
        held += wonBytes;
        if (map.references(entry.slot) > 0) emptied.push(entry.slot);
      }
    }
    const enough = idle || this.#freed ? CLEAN_HELD_MIN : releaseWorth(table.storedBytes, behind);
    if (held < enough || this.stopped) {
      this.#freed = false;
      return;
    }
    for (const slot of emptied) await checkpointer.evacuate(slot);
    await checkpointer.write();
    if ((await dropper.drop()) > 0) this.#parts.won();
  }

  #stateOf(entry: TableEntry): SegmentState {
    const { map, table } = this.#parts;
    const { length: bytes, mapBytes, mapEntries } = entry;
    const live = map.slotLive(entry.slot);
    const pieces = map.references(entry.slot) - live;
    const content = { bytes, blocks: map.slotBlocks(entry.slot), live, pieces, mapBytes, mapEntries };
    return {
      slot: entry.slot,
      bytes,
      liveShare: liveShareOf(content),
      age: (table.nextOrdinal - entry.ordinal) * entry.length,
      shared: this.#shared.has(entry.slot),
    };
  }

  async #victims(urgency: Urgency, idle: boolean): Promise<TableEntry[]> {
    await this.#askShared();
    const { map, table, dropper } = this.#parts;
    if (this.#queue.length === 0) {
      const closed = table
        .entries()
        .filter(
          (entry) => dropper.isBehind(entry) && map.slotLive(entry.slot) > 0 && !this.#passedOver.has(entry.slot),
        );
      const states = closed.map((entry) => this.#stateOf(entry));
      this.#queue = chooseVictims(states, urgency, mostLive(urgency, idle), VICTIM_QUEUE_BYTES).map(({ slot }) => slot);
    }
    const victims: TableEntry[] = [];
    let bytes = 0;
    while (this.#queue.length > 0 && bytes < this.#allowance && victims.length < VICTIMS_MOST) {
      const entry = table.bySlot(this.#queue.shift()!);
      if (entry === undefined) continue;
      victims.push(entry);
      bytes += entry.length * this.#stateOf(entry).liveShare;
    }
    return victims;
  }

  async #askShared(): Promise<void> {
    const now = this.#parts.clock.monotonicMs();
    const port = this.#parts.nearest();
    if (port === undefined || now - this.#sharedMs < SHARED_ASKED_MS) return;
    this.#sharedMs = now;
    const infos = await port.segments();
    this.#shared = new Set(infos.filter((info) => info.links > 1).map((info) => info.slot));
  }

  async #recordsOf(victims: readonly TableEntry[]): Promise<RecordList> {
    const { reader, checkpointer, logger } = this.#parts;
    const records = new RecordList();
    for (const segment of victims) {
      if (this.stopped) break;
      try {
        await addRecordsOf(segment, reader, records);
        await checkpointer.evacuate(segment.slot);
      } catch (error) {
        this.#passOver(segment, error);
        if (!(error instanceof HoldfastError)) throw error;
      }
    }
    logger.debug({ victims: victims.length, records: records.count }, 'cleaning');
    return records;
  }

  #passOver(segment: TableEntry, error: unknown): void {
    if (this.#passedOver.has(segment.slot)) return;
    this.#passedOver.add(segment.slot);
    this.#parts.logger.error(
      { segment: segmentFileName(segment), error: messageOf(error) },
      'a segment can not be cleaned',
    );
  }

  /** Moves what lives of the records, in parts whose map pages may be pinned together. */
  async #move(records: RecordList, fast: boolean): Promise<void> {
    const { map, mover } = this.#parts;
    const mayGo = (bytes: number) => this.#mayGo(bytes, fast);
    const damaged = (segment: TableEntry, error: HoldfastError) => this.#passOver(segment, error);
    let from = 0;
    while (from < records.count && !this.stopped) {
      const part = this.#part(records, from);
      const pinned = await this.#pinned(part.pages, records, from, part.to);
      try {
        await mover.move(mover.living(records, from, part.to, this.#passedOver), mayGo, damaged);
      } finally {
        map.unpinVersions(pinned);
      }
      from = part.to;
    }
  }

  /** Records from `from` on, as many as are looked at together, and the pages they need. */
  #part(records: RecordList, from: number): { to: number; pages: number[] } {
    const { map } = this.#parts;
    const pages = new Set<number>();
    let versions = 0;
    let to = from;
    const end = Math.min(records.count, from + MOVE_RECORDS_MOST);
    for (; to < end && versions < MOVE_PAGES_MOST; to++) {
      for (let page = records.firstPage(to); page <= records.lastPage(to); page++) {
        if (pages.has(page)) continue;
        pages.add(page);
        versions += map.versionCount(page);
      }
    }
    return { to, pages: [...pages] };
  }

  /** Pins every version of these pages. Segments with records[from..to) of a page that can't be read are passed over. */
  async #pinned(pages: number[], records: RecordList, from: number, to: number): Promise<number[]> {
    const { table } = this.#parts;
    if ((await this.#load(pages)) === null) return pages;
    const pinned: number[] = [];
    for (const page of pages) {
      const error = await this.#load([page]);
      if (error === null) pinned.push(page);
      else
        for (let i = from; i < to; i++)
          if (page === records.firstPage(i) || page === records.lastPage(i))
            this.#passOver(table.bySlot(placeSlot(records.word0[i]!))!, error);
    }
    return pinned;
  }

  #load(pages: readonly number[]): Promise<Error | null> {
    return new Promise((resolve) => this.#parts.map.loadVersions(pages, resolve));
  }

  /** Room for the next burst, and between two of them time for the foreground. */
  async #mayGo(bytes: number, fast: boolean): Promise<boolean> {
    const { freeBytes, pipeline, clock } = this.#parts;
    for (let tries = 0; tries < MAY_GO_TRIES; tries++) {
      if (this.stopped) return false;
      const room = freeBytes() - pipeline.bytesInFlight > bytes + MOVE_BURST_BYTES;
      if (room && pipeline.bytesInFlight <= MOVE_BATCH_BYTES) {
        if (!fast) await clock.sleep(MAY_GO_MS);
        return !this.stopped;
      }
      await clock.sleep(MAY_GO_MS);
    }
    return false;
  }
}

const MAY_GO_MS = 5;
const MAY_GO_TRIES = 200;
