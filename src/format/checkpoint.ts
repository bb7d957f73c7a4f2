// The map as it lies in the log: pages, nodes, the table that says where each lies, the segment table, the snapshots, and
// the root that holds it together. Layout: FORMAT.md, "Checkpoint".

import { corrupt, type GroupId, type ReignId, type SnapshotId, uuidFromBytes, uuidToBytes } from '../base/index.js';
import { ENTRY_PREFIX_SIZE } from './constants.js';
import { encodeControlEntry, entryKind } from './entry.js';
import { readSafe, writeSafe } from './frame.js';
import type { Reign, SegmentName } from './segment.js';

/** One slot of the log's segment table. */
export interface SegmentSlot extends SegmentName {
  readonly slot: number;
  readonly firstSeq: number;
}

export interface SnapshotRoot {
  readonly snapshotId: SnapshotId;
  readonly groupId: GroupId;
  /** Id of its root node list's first node; see RootEntry.roots. */
  readonly rootId: number;
  /** Last frame whose effect it holds. */
  readonly seq: number;
  readonly sizeBytes: number;
  readonly wallMs: number;
}

/** The checkpoint's root. All lists are complete; the chunks that hold them precede it in the same checkpoint. */
export interface CheckpointRoot {
  readonly coveredThrough: number;
  readonly sizeBytes: number;
  /** Ids below this are in use or were. */
  readonly nextId: number;
  readonly liveRootId: number;
  readonly nextOrdinal: number;
  readonly reigns: readonly Reign[];
  /** Places (map words) of the table chunks, by chunk index; [0, 0] for a chunk without ids in use. */
  readonly tablePlaces: readonly (readonly [number, number])[];
  readonly segmentPlaces: readonly (readonly [number, number])[];
  readonly snapshotPlaces: readonly (readonly [number, number])[];
}

/** `words` are the page's 2,048 uint32 (1,024 entries). */
export function encodePage(id: number, words: Uint32Array): Buffer {
  return encodeWords(entryKind.page, id, words);
}
/** `children` are ids; of a node: pages; of a root: nodes. */
export function encodeNode(id: number, children: Uint32Array): Buffer {
  return encodeWords(entryKind.node, id, children);
}
/** `words` are places of TABLE_CHUNK_IDS ids from chunk * TABLE_CHUNK_IDS on. */
export function encodeTable(chunk: number, words: Uint32Array): Buffer {
  return encodeWords(entryKind.table, chunk, words);
}

function encodeWords(kind: (typeof entryKind)['page' | 'node' | 'table'], id: number, words: Uint32Array): Buffer {
  const content = Buffer.alloc(16 + words.byteLength);
  content.writeUInt32LE(id, 0);
  content.writeUInt32LE(words.length, 4);
  for (let i = 0; i < words.length; i++) content.writeUInt32LE(words[i]!, 16 + i * 4);
  return encodeControlEntry(kind, content);
}

/** The reverse of the three above. */
export function decodeWords(bytes: Buffer, at: number, length: number): { id: number; words: Uint32Array } {
  const content = at + ENTRY_PREFIX_SIZE;
  const count = bytes.readUInt32LE(content + 4);
  if (ENTRY_PREFIX_SIZE + 16 + count * 4 > length)
    throw corrupt(`a map entry of ${length} bytes says it has ${count} words`);
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i++) words[i] = bytes.readUInt32LE(content + 16 + i * 4);
  return { id: bytes.readUInt32LE(content), words };
}

const SLOT_BYTES = 32;
const SNAPSHOT_BYTES = 64;
/** Items per chunk entry of the segment table and of the snapshot list. */
export const SEGMENTS_PER_CHUNK = 1024;
export const SNAPSHOTS_PER_CHUNK = 512;

export function encodeSegmentSlots(slots: readonly SegmentSlot[]): Buffer {
  const content = Buffer.alloc(16 + slots.length * SLOT_BYTES);
  content.writeUInt32LE(slots.length, 0);
  slots.forEach((slot, i) => {
    const at = 16 + i * SLOT_BYTES;
    content.writeUInt32LE(slot.slot, at);
    content.writeUInt32LE(slot.ordinal, at + 4);
    writeSafe(content, slot.epoch, at + 8);
    writeSafe(content, slot.firstSeq, at + 16);
  });
  return encodeControlEntry(entryKind.segments, content);
}

export function decodeSegmentSlots(bytes: Buffer, at: number, length: number): SegmentSlot[] {
  const count = countOf(bytes, at, length, SLOT_BYTES);
  const slots: SegmentSlot[] = [];
  for (let i = 0; i < count; i++) {
    const item = at + ENTRY_PREFIX_SIZE + 16 + i * SLOT_BYTES;
    slots.push({
      slot: bytes.readUInt32LE(item),
      ordinal: bytes.readUInt32LE(item + 4),
      epoch: readSafe(bytes, item + 8),
      firstSeq: readSafe(bytes, item + 16),
    });
  }
  return slots;
}

export function encodeSnapshotRoots(snapshots: readonly SnapshotRoot[]): Buffer {
  const content = Buffer.alloc(16 + snapshots.length * SNAPSHOT_BYTES);
  content.writeUInt32LE(snapshots.length, 0);
  snapshots.forEach((snapshot, i) => {
    const at = 16 + i * SNAPSHOT_BYTES;
    uuidToBytes(snapshot.snapshotId, content, at);
    uuidToBytes(snapshot.groupId, content, at + 16);
    content.writeUInt32LE(snapshot.rootId, at + 32);
    writeSafe(content, snapshot.seq, at + 40);
    writeSafe(content, snapshot.sizeBytes, at + 48);
    writeSafe(content, snapshot.wallMs, at + 56);
  });
  return encodeControlEntry(entryKind.snapshots, content);
}

export function decodeSnapshotRoots(bytes: Buffer, at: number, length: number): SnapshotRoot[] {
  const count = countOf(bytes, at, length, SNAPSHOT_BYTES);
  const roots: SnapshotRoot[] = [];
  for (let i = 0; i < count; i++) {
    const item = at + ENTRY_PREFIX_SIZE + 16 + i * SNAPSHOT_BYTES;
    roots.push({
      snapshotId: uuidFromBytes(bytes, item) as SnapshotId,
      groupId: uuidFromBytes(bytes, item + 16) as GroupId,
      rootId: bytes.readUInt32LE(item + 32),
      seq: readSafe(bytes, item + 40),
      sizeBytes: readSafe(bytes, item + 48),
      wallMs: readSafe(bytes, item + 56),
    });
  }
  return roots;
}

function countOf(bytes: Buffer, at: number, length: number, itemBytes: number): number {
  const count = bytes.readUInt32LE(at + ENTRY_PREFIX_SIZE);
  if (ENTRY_PREFIX_SIZE + 16 + count * itemBytes > length)
    throw corrupt(`a list entry of ${length} bytes says it has ${count} items`);
  return count;
}

export function encodeRoot(root: CheckpointRoot): Buffer {
  const lists = [root.tablePlaces, root.segmentPlaces, root.snapshotPlaces];
  const places = lists.reduce((sum, list) => sum + list.length, 0);
  const content = Buffer.alloc(64 + root.reigns.length * 32 + places * 8);
  writeSafe(content, root.coveredThrough, 0);
  writeSafe(content, root.sizeBytes, 8);
  content.writeUInt32LE(root.nextId, 16);
  content.writeUInt32LE(root.liveRootId, 20);
  content.writeUInt32LE(root.nextOrdinal, 24);
  content.writeUInt32LE(root.reigns.length, 28);
  lists.forEach((list, i) => {
    content.writeUInt32LE(list.length, 32 + i * 4);
  });
  let at = 64;
  for (const reign of root.reigns) {
    writeSafe(content, reign.epoch, at);
    uuidToBytes(reign.reignId, content, at + 8);
    at += 32;
  }
  for (const list of lists) {
    for (const [first, second] of list) {
      content.writeUInt32LE(first, at);
      content.writeUInt32LE(second, at + 4);
      at += 8;
    }
  }
  return encodeControlEntry(entryKind.root, content);
}

export function decodeRoot(bytes: Buffer, at: number, length: number): CheckpointRoot {
  const content = at + ENTRY_PREFIX_SIZE;
  const reignCount = bytes.readUInt32LE(content + 28);
  const counts = [0, 1, 2].map((i) => bytes.readUInt32LE(content + 32 + i * 4));
  const need = ENTRY_PREFIX_SIZE + 64 + reignCount * 32 + (counts[0]! + counts[1]! + counts[2]!) * 8;
  if (need > length) throw corrupt(`a checkpoint root of ${length} bytes needs ${need}`);
  const reigns: Reign[] = [];
  let item = content + 64;
  for (let i = 0; i < reignCount; i++) {
    reigns.push({ epoch: readSafe(bytes, item), reignId: uuidFromBytes(bytes, item + 8) as ReignId });
    item += 32;
  }
  const lists = counts.map((count) => {
    const list: [number, number][] = [];
    for (let i = 0; i < count; i++, item += 8) list.push([bytes.readUInt32LE(item), bytes.readUInt32LE(item + 4)]);
    return list;
  });
  return {
    coveredThrough: readSafe(bytes, content),
    sizeBytes: readSafe(bytes, content + 8),
    nextId: bytes.readUInt32LE(content + 16),
    liveRootId: bytes.readUInt32LE(content + 20),
    nextOrdinal: bytes.readUInt32LE(content + 24),
    reigns,
    tablePlaces: lists[0]!,
    segmentPlaces: lists[1]!,
    snapshotPlaces: lists[2]!,
  };
}
