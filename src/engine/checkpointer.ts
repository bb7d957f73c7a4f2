// Writes checkpoints of the map into the log, and gives dead segments back. Owner: one engine.
//
// A checkpoint is taken in one turn: every changed page, node and root is serialised as it is now (all frames through
// `coveredThrough` applied, none after), so that nothing has to be copied while writes go on. It counts once its root is durable on
// all counting replicas and their superblocks name it. Replay starts at the oldest frame that was not committed then.
//
// A segment is deleted only when nothing referred to it at the *previous* checkpoint already: that one is the fallback when
// the newest does not read back, and it must still find everything it names.

import { HoldfastError, type Logger } from '../base/index.js';
import {
  type CheckpointPlace,
  encodeNode,
  encodePage,
  encodeRoot,
  encodeSegmentSlots,
  encodeSnapshotRoots,
  encodeTable,
  placeSlot,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENTS_PER_CHUNK,
  type SegmentName,
  SNAPSHOTS_PER_CHUNK,
  TABLE_CHUNK_IDS,
} from '../format/index.js';
import type { BlockMap, MapNode, MapPage, MapRoot } from '../hotpath/index.js';
import { CHECKPOINT_DIRTY_PAGES, CHECKPOINT_FRAME_MAX, CHECKPOINT_LOG_BYTES } from './limits.js';
import type { Frame, LogWriter } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { Place } from './replay.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface CheckpointParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  /** Places of what earlier checkpoints wrote, by id; each counts as a reference of its segment. */
  readonly places: Map<number, Place>;
  readonly reigns: readonly Reign[];
  readonly committed: () => number;
  /** Resolves when everything through seq is durable on all counting replicas. */
  readonly durable: (seq: number) => Promise<void>;
  /** Puts the place into the superblock of every connected replica of the set; resolves with the nodes that did not take it. */
  readonly describe: (place: CheckpointPlace) => Promise<readonly string[]>;
  /** Deletes segment files on every connected replica, after the reads that may need them. */
  readonly deleteSegments: (segments: readonly SegmentName[]) => Promise<void>;
  readonly logger: Logger;
}

export class Checkpointer {
  readonly #parts: CheckpointParts;
  readonly #dirtyChunks = new Set<number>();
  readonly #chunkPlaces: Place[] = [];
  /** Places of lists that are written whole each time. */
  #listPlaces: Place[] = [];
  #writtenAt = 0;
  #running: Promise<CheckpointPlace> | undefined;
  #deadBefore = new Set<number>();
  /** Places that no longer count once a checkpoint without them does; those of failed attempts wait for the next. */
  #superseded: Place[] = [];
  #current: CheckpointPlace | null;
  #hasNews = false;

  constructor(
    parts: CheckpointParts,
    current: CheckpointPlace | null,
    tablePlaces: readonly Place[],
    replayedBytes: number,
  ) {
    this.#parts = parts;
    this.#current = current;
    this.#chunkPlaces = tablePlaces.map((place) => [place[0], place[1]] as const);
    for (const place of [...parts.places.values(), ...this.#chunkPlaces]) this.#refer(place, 1);
    this.#writtenAt = -replayedBytes;
  }

  get current(): CheckpointPlace | null {
    return this.#current;
  }

  /** True when the log since the last checkpoint, or what it keeps in memory, has grown past its budget, or space can be won. */
  due(): boolean {
    if (this.#running !== undefined) return false;
    const { writer, map } = this.#parts;
    return (
      writer.bytesWritten - this.#writtenAt > CHECKPOINT_LOG_BYTES ||
      map.dirtyPages > CHECKPOINT_DIRTY_PAGES ||
      this.#spaceToWin()
    );
  }

  #spaceToWin(): boolean {
    const { table, map } = this.#parts;
    for (const entry of table.entries())
      if (entry.closed && map.references(entry.slot) === 0 && this.#hasNews) return true;
    return false;
  }
  /** Told when a snapshot was deleted or much was trimmed or overwritten: dead segments are worth a look. */
  noteFreed(): void {
    this.#hasNews = true;
  }

  /** Writes a checkpoint unless one is being written, and waits until it counts. */
  write(): Promise<CheckpointPlace> {
    this.#running ??= this.#write().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #write(): Promise<CheckpointPlace> {
    const { map, writer, pipeline, places } = this.#parts;
    const coveredThrough = this.#parts.committed();
    const oldest = pipeline.oldest;
    const superseded = this.#superseded;
    for (const id of map.takeFreedIds()) this.#replace(places, id, undefined, superseded);
    const out = new EntryBatches(writer);
    this.#writeTree(out, superseded);
    const lists = this.#writeLists(out, superseded);
    const rootFrame = out.single(
      encodeRoot({
        coveredThrough,
        sizeBytes: map.sizeBytes,
        nextId: map.nextId,
        liveRootId: map.root.id,
        nextOrdinal: this.#parts.table.nextOrdinal,
        reigns: this.#parts.reigns,
        tablePlaces: this.#chunkPlaces,
        ...lists,
      }),
    );
    pipeline.transmit();
    const replayFrame = oldest ?? out.first!;
    const place: CheckpointPlace = {
      coveredThrough,
      segment: nameOf(rootFrame.segment),
      frameOffset: frameStart(rootFrame),
      replayFrom: { segment: nameOf(replayFrame.segment), offset: frameStart(replayFrame) },
    };
    this.#hasNews = false;
    const dead = this.#deadSlots(replayFrame.segment.ordinal);
    this.#writtenAt = writer.bytesWritten;
    try {
      await this.#parts.durable(rootFrame.seq);
      const refused = await this.#parts.describe(place);
      if (refused.length > 0)
        throw new HoldfastError(
          'RESOURCE_EXHAUSTED',
          `no superblock names the new checkpoint on ${refused.join(', ')}`,
        );
    } catch (error) {
      // Some superblock still names an older one: what that one needs must stay.
      this.#deadBefore.clear();
      this.#hasNews = true;
      throw error;
    }
    this.#current = place;
    for (const old of superseded.splice(0)) this.#refer(old, -1);
    await this.#drop(dead);
    return place;
  }

  /** Changed pages, nodes and roots of the live tree and of all snapshots; then the table chunks that place them. */
  #writeTree(out: EntryBatches, superseded: Place[]): void {
    const { map, places } = this.#parts;
    const record = (id: number) => (place: Place) => this.#replace(places, id, place, superseded);
    const roots: MapRoot[] = [map.root];
    for (const snapshot of map.snapshots) roots.push(snapshot.root);
    for (const root of roots) {
      for (const node of root.nodes) {
        if (node === undefined || !(node.dirty || root.dirty || node.pages.some((page) => page?.dirty))) continue;
        for (const page of node.pages) {
          if (!page?.dirty) continue;
          out.add(encodePage(page.id, page.words), record(page.id));
          map.cleaned(page);
        }
        if (!node.dirty) continue;
        out.add(encodeNode(node.id, childIds(node.pages, node.pages.length)), record(node.id));
        node.dirty = false;
      }
      if (!root.dirty) continue;
      out.add(encodeNode(root.id, childIds(root.nodes, Math.max(root.nodes.length, 1))), record(root.id));
      root.dirty = false;
    }
    out.flush();
    this.#writeTable(out, superseded);
  }

  #writeTable(out: EntryBatches, superseded: Place[]): void {
    const { places } = this.#parts;
    for (const chunk of [...this.#dirtyChunks].sort((a, b) => a - b)) {
      const words = new Uint32Array(TABLE_CHUNK_IDS * 2);
      let used = false;
      for (let i = 0; i < TABLE_CHUNK_IDS; i++) {
        const place = places.get(chunk * TABLE_CHUNK_IDS + i);
        if (place === undefined) continue;
        used = true;
        words[i * 2] = place[0];
        words[i * 2 + 1] = place[1];
      }
      while (this.#chunkPlaces.length <= chunk) this.#chunkPlaces.push([0, 0]);
      const old = this.#chunkPlaces[chunk]!;
      if (old[1] !== 0) superseded.push(old);
      this.#chunkPlaces[chunk] = [0, 0];
      if (!used) continue;
      out.add(encodeTable(chunk, words), (place) => {
        this.#chunkPlaces[chunk] = place;
        this.#refer(place, 1);
      });
    }
    this.#dirtyChunks.clear();
    out.flush();
  }

  #writeLists(out: EntryBatches, superseded: Place[]): { segmentPlaces: Place[]; snapshotPlaces: Place[] } {
    superseded.push(...this.#listPlaces);
    this.#listPlaces = [];
    const keep = (into: Place[]) => (place: Place) => {
      into.push(place);
      this.#listPlaces.push(place);
      this.#refer(place, 1);
    };
    const segmentPlaces: Place[] = [];
    const snapshotPlaces: Place[] = [];
    const entries = this.#parts.table.entries();
    for (let i = 0; i < entries.length; i += SEGMENTS_PER_CHUNK)
      out.add(encodeSegmentSlots(entries.slice(i, i + SEGMENTS_PER_CHUNK)), keep(segmentPlaces));
    const snapshots = [...this.#parts.map.snapshots].map((snapshot) => ({ ...snapshot, rootId: snapshot.root.id }));
    for (let i = 0; i < snapshots.length; i += SNAPSHOTS_PER_CHUNK)
      out.add(encodeSnapshotRoots(snapshots.slice(i, i + SNAPSHOTS_PER_CHUNK)), keep(snapshotPlaces));
    out.flush();
    return { segmentPlaces, snapshotPlaces };
  }

  #replace(places: Map<number, Place>, id: number, place: Place | undefined, superseded: Place[]): void {
    const old = places.get(id);
    if (old !== undefined) superseded.push(old);
    if (place === undefined) places.delete(id);
    else {
      places.set(id, place);
      this.#refer(place, 1);
    }
    this.#dirtyChunks.add(Math.floor(id / TABLE_CHUNK_IDS));
  }

  #refer(place: Place, count: 1 | -1): void {
    if (place[1] !== 0) this.#parts.map.addReferences(placeSlot(place[0]), count);
  }

  /** Slots that nothing refers to now and that replay from here does not pass; returns those that were dead last time too. */
  #deadSlots(replayOrdinal: number): TableEntry[] {
    const { table, map } = this.#parts;
    const dead = table
      .entries()
      .filter((entry) => entry.closed && entry.ordinal < replayOrdinal && map.references(entry.slot) === 0);
    const twice = dead.filter((entry) => this.#deadBefore.has(entry.slot));
    this.#deadBefore = new Set(dead.map((entry) => entry.slot));
    // A second look is due even if nothing else happens.
    if (dead.length > twice.length) this.#hasNews = true;
    return twice;
  }

  /** Deletes what an earlier reign had dropped without living to delete the files. */
  async finishDrop(names: readonly SegmentName[]): Promise<void> {
    const { table, map } = this.#parts;
    const wanted = new Set(names.map((name) => `${name.epoch}/${name.ordinal}`));
    const left = table.entries().filter((entry) => wanted.has(`${entry.epoch}/${entry.ordinal}`));
    const dead = left.filter((entry) => map.references(entry.slot) === 0);
    if (dead.length === 0) return;
    await this.#parts.deleteSegments(dead.map(nameOf));
    for (const entry of dead) table.remove(entry.slot);
  }

  async #drop(dead: readonly TableEntry[]): Promise<void> {
    if (dead.length === 0) return;
    const { writer, pipeline, table } = this.#parts;
    const names = dead.map(nameOf);
    const frame = writer.writeControl({ kind: 'drop', segments: names });
    pipeline.transmit();
    await this.#parts.durable(frame.seq);
    await this.#parts.deleteSegments(names);
    for (const entry of dead) {
      table.remove(entry.slot);
      this.#deadBefore.delete(entry.slot);
    }
    this.#parts.logger.info({ segments: names.length }, 'dead segments deleted');
  }
}

/** Gathers entries into frames of bounded size and tells each where it was put. */
class EntryBatches {
  readonly #writer: LogWriter;
  #entries: Buffer[] = [];
  #placed: ((place: Place) => void)[] = [];
  #bytes = 0;
  first: Frame | undefined;

  constructor(writer: LogWriter) {
    this.#writer = writer;
  }
  add(entry: Buffer, placed: (place: Place) => void): void {
    if (this.#bytes + entry.length > CHECKPOINT_FRAME_MAX) this.flush();
    this.#entries.push(entry);
    this.#placed.push(placed);
    this.#bytes += entry.length;
  }
  flush(): void {
    if (this.#entries.length === 0) return;
    const placed = this.#placed;
    const { frame, places } = this.#writer.writeEntries(this.#entries);
    this.first ??= frame;
    this.#entries = [];
    this.#placed = [];
    this.#bytes = 0;
    placed.forEach((tell, i) => {
      tell(places[i]!);
    });
  }
  /** One entry in a frame of its own. */
  single(entry: Buffer): Frame {
    this.flush();
    const { frame } = this.#writer.writeEntries([entry]);
    this.first ??= frame;
    return frame;
  }
}

function childIds(children: readonly (MapNode | MapPage | undefined)[], length: number): Uint32Array {
  const ids = new Uint32Array(length);
  for (let i = 0; i < length; i++) ids[i] = children[i]?.id ?? 0;
  return ids;
}

function nameOf(segment: SegmentName): SegmentName {
  return { epoch: segment.epoch, ordinal: segment.ordinal };
}

/** Where the frame's header is, the segment's header left out. */
function frameStart(frame: Frame): number {
  return frame.offset === 0 ? SEGMENT_HEADER_SIZE : frame.offset;
}
