// Compression of single records without native code: our own LZ4, and zstd where this Node has it (22.15 and later).

import zlib from 'node:zlib';
import { BLOCK_SIZE } from '../base/index.js';
import { type Compression, compressionId } from '../format/index.js';
import type { OpenFault } from './kernel-batch.js';
import { compressBlock, decompressBlock } from './lz4.js';

/** What newer versions of node:zlib have. */
interface Zstd {
  zstdCompressSync(bytes: Uint8Array, options: { params: Record<number, number> }): Buffer;
  zstdDecompressSync(bytes: Uint8Array, options: { maxOutputLength: number }): Buffer;
}

const zstd = zlib as unknown as Partial<Zstd>;

export const zstdAvailable = zstd.zstdCompressSync !== undefined && zstd.zstdDecompressSync !== undefined;

/** ZSTD_c_compressionLevel, ZSTD_c_contentSizeFlag: the record says how long its content is. */
const zstdParameters = { 100: 1, 200: 0 };

const plain = Buffer.alloc(8 * BLOCK_SIZE);

/** Compresses `source` (whole blocks) into `into` at `at`, into at most `limit` bytes; the length, or 0 when it does not fit. */
export function compressRecord(
  compression: Compression,
  source: Uint8Array,
  into: Uint8Array,
  at: number,
  limit: number,
): number {
  if (compression === 'none' || looksRandom(source)) return 0;
  if (compression === 'lz4') return compressBlock(source, 0, source.length, into, at, limit);
  const packed = zstd.zstdCompressSync!(source, { params: zstdParameters });
  if (packed.length > limit) return 0;
  into.set(packed, at);
  return packed.length;
}

/** Puts bytes `first` to `first + length` of what `payload` holds, `size` bytes in all, into `into` at `intoAt`. */
export function decompressRecord(
  compression: number,
  payload: Buffer,
  size: number,
  first: number,
  length: number,
  into: Uint8Array,
  intoAt: number,
): OpenFault | null {
  const end = first + length;
  if (compression === compressionId.none) {
    if (payload.length !== size) return 'content';
    into.set(payload.subarray(first, end), intoAt);
    return null;
  }
  if (compression === compressionId.lz4) {
    // A whole run goes straight to its destination; of a part of one only what leads up to its end is decompressed, aside.
    if (length === size)
      return decompressBlock(payload, 0, payload.length, into, intoAt, size) === size ? null : 'content';
    if (decompressBlock(payload, 0, payload.length, plain, 0, size, end) < end) return 'content';
    into.set(plain.subarray(first, end), intoAt);
    return null;
  }
  if (compression !== compressionId.zstd) return 'content';
  if (!zstdAvailable) return 'zstd-needs-native-kernel';
  try {
    const opened = zstd.zstdDecompressSync!(payload, { maxOutputLength: size });
    if (opened.length !== size) return 'content';
    into.set(opened.subarray(first, end), intoAt);
    return null;
  } catch {
    return 'content';
  }
}

const SAMPLES = 128;
/** Of 128 random bytes 101 are distinct, within 5 either way; text has about 40, a block that is random for seven eighths 91. */
const DISTINCT_MAX = 92;
const seen = new Uint8Array(256);

/** Whether it is not worth while to try: bytes taken evenly from all over are as good as random. */
function looksRandom(source: Uint8Array): boolean {
  const step = Math.floor(source.length / SAMPLES);
  seen.fill(0);
  let distinct = 0;
  for (let i = 0; i < SAMPLES; i++) {
    const byte = source[i * step]!;
    distinct += 1 - seen[byte]!;
    seen[byte] = 1;
  }
  return distinct > DISTINCT_MAX;
}
