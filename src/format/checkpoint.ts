// The map as it lies in the log: pages and what changed on them, the table that says where each lies, the segment table, the
// snapshots, and the root that holds it together. Layout: FORMAT.md, "Checkpoint".

import {
  alignUp,
  corrupt,
  type GroupId,
  type ReignId,
  type SnapshotId,
  uuidFromBytes,
  uuidToBytes,
} from '../base/index.js';
import { ENTRY_PREFIX_SIZE, PAGE_ENTRIES, TABLE_CHUNK_IDS } from './constants.js';
import { encodeControlEntry, entryKind } from './entry.js';
import { readSafe, writeSafe } from './frame.js';
import type { Reign, SegmentName } from './segment.js';

/** A map word pair: where a checkpoint's entry lies. */
export type Place = readonly [number, number];

/** One slot of the log's segment table. */
export interface SegmentSlot extends SegmentName {
  readonly slot: number;
  readonly firstSeq: number;
  /** Entries of all distinct pages that name it. */
  readonly live: number;
  /** Blocks whose records were ever put into it. */
  readonly blocks: number;
}

export interface SnapshotRoot {
  readonly snapshotId: SnapshotId;
  readonly groupId: GroupId;
  /** Page versions born up to here are (or may be) shared with it. */
  readonly birth: number;
  /** Where it stands in the list: chunk * SNAPSHOTS_PER_CHUNK and something. Kept for its life. */
  readonly position: number;
  /** Last frame whose effect it holds. */
  readonly seq: number;
  readonly sizeBytes: number;
  readonly wallMs: number;
}

/** The checkpoint's root. The lists are complete; chunks that did not change lie in earlier checkpoints. */
export interface CheckpointRoot {
  readonly coveredThrough: number;
  readonly sizeBytes: number;
  /** Ids below this are in use or were. */
  readonly nextId: number;
  /** Birth of what is written now; one more than the newest snapshot's at least. */
  readonly birth: number;
  readonly nextOrdinal: number;
  readonly reigns: readonly Reign[];
  /** Places of the chunks, by chunk number; [0, 0] for one with nothing in it. */
  readonly tablePlaces: readonly Place[];
  readonly segmentPlaces: readonly Place[];
  readonly snapshotPlaces: readonly Place[];
}

const HEAD = 16;
const PAGE_WORDS = PAGE_ENTRIES * 2;
const littleEndian = new Uint8Array(Uint32Array.of(1).buffer)[0] === 1;

/** Words as little-endian bytes at `at`. */
function putWords(words: Uint32Array, bytes: Buffer, at: number): void {
  if (littleEndian) bytes.set(new Uint8Array(words.buffer, words.byteOffset, words.byteLength), at);
  else for (let i = 0; i < words.length; i++) bytes.writeUInt32LE(words[i]!, at + i * 4);
}
function takeWords(bytes: Buffer, at: number, words: Uint32Array): void {
  if (littleEndian) {
    const target = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
    target.set(bytes.subarray(at, at + words.byteLength));
  } else for (let i = 0; i < words.length; i++) words[i] = bytes.readUInt32LE(at + i * 4);
}

/** `words` are the page's 2,048 uint32 (1,024 entries). */
export function encodePage(id: number, number: number, words: Uint32Array): Buffer {
  const content = Buffer.alloc(HEAD + PAGE_WORDS * 4);
  content.writeUInt32LE(id, 0);
  content.writeUInt32LE(number, 4);
  putWords(words, content, HEAD);
  return encodeControlEntry(entryKind.page, content);
}

/** Fills `words` and returns what the entry says of itself. */
export function decodePage(
  bytes: Buffer,
  at: number,
  length: number,
  words: Uint32Array,
): { id: number; number: number } {
  const content = at + ENTRY_PREFIX_SIZE;
  if (length !== ENTRY_PREFIX_SIZE + HEAD + PAGE_WORDS * 4) throw corrupt(`a map page of ${length} bytes`);
  takeWords(bytes, content + HEAD, words);
  return { id: bytes.readUInt32LE(content), number: bytes.readUInt32LE(content + 4) };
}

/** Bytes of a delta entry of `count` entries, as stored. */
export function deltaSize(count: number): number {
  return alignUp(ENTRY_PREFIX_SIZE + HEAD + alignUp(count * 2, 4) + count * 8, 64);
}

/** The entries of a page whose bit is set in `changed`; `spent` is what deltas since its base have cost, this one included. */
export function encodeDelta(
  id: number,
  number: number,
  words: Uint32Array,
  changed: Uint32Array,
  spent: number,
): Buffer {
  const indexes: number[] = [];
  for (let i = 0; i < PAGE_ENTRIES; i++) if ((changed[i >>> 5]! >>> (i & 31)) & 1) indexes.push(i);
  const wordsAt = HEAD + alignUp(indexes.length * 2, 4);
  const content = Buffer.alloc(wordsAt + indexes.length * 8);
  content.writeUInt32LE(id, 0);
  content.writeUInt32LE(number, 4);
  content.writeUInt32LE(indexes.length, 8);
  content.writeUInt32LE(spent, 12);
  for (let i = 0; i < indexes.length; i++) {
    const index = indexes[i]!;
    content.writeUInt16LE(index, HEAD + i * 2);
    content.writeUInt32LE(words[index * 2]!, wordsAt + i * 8);
    content.writeUInt32LE(words[index * 2 + 1]!, wordsAt + i * 8 + 4);
  }
  return encodeControlEntry(entryKind.delta, content);
}

/** Applies a delta to its base's `words` and sets the bits of what it changed. */
export function decodeDelta(
  bytes: Buffer,
  at: number,
  length: number,
  words: Uint32Array,
  changed: Uint32Array,
): { id: number; number: number; spent: number } {
  const content = at + ENTRY_PREFIX_SIZE;
  if (length < ENTRY_PREFIX_SIZE + HEAD) throw corrupt(`a map delta of ${length} bytes`);
  const count = bytes.readUInt32LE(content + 8);
  const wordsAt = content + HEAD + alignUp(count * 2, 4);
  if (wordsAt + count * 8 > at + length) throw corrupt(`a map delta of ${length} bytes says it has ${count} entries`);
  for (let i = 0; i < count; i++) {
    const index = bytes.readUInt16LE(content + HEAD + i * 2);
    if (index >= PAGE_ENTRIES) throw corrupt(`a map delta changes entry ${index} of a page`);
    words[index * 2] = bytes.readUInt32LE(wordsAt + i * 8);
    words[index * 2 + 1] = bytes.readUInt32LE(wordsAt + i * 8 + 4);
    changed[index >>> 5] = (changed[index >>> 5]! | (1 << (index & 31))) >>> 0;
  }
  return {
    id: bytes.readUInt32LE(content),
    number: bytes.readUInt32LE(content + 4),
    spent: bytes.readUInt32LE(content + 12),
  };
}

/** Words of one id in a table chunk: its place, its base's place, its birth, its page number and count of entries. */
export const TABLE_ID_WORDS = 6;
/** In the first word of an id: no page, the address range has nothing mapped from its birth on. */
export const TABLE_HOLE = 0x4000_0000;
/** In the first word of an id: nothing refers to the page any more, but its entries are still counted. */
export const TABLE_DETACHED = 0x8000_0000;
/** Page numbers take 22 bits (16 TiB); above them the count of mapped entries, less one. */
export const TABLE_NUMBER_BITS = 22;

/** `words` are TABLE_ID_WORDS for each of TABLE_CHUNK_IDS ids from chunk * TABLE_CHUNK_IDS on. */
export function encodeTable(chunk: number, words: Uint32Array): Buffer {
  const content = Buffer.alloc(HEAD + words.byteLength);
  content.writeUInt32LE(chunk, 0);
  content.writeUInt32LE(words.length, 4);
  putWords(words, content, HEAD);
  return encodeControlEntry(entryKind.table, content);
}

export function decodeTable(bytes: Buffer, at: number, length: number): { chunk: number; words: Uint32Array } {
  const content = at + ENTRY_PREFIX_SIZE;
  const words = new Uint32Array(TABLE_CHUNK_IDS * TABLE_ID_WORDS);
  if (length !== ENTRY_PREFIX_SIZE + HEAD + words.byteLength || bytes.readUInt32LE(content + 4) !== words.length)
    throw corrupt(`a table chunk of ${length} bytes`);
  takeWords(bytes, content + HEAD, words);
  return { chunk: bytes.readUInt32LE(content), words };
}

const SLOT_BYTES = 32;
const SNAPSHOT_BYTES = 64;
/** Slots, and positions in the list of snapshots, of which one chunk tells. */
export const SEGMENTS_PER_CHUNK = 256;
export const SNAPSHOTS_PER_CHUNK = 64;

export function encodeSegmentSlots(chunk: number, slots: readonly SegmentSlot[]): Buffer {
  const content = Buffer.alloc(HEAD + slots.length * SLOT_BYTES);
  content.writeUInt32LE(chunk, 0);
  content.writeUInt32LE(slots.length, 4);
  slots.forEach((slot, i) => {
    const at = HEAD + i * SLOT_BYTES;
    content.writeUInt32LE(slot.slot, at);
    content.writeUInt32LE(slot.ordinal, at + 4);
    writeSafe(content, slot.epoch, at + 8);
    writeSafe(content, slot.firstSeq, at + 16);
    content.writeUInt32LE(slot.live, at + 24);
    content.writeUInt32LE(slot.blocks, at + 28);
  });
  return encodeControlEntry(entryKind.segments, content);
}

export function decodeSegmentSlots(bytes: Buffer, at: number, length: number): { chunk: number; slots: SegmentSlot[] } {
  const { chunk, count } = listHead(bytes, at, length, SLOT_BYTES);
  const slots: SegmentSlot[] = [];
  for (let i = 0; i < count; i++) {
    const item = at + ENTRY_PREFIX_SIZE + HEAD + i * SLOT_BYTES;
    slots.push({
      slot: bytes.readUInt32LE(item),
      ordinal: bytes.readUInt32LE(item + 4),
      epoch: readSafe(bytes, item + 8),
      firstSeq: readSafe(bytes, item + 16),
      live: bytes.readUInt32LE(item + 24),
      blocks: bytes.readUInt32LE(item + 28),
    });
  }
  return { chunk, slots };
}

export function encodeSnapshotRoots(chunk: number, snapshots: readonly SnapshotRoot[]): Buffer {
  const content = Buffer.alloc(HEAD + snapshots.length * SNAPSHOT_BYTES);
  content.writeUInt32LE(chunk, 0);
  content.writeUInt32LE(snapshots.length, 4);
  snapshots.forEach((snapshot, i) => {
    const at = HEAD + i * SNAPSHOT_BYTES;
    uuidToBytes(snapshot.snapshotId, content, at);
    uuidToBytes(snapshot.groupId, content, at + 16);
    content.writeUInt32LE(snapshot.birth, at + 32);
    content.writeUInt32LE(snapshot.position, at + 36);
    writeSafe(content, snapshot.seq, at + 40);
    writeSafe(content, snapshot.sizeBytes, at + 48);
    writeSafe(content, snapshot.wallMs, at + 56);
  });
  return encodeControlEntry(entryKind.snapshots, content);
}

export function decodeSnapshotRoots(
  bytes: Buffer,
  at: number,
  length: number,
): { chunk: number; snapshots: SnapshotRoot[] } {
  const { chunk, count } = listHead(bytes, at, length, SNAPSHOT_BYTES);
  const snapshots: SnapshotRoot[] = [];
  for (let i = 0; i < count; i++) {
    const item = at + ENTRY_PREFIX_SIZE + HEAD + i * SNAPSHOT_BYTES;
    snapshots.push({
      snapshotId: uuidFromBytes(bytes, item) as SnapshotId,
      groupId: uuidFromBytes(bytes, item + 16) as GroupId,
      birth: bytes.readUInt32LE(item + 32),
      position: bytes.readUInt32LE(item + 36),
      seq: readSafe(bytes, item + 40),
      sizeBytes: readSafe(bytes, item + 48),
      wallMs: readSafe(bytes, item + 56),
    });
  }
  return { chunk, snapshots };
}

function listHead(bytes: Buffer, at: number, length: number, itemBytes: number): { chunk: number; count: number } {
  const content = at + ENTRY_PREFIX_SIZE;
  if (length < ENTRY_PREFIX_SIZE + HEAD) throw corrupt(`a list entry of ${length} bytes`);
  const count = bytes.readUInt32LE(content + 4);
  if (ENTRY_PREFIX_SIZE + HEAD + count * itemBytes > length)
    throw corrupt(`a list entry of ${length} bytes says it has ${count} items`);
  return { chunk: bytes.readUInt32LE(content), count };
}

export function encodeRoot(root: CheckpointRoot): Buffer {
  const lists = [root.tablePlaces, root.segmentPlaces, root.snapshotPlaces];
  const places = lists.reduce((sum, list) => sum + list.length, 0);
  const content = Buffer.alloc(64 + root.reigns.length * 32 + places * 8);
  writeSafe(content, root.coveredThrough, 0);
  writeSafe(content, root.sizeBytes, 8);
  content.writeUInt32LE(root.nextId, 16);
  content.writeUInt32LE(root.birth, 20);
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
  if (length < ENTRY_PREFIX_SIZE + 64) throw corrupt(`a checkpoint root of ${length} bytes`);
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
    const list: Place[] = [];
    for (let i = 0; i < count; i++, item += 8) list.push([bytes.readUInt32LE(item), bytes.readUInt32LE(item + 4)]);
    return list;
  });
  return {
    coveredThrough: readSafe(bytes, content),
    sizeBytes: readSafe(bytes, content + 8),
    nextId: bytes.readUInt32LE(content + 16),
    birth: bytes.readUInt32LE(content + 20),
    nextOrdinal: bytes.readUInt32LE(content + 24),
    reigns,
    tablePlaces: lists[0]!,
    segmentPlaces: lists[1]!,
    snapshotPlaces: lists[2]!,
  };
}
