// The log's segment table: which slot of a map entry names which segment file. Owner: one engine.

import { assert } from '../base/index.js';
import { type SegmentName, type SegmentSlot, SLOT_MAX, segmentFileName } from '../format/index.js';
import type { SegmentInfo } from './replica-port.js';

export interface TableEntry extends SegmentName {
  readonly slot: number;
  readonly firstSeq: number;
  /** Highest seq in it so far. */
  lastSeq: number;
  /** Bytes of header and frames so far. */
  length: number;
  /** Ends in an index. */
  sealed: boolean;
  /** Nothing is appended any more (sealed, or left behind by an earlier reign). */
  closed: boolean;
}

export class SegmentTable {
  readonly #bySlot = new Map<number, TableEntry>();
  readonly #listed = new Map<number, SegmentName>();
  #nextOrdinal = 0;
  #lastSlot = 0;

  get size(): number {
    return this.#bySlot.size;
  }
  get nextOrdinal(): number {
    return this.#nextOrdinal;
  }
  bySlot(slot: number): TableEntry | undefined {
    return this.#bySlot.get(slot);
  }
  has(name: SegmentName): boolean {
    for (const entry of this.#bySlot.values())
      if (entry.epoch === name.epoch && entry.ordinal === name.ordinal) return true;
    return false;
  }
  /** Finished segments that something refers to, in log order. */
  needed(references: (slot: number) => number): TableEntry[] {
    return this.entries().filter((entry) => entry.closed && references(entry.slot) > 0);
  }
  /** A checkpoint says that these slots were in use. */
  list(slots: readonly SegmentSlot[]): void {
    for (const { slot, epoch, ordinal } of slots) this.#listed.set(slot, { epoch, ordinal });
  }
  /** For messages: the file of a slot, also of one that the log no longer has. */
  fileOf(slot: number): string {
    const name = this.#bySlot.get(slot) ?? this.#listed.get(slot);
    return name === undefined ? `of slot ${slot}` : segmentFileName(name);
  }
  /** A sentence for each segment that something refers to and that no replica had. */
  missing(references: (slot: number) => number): string[] {
    return [...this.#listed.keys()]
      .filter((slot) => !this.#bySlot.has(slot) && references(slot) > 0)
      .map(
        (slot) => `segment ${this.fileOf(slot)} is on no replica, and blocks of the volume or of a snapshot lie in it`,
      );
  }
  /** In log order. */
  entries(): TableEntry[] {
    return [...this.#bySlot.values()].sort((a, b) => a.ordinal - b.ordinal || a.epoch - b.epoch);
  }
  /** Takes over what recovery found. */
  adopt(info: SegmentInfo): void {
    assert(!this.#bySlot.has(info.slot), `two segments of one log claim slot ${info.slot}`);
    this.#bySlot.set(info.slot, {
      epoch: info.epoch,
      ordinal: info.ordinal,
      slot: info.slot,
      firstSeq: info.firstSeq,
      lastSeq: info.lastSeq,
      length: info.length,
      sealed: info.sealed,
      closed: true,
    });
    this.#nextOrdinal = Math.max(this.#nextOrdinal, info.ordinal + 1);
    this.#lastSlot = Math.max(this.#lastSlot, info.slot);
  }
  /** Ordinals below this were used, by segments that may be gone. */
  skipOrdinals(next: number): void {
    this.#nextOrdinal = Math.max(this.#nextOrdinal, next);
  }
  /** Opens the next segment of `epoch`. Slots are taken in a circle, so that one is long unused before it names another segment. */
  open(epoch: number, firstSeq: number): TableEntry {
    let slot = this.#lastSlot;
    do slot = slot >= SLOT_MAX ? 1 : slot + 1;
    while (this.#bySlot.has(slot));
    this.#lastSlot = slot;
    const entry = {
      epoch,
      ordinal: this.#nextOrdinal++,
      slot,
      firstSeq,
      lastSeq: firstSeq - 1,
      length: 0,
      sealed: false,
      closed: false,
    };
    this.#bySlot.set(slot, entry);
    return entry;
  }
  remove(slot: number): void {
    this.#bySlot.delete(slot);
  }
}
