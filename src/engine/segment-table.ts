// The log's segment table: which slot of a map entry names which segment file. Owner: one engine. What the map holds of each segment
// (live entries, blocks) is counted by the map.

import { assert } from '../base/index.js';
import { type SegmentName, SLOT_MAX, segmentFileName } from '../format/index.js';
import type { SegmentInfo } from './replica-port.js';

export interface TableEntry extends SegmentName {
  readonly slot: number;
  readonly firstSeq: number;
  /** Highest seq in it so far. */
  lastSeq: number;
  /** Bytes of header and frames so far. */
  length: number;
  /** Of entries other than records, put there in this reign: the map's, nearly all of them. */
  mapBytes: number;
  mapEntries: number;
  /** Ends in an index. */
  sealed: boolean;
  /** Nothing is appended any more (sealed, or left behind by an earlier reign). */
  closed: boolean;
  /** Named in a drop entry: its file is going, or gone. */
  dropped: boolean;
}

export class SegmentTable {
  readonly #bySlot = new Map<number, TableEntry>();
  readonly #names = new Set<string>();
  /** Slots in use by a checkpoint whose segment no replica had. */
  readonly #absent = new Map<number, Pick<TableEntry, 'epoch' | 'ordinal' | 'firstSeq'>>();
  /** In log order; undefined when that has to be found anew. */
  #ordered: TableEntry[] | undefined;
  #nextOrdinal = 0;
  #lastSlot = 0;
  /** The segment that grows, and the length of all others. */
  #growing: TableEntry | undefined;
  #restBytes = 0;

  get size(): number {
    return this.#bySlot.size;
  }
  get nextOrdinal(): number {
    return this.#nextOrdinal;
  }
  /** Bytes of all segments. */
  get storedBytes(): number {
    return this.#restBytes + (this.#growing?.length ?? 0);
  }
  /** Of the segments with frames above `seq`: what a replica that ends there has to be sent at most. */
  bytesAfter(seq: number): number {
    let bytes = 0;
    for (const { lastSeq, length } of this.#bySlot.values()) if (lastSeq > seq) bytes += length;
    return bytes;
  }
  bySlot(slot: number): TableEntry | undefined {
    return this.#bySlot.get(slot);
  }
  has(name: SegmentName): boolean {
    return this.#names.has(segmentFileName(name));
  }
  /** Finished segments that something refers to, in log order. */
  needed(references: (slot: number) => number): TableEntry[] {
    return this.entries().filter((entry) => entry.closed && references(entry.slot) > 0);
  }
  /** A checkpoint says that this slot was in use. */
  list(slot: number, name: Pick<TableEntry, 'epoch' | 'ordinal' | 'firstSeq'>): void {
    this.skipOrdinals(name.ordinal + 1);
    // A slot that was in use then is not given out first: a checkpoint may still tell of it.
    this.#lastSlot = Math.max(this.#lastSlot, slot);
    if (!this.#bySlot.has(slot)) {
      const { epoch, ordinal, firstSeq } = name;
      this.#absent.set(slot, { epoch, ordinal, firstSeq });
    }
  }
  /** What a checkpoint is to say of a slot: also of one whose segment is lost, for as long as entries name it. */
  listed(slot: number): Pick<TableEntry, 'epoch' | 'ordinal' | 'firstSeq'> | undefined {
    return this.#bySlot.get(slot) ?? this.#absent.get(slot);
  }
  /** For messages: the file of a slot, also of one that the log no longer has. */
  fileOf(slot: number): string {
    const name = this.#bySlot.get(slot) ?? this.#absent.get(slot);
    return name === undefined ? `of slot ${slot}` : segmentFileName(name);
  }
  /** A sentence for each segment that something refers to and that no replica had. */
  missing(references: (slot: number) => number): string[] {
    return [...this.#absent.keys()]
      .filter((slot) => !this.#bySlot.has(slot) && references(slot) > 0)
      .map(
        (slot) => `segment ${this.fileOf(slot)} is on no replica, and blocks of the volume or of a snapshot lie in it`,
      );
  }
  /** In log order. */
  entries(): readonly TableEntry[] {
    this.#ordered ??= [...this.#bySlot.values()].sort((a, b) => a.ordinal - b.ordinal || a.epoch - b.epoch);
    return this.#ordered;
  }
  /** Takes over what recovery found. */
  adopt(info: SegmentInfo): void {
    assert(!this.#bySlot.has(info.slot), `two segments of one log claim slot ${info.slot}`);
    this.#add({
      epoch: info.epoch,
      ordinal: info.ordinal,
      slot: info.slot,
      firstSeq: info.firstSeq,
      lastSeq: info.lastSeq,
      length: info.length,
      mapBytes: 0,
      mapEntries: 0,
      sealed: info.sealed,
      closed: true,
      dropped: false,
    });
    this.#ordered = undefined;
    this.#restBytes += info.length;
    this.#nextOrdinal = Math.max(this.#nextOrdinal, info.ordinal + 1);
    this.#lastSlot = Math.max(this.#lastSlot, info.slot);
  }
  #add(entry: TableEntry): void {
    this.#bySlot.set(entry.slot, entry);
    this.#names.add(segmentFileName(entry));
  }
  /** Ordinals below this were used, by segments that may be gone. */
  skipOrdinals(next: number): void {
    this.#nextOrdinal = Math.max(this.#nextOrdinal, next);
  }
  /** Opens the next segment of `epoch`. Slots are taken in a circle, so that one is long unused before it names another segment. */
  open(epoch: number, firstSeq: number): TableEntry {
    let slot = this.#lastSlot;
    do slot = slot >= SLOT_MAX ? 1 : slot + 1;
    while (this.#bySlot.has(slot) || this.#absent.has(slot));
    this.#lastSlot = slot;
    const entry = {
      epoch,
      ordinal: this.#nextOrdinal++,
      slot,
      firstSeq,
      lastSeq: firstSeq - 1,
      length: 0,
      mapBytes: 0,
      mapEntries: 0,
      sealed: false,
      closed: false,
      dropped: false,
    };
    this.#add(entry);
    this.#ordered?.push(entry);
    this.#restBytes += this.#growing?.length ?? 0;
    this.#growing = entry;
    return entry;
  }
  remove(slot: number): void {
    const entry = this.#bySlot.get(slot);
    if (entry === undefined) return;
    if (entry === this.#growing) this.#growing = undefined;
    else this.#restBytes -= entry.length;
    this.#bySlot.delete(slot);
    this.#names.delete(segmentFileName(entry));
    this.#ordered = undefined;
  }
}
