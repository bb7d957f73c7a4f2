// The index that ends a sealed segment: one 16-byte item per entry, in log order, in the last entry of the last frame,
// followed by a trailer in the file's last 64 bytes. It is the redo log of recovery. Layout: FORMAT.md, "Index".

import { ALIGN, corrupt, crc32c } from '../base/index.js';
import { ENTRY_PREFIX_SIZE, INDEX_TRAILER_MAGIC } from './constants.js';
import { encodeControlEntry, entryKind } from './entry.js';
import { readSafe, writeSafe } from './frame.js';

const ITEM = 16;
const TRAILER = 64;

/** Collects items while a segment is written; grows by doubling. */
export class IndexBuilder {
  #bytes = Buffer.alloc(64 * ITEM);
  #count = 0;

  get count(): number {
    return this.#count;
  }
  /** `block` is 0 for control entries. `offset` and `storedLength` are bytes in the segment, multiples of 64. */
  add(kind: number, offset: number, storedLength: number, block: number, run: number): void {
    if ((this.#count + 1) * ITEM > this.#bytes.length) {
      const larger = Buffer.alloc(this.#bytes.length * 2);
      this.#bytes.copy(larger);
      this.#bytes = larger;
    }
    const at = this.#count++ * ITEM;
    writeSafe(this.#bytes, block, at);
    this.#bytes.writeUInt32LE(((offset / ALIGN) | (run << 24)) >>> 0, at + 8);
    this.#bytes.writeUInt32LE(((storedLength / ALIGN) | (kind << 24)) >>> 0, at + 12);
  }
  /** Bytes that encode() will need, frame header not counted. */
  encodedSize(): number {
    return indexEntrySize(this.#count);
  }
  /**
   * The index entry with its trailer, a multiple of 64 bytes. `frameOffset` is where the frame that carries it starts.
   */
  encode(frameOffset: number): Buffer {
    const size = indexEntrySize(this.#count);
    const content = Buffer.alloc(size - ENTRY_PREFIX_SIZE);
    content.writeUInt32LE(this.#count, 0);
    this.#bytes.copy(content, 16, 0, this.#count * ITEM);
    const trailer = content.length - TRAILER;
    content.writeUInt32LE(INDEX_TRAILER_MAGIC, trailer);
    content.writeUInt32LE(frameOffset / ALIGN, trailer + 8);
    content.writeUInt32LE(this.#count, trailer + 12);
    content.writeUInt32LE(crc32c(content.subarray(trailer + 8, trailer + TRAILER)), trailer + 4);
    return encodeControlEntry(entryKind.index, content);
  }
}

/** Size of an index entry of `count` items, a multiple of 64: prefix, count, items, padding, trailer. */
export function indexEntrySize(count: number): number {
  return Math.ceil((ENTRY_PREFIX_SIZE + 16 + count * ITEM) / ALIGN) * ALIGN + TRAILER;
}

export interface IndexItem {
  readonly kind: number;
  readonly offset: number;
  readonly storedLength: number;
  readonly block: number;
  readonly run: number;
}

/** Reads a trailer (the file's last 64 bytes): where the frame with the index starts, or undefined when this is none. */
export function decodeIndexTrailer(bytes: Buffer): { frameOffset: number; count: number } | undefined {
  if (bytes.length !== TRAILER || bytes.readUInt32LE(0) !== INDEX_TRAILER_MAGIC) return undefined;
  if (crc32c(bytes.subarray(8)) !== bytes.readUInt32LE(4)) return undefined;
  return { frameOffset: bytes.readUInt32LE(8) * ALIGN, count: bytes.readUInt32LE(12) };
}

/** Items of an index entry at `at` that decodeEntry() accepted. Throws DATA_LOSS when it has no room for them. */
export function indexItems(bytes: Buffer, at: number): IndexItem[] {
  const items: IndexItem[] = [];
  eachIndexItem(bytes, at, (kind, offset, storedLength, block, run) =>
    items.push({ kind, offset, storedLength, block, run }),
  );
  return items;
}

/** The same without an object for each. */
export function eachIndexItem(
  bytes: Buffer,
  at: number,
  visit: (kind: number, offset: number, storedLength: number, block: number, run: number) => void,
): void {
  const content = at + ENTRY_PREFIX_SIZE;
  const length = bytes.readUInt32LE(at + 8);
  const count = length < ENTRY_PREFIX_SIZE + 16 ? -1 : bytes.readUInt32LE(content);
  if (count < 0 || indexEntrySize(count) > length)
    throw corrupt(`an index of ${length} bytes says it has ${count} items`);
  for (let i = 0; i < count; i++) {
    const item = content + 16 + i * ITEM;
    const low = bytes.readUInt32LE(item + 8);
    const high = bytes.readUInt32LE(item + 12);
    visit(high >>> 24, (low & 0xffffff) * ALIGN, (high & 0xffffff) * ALIGN, readSafe(bytes, item), low >>> 24);
  }
}
