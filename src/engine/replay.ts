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
  decodeMove,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_HEADER_SIZE,
  INDEX_MOVED_RECORD,
  indexItems,
  type Reign,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
  segmentFileName,
} from '../format/index.js';
import { BlockMap, type KeyRing, kernel, type PageCache } from '../hotpath/index.js';
import type { EntrySource } from './entry-source.js';
import { loadCheckpoint } from './load-checkpoint.js';
import type { LogReader } from './log-reader.js';
import { readPagesFrom } from './page-source.js';
import { ReplayMoves, ReplayRecords } from './replay-records.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface Replayed {
  readonly map: BlockMap;
  readonly checkpoint: CheckpointPlace | null;
  readonly root: CheckpointRoot | null;
  /** Reigns the log itself names. */
  readonly reigns: Reign[];
  /** Segments that a drop entry named after the checkpoint. */
  readonly dropped: { epoch: number; ordinal: number }[];
  /** The newest in-sync set that the log behind the checkpoint names, as far as it was read. */
  readonly set: SetNamed | null;
  /** Log replayed over the checkpoint. */
  readonly replayedBytes: number;
  readonly replayedRecords: number;
}

export type SetNamed = Pick<Extract<ControlEntry, { kind: 'members' }>, 'setVersion' | 'members'>;

export interface ReplayInput {
  readonly volumeId: VolumeId;
  readonly table: SegmentTable;
  readonly reader: LogReader;
  readonly source: EntrySource;
  readonly pages: PageCache;
  readonly keys: KeyRing;
  /** Reads what sealed segments say of in-sync sets, which the map does not need. */
  readonly noteSets: boolean;
  /** Newest first; the first that reads back completely is used. */
  readonly checkpoints: readonly CheckpointPlace[];
}

export async function replay(input: ReplayInput): Promise<Replayed> {
  const faults: unknown[] = [];
  for (const checkpoint of input.checkpoints) {
    let map: BlockMap | undefined;
    try {
      const loaded = await loadCheckpoint(input, checkpoint);
      map = loaded.map;
      return await replayFrom(input, { ...loaded, reigns: [...loaded.root.reigns] }, checkpoint);
    } catch (error) {
      map?.close();
      // Only damage sends it to the checkpoint before; a replica that did not answer may have this one whole.
      if (error instanceof HoldfastError && error.code === 'UNAVAILABLE') throw error;
      faults.push(error);
    }
  }
  if (faults.length > 0) throw faults[0];
  // The log's first entry says how large the volume was then; it may have grown after its first snapshot.
  const map = new BlockMap(0, input.pages);
  return replayFrom(input, { map, root: null, reigns: [] }, null);
}

type Loaded = Pick<Replayed, 'map' | 'root' | 'reigns'>;

interface State extends Loaded {
  readonly dropped: { epoch: number; ordinal: number }[];
  readonly records: ReplayRecords;
  set: SetNamed | null;
}

async function replayFrom(input: ReplayInput, loaded: Loaded, checkpoint: CheckpointPlace | null): Promise<Replayed> {
  const { map } = loaded;
  map.connect(readPagesFrom(input.source));
  const state: State = { ...loaded, dropped: [], records: new ReplayRecords(map), set: null };
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
  await state.records.flush();
  const { root, reigns, dropped, set } = state;
  return { map, root, reigns, dropped, set, checkpoint, replayedBytes: bytes, replayedRecords: map.recordsStored };
}

function hole(before: TableEntry | undefined, from: CheckpointPlace['replayFrom'] | null, after: TableEntry): Error {
  let what = 'the beginning of the log';
  if (before !== undefined) what = `the log between segment ${segmentFileName(before)}`;
  else if (from !== null) what = `the log between segment ${segmentFileName(from.segment)}, byte ${from.offset},`;
  return corrupt(`${what} and segment ${segmentFileName(after)}, which the map needs, is on no replica`);
}

async function replaySegment(input: ReplayInput, state: State, segment: TableEntry, start: number): Promise<void> {
  if (start >= segment.length) return;
  const sealed = await readIndex(input, segment);
  if (sealed === undefined) return walkFrames(input, state, segment, start);
  let moves: ReplayMoves | undefined;
  for (const item of indexItems(sealed, 0)) {
    if (item.offset < start) continue;
    if (item.kind === INDEX_MOVED_RECORD) {
      if (moves === undefined)
        throw corrupt(`segment ${segmentFileName(segment)}: a moved record without a move entry`);
      moves.add(item.block, item.run, item.offset, item.storedLength);
      if (moves.complete) await moves.apply();
    } else if (item.kind === entryKind.move) {
      await state.records.flush();
      const found = await input.reader.entry(segment, item.offset, item.storedLength, [item.kind]);
      moves = new ReplayMoves(state.map, segment, decodeMove(found.bytes, 0, found.length));
    } else if (item.kind === entryKind.record) {
      state.records.add(segment, item.block, item.run, item.offset, item.storedLength);
      if (state.records.full) await state.records.flush();
    } else if (isReplayed(item.kind) && (item.kind !== entryKind.members || input.noteSets)) {
      const found = await input.reader.entry(segment, item.offset, item.storedLength, [item.kind]);
      await applyControl(input, state, decodeControl(found.bytes, 0, item.kind, found.length), item.block);
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

async function walkFrames(input: ReplayInput, state: State, segment: TableEntry, start: number): Promise<void> {
  let at = start;
  while (at < segment.length) {
    const { frames, next } = await readFrames(input, segment, at);
    for (const { bytes, offset, header } of frames) {
      checkMac(input.keys, bytes, header, segment);
      await applyFrame(input, state, segment, bytes, offset, header.seq);
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

async function applyFrame(
  input: ReplayInput,
  state: State,
  segment: TableEntry,
  bytes: Buffer,
  offset: number,
  seq: number,
): Promise<void> {
  let at = FRAME_HEADER_SIZE;
  let moves: ReplayMoves | undefined;
  while (at < bytes.length) {
    const head = decodeEntry(bytes, at, bytes.length);
    if (typeof head === 'string')
      throw corrupt(`segment ${segmentFileName(segment)}, byte ${offset + at}: entry: ${head}`);
    const stored = Math.ceil(head.length / 64) * 64;
    if (head.kind === entryKind.record) {
      const record = readRecordHeader(bytes, at);
      if (record === undefined)
        throw corrupt(`segment ${segmentFileName(segment)}, byte ${offset + at}: record header contradicts itself`);
      if (moves !== undefined) moves.add(record.block, record.run, offset + at, stored);
      else {
        state.records.add(segment, record.block, record.run, offset + at, stored);
        if (state.records.full) await state.records.flush();
      }
    } else if (head.kind === entryKind.move) {
      await state.records.flush();
      moves = new ReplayMoves(state.map, segment, decodeMove(bytes, at, head.length));
    } else if (isReplayed(head.kind)) {
      await applyControl(input, state, decodeControl(bytes, at, head.kind, head.length), seq);
    }
    at += stored;
  }
  await moves?.apply();
}

function isReplayed(kind: number): boolean {
  return (
    kind === entryKind.open ||
    kind === entryKind.range ||
    kind === entryKind.freeze ||
    kind === entryKind.snapshotDelete ||
    kind === entryKind.resize ||
    kind === entryKind.clone ||
    kind === entryKind.drop ||
    kind === entryKind.members
  );
}

async function applyControl(input: ReplayInput, state: State, entry: ControlEntry, seq: number): Promise<void> {
  const { map } = state;
  await state.records.flush();
  switch (entry.kind) {
    case 'open':
      state.reigns.push({ epoch: entry.epoch, reignId: entry.reignId });
      map.sizeBytes = Math.max(map.sizeBytes, entry.sizeBytes);
      return;
    case 'range':
      return clearRange(map, entry.block, entry.count);
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
      if (entry.setVersion >= (state.set?.setVersion ?? 0)) state.set = entry;
      return;
  }
}

function clearRange(map: BlockMap, block: number, count: number): Promise<void> {
  return new Promise((resolve, reject) => {
    map.loadEnds(block, count, (error) => {
      if (error !== null) return reject(error);
      map.clearRange(block, count);
      resolve();
    });
  });
}
