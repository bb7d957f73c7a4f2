// Blocks to measure with, shaped as fio shapes its buffers for --buffer_compress_percentage: in each chunk random bytes, then
// a part that compresses to nothing. Deterministic, so that two runs seal the same bytes.

import { BLOCK_SIZE } from '../../src/base/index.js';

/** mulberry32: the next 32 bits of a seeded sequence. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}

const CHUNK = 512;

/** `blocks` blocks of 4 KiB; in each 512 bytes `compressiblePercent` (0 to 100) are zeroes behind random bytes. */
export function sampleBlocks(blocks: number, compressiblePercent: number, seed = 1): Buffer {
  const next = seeded(seed);
  const bytes = Buffer.alloc(blocks * BLOCK_SIZE);
  const random = Math.floor((CHUNK * (100 - compressiblePercent)) / 400) * 4;
  for (let chunk = 0; chunk < bytes.length; chunk += CHUNK) {
    for (let at = 0; at < random; at += 4) bytes.writeUInt32LE(next(), chunk + at);
  }
  return bytes;
}
