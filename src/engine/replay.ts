// Builds the map of a volume from its log: the newest checkpoint, then everything after it in order. Sealed segments are
// replayed from their index, open ones by walking their frames.

import { corrupt, HoldfastError, type VolumeId } from '../base/index.js';
import {
  type CheckpointPlace,
  type CheckpointRoot,
  type ControlEntry,
  decodeControl,
  decodeEntry,
  decodeFrame,
  decodeIndexTrailer,
  decodeRoot,
  decodeSegmentSlots,
  decodeSnapshotRoots,
  decodeWords,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_HEADER_SIZE,
  indexItems,
  PAGE_ENTRIES,
  placeLength,
  placeOffset,
  placeSlot,
  placeWord0,
  placeWord1,
  type Reign,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
  type SnapshotRoot,
  segmentFileName,
  TABLE_CHUNK_IDS,
} from '../format/index.js';
import { BlockMap, blocksOf, type KeyRing, kernel, MapNode, MapPage, MapRoot } from '../hotpath/index.js';
import type { LogReader } from './log-reader.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** A map word pair: where a checkpoint's entry lies. */
export type Place = readonly [number, number];

export interface Replayed {
  readonly map: BlockMap;
  /** Where each page, node and root of the last checkpoint lies, by id. */
  readonly places: Map<number, Place>;
  readonly checkpoint: CheckpointPlace | null;
  readonly root: CheckpointRoot | null;
  /** Reigns the log itself names. */
  readonly reigns: Reign[];
  /** Segments that a drop entry named after the checkpoint. */
  readonly dropped: { epoch: number; ordinal: number }[];
  /** Bytes of log replayed over the checkpoint. */
  readonly replayedBytes: number;
}

export interface ReplayInput {
  readonly volumeId: VolumeId;
  readonly table: SegmentTable;
  readonly reader: LogReader;
  readonly keys: KeyRing;
  /** Newest first; the first that reads back completely is used. */
  readonly checkpoints: readonly CheckpointPlace[];
}

export async function replay(input: ReplayInput): Promise<Replayed> {
  const faults: unknown[] = [];
  for (const checkpoint of input.checkpoints) {
    try {
      const loaded = await loadCheckpoint(input, checkpoint);
      return await replayFrom(input, loaded, checkpoint);
    } catch (error) {
      // Only damage sends it to the checkpoint before; a replica that did not answer may have this one whole.
      if (error instanceof HoldfastError && error.code === 'UNAVAILABLE') throw error;
      faults.push(error);
    }
  }
  if (faults.length > 0) throw faults[0];
  // The log's first entry says how large the volume was then; it may have grown after its first snapshot.
  const map = new BlockMap(0);
  return replayFrom(input, { map, places: new Map(), root: null, reigns: [] }, null);
}

type Loaded = Pick<Replayed, 'map' | 'places' | 'root' | 'reigns'>;

async function loadCheckpoint(input: ReplayInput, place: CheckpointPlace): Promise<Loaded> {
  const { reader } = input;
  const head = await reader.read(place.segment, place.frameOffset, FRAME_HEADER_SIZE, (bytes) => {
    const header = decodeFrame(bytes, 0, false);
    return typeof header === 'string' ? `frame header: ${header}` : null;
  });
  const header = decodeFrame(head, 0, false);
  if (typeof header === 'string') throw corrupt(`checkpoint frame: ${header}`);
  const { bytes } = await reader.frame(place.segment, place.frameOffset, FRAME_HEADER_SIZE + header.bodyLength);
  const entry = decodeEntry(bytes, FRAME_HEADER_SIZE, bytes.length);
  if (typeof entry === 'string' || entry.kind !== entryKind.root)
    throw corrupt(`no checkpoint root at ${segmentFileName(place.segment)}, byte ${place.frameOffset}`);
  const root = decodeRoot(bytes, FRAME_HEADER_SIZE, entry.length);
  if (root.coveredThrough !== place.coveredThrough)
    throw corrupt(
      `the checkpoint at ${segmentFileName(place.segment)} covers seq ${root.coveredThrough}, the superblock says ${place.coveredThrough}`,
    );

  // First of all, so that a segment that turns out to be missing can be named.
  for (const where of root.segmentPlaces) {
    const found = await readEntry(input, where, [entryKind.segments]);
    const slots = decodeSegmentSlots(found.bytes, 0, found.length);
    for (const slot of slots) input.table.skipOrdinals(slot.ordinal + 1);
    input.table.list(slots);
  }
  const places = new Map<number, Place>();
  for (let chunk = 0; chunk < root.tablePlaces.length; chunk++) {
    const where = root.tablePlaces[chunk]!;
    if (where[1] === 0) continue;
    const { id, words } = await readWords(input, where, entryKind.table);
    if (id !== chunk) throw corrupt(`table chunk ${chunk} of the checkpoint says it is chunk ${id}`);
    for (let i = 0; i + 1 < words.length; i += 2) {
      if (words[i + 1] !== 0) places.set(chunk * TABLE_CHUNK_IDS + i / 2, [words[i]!, words[i + 1]!]);
    }
  }
  const snapshots: SnapshotRoot[] = [];
  for (const where of root.snapshotPlaces) {
    const found = await readEntry(input, where, [entryKind.snapshots]);
    snapshots.push(...decodeSnapshotRoots(found.bytes, 0, found.length));
  }
  input.table.skipOrdinals(root.nextOrdinal);
  const map = new BlockMap(root.sizeBytes);
  await new TreeLoader(input, places).install(map, root, snapshots);
  return { map, places, root, reigns: [...root.reigns] };
}

/** Reads pages, nodes and roots by id; each once, however many snapshots share it. */
class TreeLoader {
  readonly #input: ReplayInput;
  readonly #places: Map<number, Place>;
  readonly #pages = new Map<number, MapPage>();
  readonly #nodes = new Map<number, MapNode>();

  constructor(input: ReplayInput, places: Map<number, Place>) {
    this.#input = input;
    this.#places = places;
  }

  async install(map: BlockMap, root: CheckpointRoot, snapshots: readonly SnapshotRoot[]): Promise<void> {
    // Births only order snapshots against each other. Snapshot i gets birth i + 1, and what it is the first to hold is born with it.
    const installed = [];
    let birth = 0;
    for (const snapshot of snapshots) {
      birth++;
      installed.push({
        snapshotId: snapshot.snapshotId,
        groupId: snapshot.groupId,
        root: await this.#root(snapshot.rootId, birth),
        birth,
        seq: snapshot.seq,
        sizeBytes: snapshot.sizeBytes,
        wallMs: snapshot.wallMs,
      });
    }
    birth++;
    map.install(await this.#root(root.liveRootId, birth), installed, root.nextId, birth);
  }

  readonly #roots = new Map<number, MapRoot>();

  async #root(id: number, birth: number): Promise<MapRoot> {
    const known = this.#roots.get(id);
    if (known) return known;
    const children = await this.#children(id);
    const nodes: (MapNode | undefined)[] = [];
    for (let i = 0; i < children.length; i++) if (children[i] !== 0) nodes[i] = await this.#node(children[i]!, birth);
    const root = new MapRoot(id, birth, nodes);
    root.dirty = false;
    this.#roots.set(id, root);
    return root;
  }

  async #node(id: number, birth: number): Promise<MapNode> {
    const known = this.#nodes.get(id);
    if (known) return known;
    const children = await this.#children(id);
    const pages: (MapPage | undefined)[] = [];
    for (let i = 0; i < children.length; i++) if (children[i] !== 0) pages[i] = await this.#page(children[i]!, birth);
    const node = new MapNode(id, birth, pages);
    node.dirty = false;
    this.#nodes.set(id, node);
    return node;
  }

  async #page(id: number, birth: number): Promise<MapPage> {
    const known = this.#pages.get(id);
    if (known) return known;
    const found = await readWords(this.#input, this.#place(id), entryKind.page);
    if (found.id !== id || found.words.length !== PAGE_ENTRIES * 2)
      throw corrupt(`map page ${id} reads back as page ${found.id} of ${found.words.length} words`);
    const page = new MapPage(id, birth, found.words);
    page.dirty = false;
    this.#pages.set(id, page);
    return page;
  }

  async #children(id: number): Promise<Uint32Array> {
    const found = await readWords(this.#input, this.#place(id), entryKind.node);
    if (found.id !== id) throw corrupt(`map node ${id} reads back as node ${found.id}`);
    return found.words;
  }

  #place(id: number): Place {
    const place = this.#places.get(id);
    if (place === undefined) throw corrupt(`the checkpoint's table has no place for map id ${id}`);
    return place;
  }
}

async function readEntry(
  input: ReplayInput,
  place: Place,
  kinds: readonly number[],
): Promise<{ bytes: Buffer; length: number }> {
  const segment = input.table.bySlot(placeSlot(place[0]));
  if (segment === undefined)
    throw corrupt(`the checkpoint lies in segment ${input.table.fileOf(placeSlot(place[0]))}, which no replica has`);
  return input.reader.entry(segment, placeOffset(place[1]), placeLength(place[1]), kinds);
}

async function readWords(input: ReplayInput, place: Place, kind: number): Promise<{ id: number; words: Uint32Array }> {
  const found = await readEntry(input, place, [kind]);
  return decodeWords(found.bytes, 0, found.length);
}

async function replayFrom(input: ReplayInput, loaded: Loaded, checkpoint: CheckpointPlace | null): Promise<Replayed> {
  const state: Replayed = { ...loaded, checkpoint, dropped: [], replayedBytes: 0 };
  const from = checkpoint?.replayFrom ?? null;
  let bytes = 0;
  // What was dropped lies before the checkpoint: a gap behind it would give the volume an older state of some blocks.
  let next = from === null ? 1 : null;
  let before: TableEntry | undefined;
  for (const segment of input.table.entries()) {
    if (from !== null && segment.ordinal < from.segment.ordinal) continue;
    const follows = next === null ? segment.ordinal === from!.segment.ordinal : segment.firstSeq === next;
    if (!follows) throw hole(before, from, segment);
    before = segment;
    next = segment.lastSeq + 1;
    const start =
      from !== null && segment.ordinal === from.segment.ordinal && segment.epoch === from.segment.epoch
        ? from.offset
        : SEGMENT_HEADER_SIZE;
    await replaySegment(input, state, segment, Math.max(start, SEGMENT_HEADER_SIZE));
    bytes += segment.length - start;
  }
  return { ...state, replayedBytes: bytes };
}

function hole(before: TableEntry | undefined, from: CheckpointPlace['replayFrom'] | null, after: TableEntry): Error {
  let what = 'the beginning of the log';
  if (before !== undefined) what = `the log between segment ${segmentFileName(before)}`;
  else if (from !== null) what = `the log between segment ${segmentFileName(from.segment)}, byte ${from.offset},`;
  return corrupt(`${what} and segment ${segmentFileName(after)}, which the map needs, is on no replica`);
}

async function replaySegment(input: ReplayInput, state: Replayed, segment: TableEntry, start: number): Promise<void> {
  if (start >= segment.length) return;
  const sealed = await readIndex(input, segment);
  if (sealed === undefined) return walkFrames(input, state, segment, start);
  for (const item of indexItems(sealed, 0)) {
    if (item.offset < start) continue;
    if (item.kind === entryKind.record) {
      applyRecord(state.map, segment.slot, item.block, item.run, item.offset, item.storedLength);
    } else if (isReplayed(item.kind)) {
      const found = await input.reader.entry(segment, item.offset, item.storedLength, [item.kind]);
      applyControl(input, state, decodeControl(found.bytes, 0, item.kind, found.length), item.block);
    }
  }
}

/** The index entry of a sealed segment, or undefined when it has none (an engine left it open). */
async function readIndex(input: ReplayInput, segment: TableEntry): Promise<Buffer | undefined> {
  if (segment.length < SEGMENT_HEADER_SIZE + 64 || !segment.sealed) return undefined;
  const trailerBytes = await input.reader.read(segment, segment.length - 64, 64, (bytes) =>
    decodeIndexTrailer(bytes) === undefined ? 'index trailer' : null,
  );
  const trailer = decodeIndexTrailer(trailerBytes)!;
  const frameLength = segment.length - trailer.frameOffset;
  const { bytes, header } = await input.reader.frame(segment, trailer.frameOffset, frameLength);
  checkMac(input.keys, bytes, header, segment);
  return bytes.subarray(FRAME_HEADER_SIZE);
}

const CHUNK = 1024 * 1024;

async function walkFrames(input: ReplayInput, state: Replayed, segment: TableEntry, start: number): Promise<void> {
  let at = start;
  while (at < segment.length) {
    const { frames, next } = await readFrames(input, segment, at);
    for (const { bytes, offset, header } of frames) {
      checkMac(input.keys, bytes, header, segment);
      applyFrame(input, state, segment, bytes, offset, header.seq);
    }
    at = next;
  }
}

interface WalkedFrame {
  readonly bytes: Buffer;
  readonly offset: number;
  readonly header: { flags: number; bodyLength: number; seq: number; epoch: number };
}

/** Whole frames from `at` on: about a chunk of them, each verified, damaged ones read one by one from another replica. */
async function readFrames(
  input: ReplayInput,
  segment: TableEntry,
  at: number,
): Promise<{ frames: WalkedFrame[]; next: number }> {
  const length = Math.min(CHUNK, segment.length - at);
  const chunk = await input.reader.read(segment, at, length, () => null);
  const frames: WalkedFrame[] = [];
  let position = 0;
  while (position + FRAME_HEADER_SIZE <= length) {
    const header = decodeFrame(chunk, position, true);
    if (typeof header === 'string') {
      if (header === 'short' && frames.length > 0) break;
      const single = await readSingleFrame(input, segment, at + position);
      frames.push({ bytes: single.bytes, offset: at + position, header: single.header });
      position += FRAME_HEADER_SIZE + single.header.bodyLength;
      continue;
    }
    const size = FRAME_HEADER_SIZE + header.bodyLength;
    frames.push({ bytes: chunk.subarray(position, position + size), offset: at + position, header });
    position += size;
  }
  if (frames.length === 0)
    throw corrupt(`segment ${segmentFileName(segment)}, byte ${at}: no whole frame before its end`);
  return { frames, next: at + position };
}

async function readSingleFrame(input: ReplayInput, segment: TableEntry, offset: number) {
  const head = await input.reader.read(segment, offset, FRAME_HEADER_SIZE, (bytes) => {
    const header = decodeFrame(bytes, 0, false);
    return typeof header === 'string' ? `frame header: ${header}` : null;
  });
  const header = decodeFrame(head, 0, false);
  if (typeof header === 'string') throw corrupt(`frame header: ${header}`);
  return input.reader.frame(segment, offset, FRAME_HEADER_SIZE + header.bodyLength);
}

function checkMac(keys: KeyRing, bytes: Buffer, header: { flags: number; epoch: number }, segment: TableEntry): void {
  if ((header.flags & FRAME_FLAG_MAC) === 0 || !keys.knows(header.epoch)) return;
  if (!kernel.macMatches(keys, header.epoch, bytes)) {
    throw corrupt(
      `segment ${segmentFileName(segment)}: a frame's authentication code does not match: it was not written by an engine with this key`,
    );
  }
}

function applyFrame(
  input: ReplayInput,
  state: Replayed,
  segment: TableEntry,
  bytes: Buffer,
  offset: number,
  seq: number,
): void {
  let at = FRAME_HEADER_SIZE;
  while (at < bytes.length) {
    const head = decodeEntry(bytes, at, bytes.length);
    if (typeof head === 'string')
      throw corrupt(`segment ${segmentFileName(segment)}, byte ${offset + at}: entry: ${head}`);
    const stored = Math.ceil(head.length / 64) * 64;
    if (head.kind === entryKind.record) {
      const record = readRecordHeader(bytes, at);
      if (record === undefined)
        throw corrupt(`segment ${segmentFileName(segment)}, byte ${offset + at}: record header contradicts itself`);
      applyRecord(state.map, segment.slot, record.block, record.run, offset + at, stored);
    } else if (isReplayed(head.kind)) {
      applyControl(input, state, decodeControl(bytes, at, head.kind, head.length), seq);
    }
    at += stored;
  }
}

function isReplayed(kind: number): boolean {
  return (
    kind === entryKind.open ||
    kind === entryKind.range ||
    kind === entryKind.freeze ||
    kind === entryKind.snapshotDelete ||
    kind === entryKind.resize ||
    kind === entryKind.clone ||
    kind === entryKind.drop
  );
}

function applyRecord(map: BlockMap, slot: number, block: number, run: number, offset: number, stored: number): void {
  if (block + run > blocksOf(map.sizeBytes)) throw corrupt(`a record of block ${block} lies beyond the volume's end`);
  map.setRun(block, run, placeWord0(slot, 0), placeWord1(offset, stored));
}

function applyControl(input: ReplayInput, state: Replayed, entry: ControlEntry, seq: number): void {
  const { map } = state;
  switch (entry.kind) {
    case 'open':
      state.reigns.push({ epoch: entry.epoch, reignId: entry.reignId });
      map.sizeBytes = Math.max(map.sizeBytes, entry.sizeBytes);
      return;
    case 'range':
      map.clearRange(entry.block, entry.count);
      return;
    case 'freeze':
      map.freeze(entry.snapshotId, entry.groupId, seq, entry.wallMs);
      return;
    case 'snapshotDelete':
      map.deleteSnapshot(entry.snapshotId);
      return;
    case 'resize':
      map.sizeBytes = Math.max(map.sizeBytes, entry.sizeBytes);
      return;
    case 'clone':
      if (entry.newVolumeId === input.volumeId) map.startFrom(entry.snapshotId);
      return;
    case 'drop':
      state.dropped.push(...entry.segments);
      return;
    case 'members':
      return;
  }
}
