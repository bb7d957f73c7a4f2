// The entry by which cleaning moves records: it begins a frame, and every record behind it in that frame is a moved one. It says where
// each was before; where each is now is the record's own place. Layout: FORMAT.md, "Move".

import { corrupt } from '../base/index.js';
import { ENTRY_PREFIX_SIZE } from './constants.js';
import { encodeControlEntry, entryKind } from './entry.js';

/** The kind of a moved record's item in a segment's index: replay does not take it for a write. No entry has this kind. */
export const INDEX_MOVED_RECORD = 2;

const HEAD = 16;
const ITEM = 8;

/** `from` holds two words per record of the frame, in order: the map entry that the record's first block had where it was. */
export function encodeMove(from: readonly number[]): Buffer {
  const content = Buffer.alloc(HEAD + from.length * 4);
  content.writeUInt32LE(from.length / 2, 0);
  from.forEach((word, i) => {
    content.writeUInt32LE(word, HEAD + i * 4);
  });
  return encodeControlEntry(entryKind.move, content);
}

/** Bytes of a move entry for so many records, padding included. */
export function moveEntrySize(records: number): number {
  return Math.ceil((ENTRY_PREFIX_SIZE + HEAD + records * ITEM) / 64) * 64;
}

/** The reverse of encodeMove(), of an entry that decodeEntry() accepted. */
export function decodeMove(bytes: Buffer, at: number, length: number): number[] {
  const content = at + ENTRY_PREFIX_SIZE;
  const count = length < ENTRY_PREFIX_SIZE + HEAD ? -1 : bytes.readUInt32LE(content);
  if (count < 0 || ENTRY_PREFIX_SIZE + HEAD + count * ITEM > length)
    throw corrupt(`a move entry of ${length} bytes says it has ${count} items`);
  const from = new Array<number>(count * 2);
  for (let i = 0; i < from.length; i++) from[i] = bytes.readUInt32LE(content + HEAD + i * 4);
  return from;
}
