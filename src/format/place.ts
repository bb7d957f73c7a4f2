// A map entry: two uint32 that say where a block's record lies, so that a cold read is one pread. Layout: FORMAT.md, "Map entry".
//
//   word 0: slot (24 bits) | index of the block in the record's run (3) << 24 | flags (5, zero) << 27
//   word 1: offset in 64-byte units (20 bits) | (stored length in 64-byte units - 1) (10) << 20 | flags (2, zero) << 30
//
// Both words zero: the block was never written or was trimmed. Offset 0 is a segment's header, so no record lies there.

import { ALIGN } from '../base/index.js';

export function placeWord0(slot: number, index: number): number {
  return (slot | (index << 24)) >>> 0;
}
/** `offset` and `storedLength` are bytes, multiples of 64; storedLength is 64..65536. */
export function placeWord1(offset: number, storedLength: number): number {
  return ((offset / ALIGN) | ((storedLength / ALIGN - 1) << 20)) >>> 0;
}
export function placeSlot(word0: number): number {
  return word0 & 0xffffff;
}
export function placeIndex(word0: number): number {
  return (word0 >>> 24) & 7;
}
export function placeOffset(word1: number): number {
  return (word1 & 0xfffff) * ALIGN;
}
export function placeLength(word1: number): number {
  return (((word1 >>> 20) & 0x3ff) + 1) * ALIGN;
}
