// Puts one cut of the map into the log, a frame at a time. Owner: the checkpointer, which lets requests go on between two frames.

import {
  encodeDelta,
  encodePage,
  encodeRoot,
  encodeSegmentSlots,
  encodeSnapshotRoots,
  encodeTable,
  PAGE_ENTRIES,
  type Place,
  type Reign,
  SEGMENTS_PER_CHUNK,
  type SegmentSlot,
} from '../format/index.js';
import { type BlockMap, deltaPays, type MapCut, type SlotCut } from '../hotpath/index.js';
import type { ChunkPlaces } from './checkpoint-lists.js';
import { CHECKPOINT_FRAME_MAX } from './limits.js';
import type { Frame, LogWriter } from './log-writer.js';
import type { SegmentTable } from './segment-table.js';

export interface CheckpointLists {
  readonly table: ChunkPlaces;
  readonly segments: ChunkPlaces;
  readonly snapshots: ChunkPlaces;
}

export interface CheckpointJob {
  readonly map: BlockMap;
  readonly cut: MapCut;
  readonly segments: SegmentTable;
  readonly lists: CheckpointLists;
  readonly writer: LogWriter;
  readonly reigns: readonly Reign[];
  readonly coveredThrough: number;
  /** Slots of places that nothing needs any more once this checkpoint counts. */
  readonly superseded: number[];
}

const noChanges = new Uint32Array(PAGE_ENTRIES / 32);

/** Yields each frame once it was emitted; the last one carries the root. */
export function* checkpointFrames(job: CheckpointJob): Generator<Frame> {
  const { map, cut, lists, superseded } = job;
  const out = new EntryFrames(job.writer);
  for (const page of cut.pages) {
    const spent = deltaPays(page);
    const { id, number } = page.page;
    const entry =
      spent > 0
        ? encodeDelta(id, number, page.words, page.changed ?? noChanges, spent)
        : encodePage(id, number, page.words);
    yield* out.add(entry, (place) => map.wrote(page, place, spent > 0, spent, superseded));
  }
  yield* out.flush();
  for (const chunk of map.table.takeDirtyChunks()) {
    const words = map.table.chunkWords(chunk);
    if (words === undefined) lists.table.set(chunk, null, superseded);
    else yield* out.add(encodeTable(chunk, words), (place) => lists.table.set(chunk, place, superseded));
  }
  for (const slots of cut.slots) {
    const listed = segmentSlots(job.segments, slots);
    if (listed.length === 0) lists.segments.set(slots.chunk, null, superseded);
    else
      yield* out.add(encodeSegmentSlots(slots.chunk, listed), (place) =>
        lists.segments.set(slots.chunk, place, superseded),
      );
  }
  for (const { chunk, snapshots } of cut.snapshots) {
    if (snapshots.length === 0) lists.snapshots.set(chunk, null, superseded);
    else
      yield* out.add(encodeSnapshotRoots(chunk, snapshots), (place) => lists.snapshots.set(chunk, place, superseded));
  }
  yield* out.flush();
  const root = encodeRoot({
    coveredThrough: job.coveredThrough,
    sizeBytes: cut.sizeBytes,
    nextId: cut.nextId,
    birth: cut.birth,
    nextOrdinal: job.segments.nextOrdinal,
    reigns: job.reigns,
    tablePlaces: lists.table.all,
    segmentPlaces: lists.segments.all,
    snapshotPlaces: lists.snapshots.all,
  });
  yield job.writer.writeEntries([root]).frame;
}

function segmentSlots(segments: SegmentTable, cut: SlotCut): SegmentSlot[] {
  const slots: SegmentSlot[] = [];
  for (let i = 0; i < SEGMENTS_PER_CHUNK; i++) {
    const slot = cut.chunk * SEGMENTS_PER_CHUNK + i;
    const entry = segments.listed(slot);
    if (entry === undefined || (cut.live[i] === 0 && segments.bySlot(slot) === undefined)) continue;
    const { epoch, ordinal, firstSeq } = entry;
    slots.push({ slot, epoch, ordinal, firstSeq, live: cut.live[i]!, blocks: cut.blocks[i]! });
  }
  return slots;
}

/** Gathers entries into frames of bounded size and tells each where it was put. */
class EntryFrames {
  readonly #writer: LogWriter;
  #entries: Buffer[] = [];
  #placed: ((place: Place) => void)[] = [];
  #bytes = 0;

  constructor(writer: LogWriter) {
    this.#writer = writer;
  }
  *add(entry: Buffer, placed: (place: Place) => void): Generator<Frame> {
    if (this.#bytes + entry.length > CHECKPOINT_FRAME_MAX) yield* this.flush();
    this.#entries.push(entry);
    this.#placed.push(placed);
    this.#bytes += entry.length;
  }
  *flush(): Generator<Frame> {
    if (this.#entries.length === 0) return;
    const placed = this.#placed;
    const { frame, places } = this.#writer.writeEntries(this.#entries);
    this.#entries = [];
    this.#placed = [];
    this.#bytes = 0;
    placed.forEach((tell, i) => {
      tell(places[i]!);
    });
    yield frame;
  }
}
