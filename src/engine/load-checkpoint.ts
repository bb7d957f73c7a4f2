// Reads a checkpoint: its root and lists, no page. What the map holds of each segment is in the lists, so that a volume opens at a cost
// in proportion to its number of pages (24 bytes each) and segments (32), whatever lies in them.

import { corrupt } from '../base/index.js';
import {
  type CheckpointPlace,
  type CheckpointRoot,
  decodeEntry,
  decodeFrame,
  decodeRoot,
  decodeSegmentSlots,
  decodeSnapshotRoots,
  decodeTable,
  entryKind,
  FRAME_HEADER_SIZE,
  type Place,
  type SegmentSlot,
  type SnapshotRoot,
  segmentFileName,
} from '../format/index.js';
import { BlockMap, type PageCache } from '../hotpath/index.js';
import type { EntrySource, FoundEntry } from './entry-source.js';
import type { LogReader } from './log-reader.js';
import type { SegmentTable } from './segment-table.js';

/** Chunks asked for at once: a few hundred KiB. */
const CHUNKS_AT_ONCE = 32;

export interface CheckpointInput {
  readonly table: SegmentTable;
  readonly reader: LogReader;
  readonly source: EntrySource;
  readonly pages: PageCache;
}

/** DATA_LOSS when the checkpoint does not read back from any replica. */
export async function loadCheckpoint(
  input: CheckpointInput,
  place: CheckpointPlace,
): Promise<{ map: BlockMap; root: CheckpointRoot }> {
  const root = await readRoot(input.reader, place);
  // First of all, so that a segment that turns out to be missing can be named.
  const slots: SegmentSlot[] = [];
  await eachChunk(input.source, root.segmentPlaces, entryKind.segments, (entry) => {
    const found = decodeSegmentSlots(entry.bytes, 0, entry.length);
    for (const slot of found.slots) {
      input.table.list(slot.slot, slot);
      slots.push(slot);
    }
    return found.chunk;
  });
  const table = new Map<number, Uint32Array>();
  await eachChunk(input.source, root.tablePlaces, entryKind.table, (entry) => {
    const found = decodeTable(entry.bytes, 0, entry.length);
    table.set(found.chunk, found.words);
    return found.chunk;
  });
  const snapshots: SnapshotRoot[] = [];
  await eachChunk(input.source, root.snapshotPlaces, entryKind.snapshots, (entry) => {
    const found = decodeSnapshotRoots(entry.bytes, 0, entry.length);
    snapshots.push(...found.snapshots);
    return found.chunk;
  });
  input.table.skipOrdinals(root.nextOrdinal);
  const map = new BlockMap(root.sizeBytes, input.pages);
  map.install({ ...root, table, snapshots, slots });
  return { map, root };
}

async function readRoot(reader: LogReader, place: CheckpointPlace): Promise<CheckpointRoot> {
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
  return root;
}

/** `take` answers which chunk an entry says it is. */
async function eachChunk(
  source: EntrySource,
  places: readonly Place[],
  kind: number,
  take: (entry: FoundEntry) => number,
): Promise<void> {
  const chunks = places.flatMap((place, chunk) => (place[1] === 0 ? [] : [chunk]));
  for (let at = 0; at < chunks.length; at += CHUNKS_AT_ONCE) {
    const some = chunks.slice(at, at + CHUNKS_AT_ONCE);
    const found = await source.readAll(
      some.map((chunk) => places[chunk]!),
      [kind],
    );
    for (const [i, entry] of found.entries()) {
      const chunk = take(entry);
      if (chunk !== some[i]) throw corrupt(`chunk ${some[i]} of a checkpoint's list says it is chunk ${chunk}`);
    }
  }
}
