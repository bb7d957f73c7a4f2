// LZ4 block format (lz4_Block_format.md of the LZ4 project), without frame or size prefix: the TypeScript twin of what the
// native kernel does. It writes straight into the caller's buffer and allocates nothing per call.

const MIN_MATCH = 4;
/** The format's end conditions: the last match starts at least 12 bytes before the end, the last 5 bytes are literals. */
const MATCH_LIMIT = 12;
const LAST_LITERALS = 5;
const HASH_BITS = 12;
const MAX_OFFSET = 65_535;

// Positions are stored plus a base that grows from call to call, so that the table needs no clearing.
const table = new Int32Array(1 << HASH_BITS);
let base = 1;

/**
 * Compresses `length` bytes at `from` of `source` (at most 64 KiB) into `into` at `at`, using at most `limit` bytes.
 * Returns the compressed length, or 0 when it does not fit.
 */
export function compressBlock(
  source: Uint8Array,
  from: number,
  length: number,
  into: Uint8Array,
  at: number,
  limit: number,
): number {
  if (base > 0x3fff_ffff) {
    table.fill(0);
    base = 1;
  }
  // Unaligned loads of four bytes: half the time of putting them together from single ones.
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  const offsetBase = base - from;
  base += length + 1;
  const end = from + length;
  const outEnd = at + limit;
  const matchEnd = end - LAST_LITERALS;
  const searchEnd = end - MATCH_LIMIT;
  let anchor = from;
  let position = from;
  let out = at;
  let misses = 0;
  while (position <= searchEnd) {
    const four = view.getInt32(position, true);
    const slot = Math.imul(four, -1640531535) >>> (32 - HASH_BITS);
    const candidate = table[slot]! - offsetBase;
    table[slot] = position + offsetBase;
    if (candidate < from || position - candidate > MAX_OFFSET || view.getInt32(candidate, true) !== four) {
      // Data without matches is left quickly: the step grows by one every 32 misses. That finds 0.2 % less than every 64, as
      // LZ4 does by default, in two thirds of the time.
      position += 1 + (misses++ >> 5);
      continue;
    }
    misses = 0;
    const matched = MIN_MATCH + matchLength(view, position + MIN_MATCH, candidate + MIN_MATCH, matchEnd);
    const literals = position - anchor;
    if (out + 1 + literals + ((literals / 255) | 0) + 1 + 2 + ((matched / 255) | 0) + 1 > outEnd) return 0;
    out = writeSequence(source, anchor, literals, into, out, matched - MIN_MATCH, position - candidate);
    position += matched;
    anchor = position;
  }
  const literals = end - anchor;
  if (out + 1 + literals + ((literals / 255) | 0) + 1 > outEnd) return 0;
  return writeSequence(source, anchor, literals, into, out, 0, 0) - at;
}

/** How many bytes from `position` on are those from `candidate` on; looks at nothing from `end` on. */
function matchLength(view: DataView, position: number, candidate: number, end: number): number {
  const room = end - position;
  let matched = 0;
  while (matched + 4 <= room) {
    const differ = view.getInt32(position + matched, true) ^ view.getInt32(candidate + matched, true);
    // The lowest bit that differs tells the byte.
    if (differ !== 0) return matched + ((31 - Math.clz32(differ & -differ)) >> 3);
    matched += 4;
  }
  while (matched < room && view.getUint8(candidate + matched) === view.getUint8(position + matched)) matched++;
  return matched;
}

/** Token, literals and, unless `offset` is 0 (the last sequence), the match. Returns the next output position. */
function writeSequence(
  source: Uint8Array,
  anchor: number,
  literals: number,
  into: Uint8Array,
  at: number,
  extra: number,
  offset: number,
): number {
  let out = at + 1;
  into[at] = (literals < 15 ? literals << 4 : 0xf0) | Math.min(extra, 15);
  if (literals >= 15) out = writeLength(into, out, literals - 15);
  if (literals > 48) {
    into.set(source.subarray(anchor, anchor + literals), out);
    out += literals;
  } else {
    for (let i = 0; i < literals; i++) into[out++] = source[anchor + i]!;
  }
  if (offset === 0) return out;
  into[out++] = offset & 0xff;
  into[out++] = offset >> 8;
  if (extra >= 15) out = writeLength(into, out, extra - 15);
  return out;
}

function writeLength(into: Uint8Array, at: number, rest: number): number {
  while (rest >= 255) {
    into[at++] = 255;
    rest -= 255;
  }
  into[at++] = rest;
  return at;
}

/**
 * Decompresses `length` bytes at `from` into `into` at `at`, which has room for `limit` bytes. Returns the decompressed length,
 * or -1 when the input is malformed or does not fit: every read and write is bounded, whatever the input. With `wanted` it may
 * stop once that many bytes are there, without looking at the rest.
 */
export function decompressBlock(
  source: Uint8Array,
  from: number,
  length: number,
  into: Uint8Array,
  at: number,
  limit: number,
  wanted = Number.MAX_SAFE_INTEGER,
): number {
  const end = from + length;
  const outEnd = at + limit;
  let position = from;
  let out = at;
  while (position < end) {
    if (out - at >= wanted) return out - at;
    const token = source[position++]!;
    let literals = token >> 4;
    if (literals === 15) {
      let byte: number;
      do {
        if (position >= end) return -1;
        byte = source[position++]!;
        literals += byte;
      } while (byte === 255);
    }
    if (position + literals > end || out + literals > outEnd) return -1;
    if (literals > 48) {
      into.set(source.subarray(position, position + literals), out);
      out += literals;
      position += literals;
    } else {
      for (let i = 0; i < literals; i++) into[out++] = source[position++]!;
    }
    if (position === end) return out - at;
    if (position + 2 > end) return -1;
    const offset = source[position]! | (source[position + 1]! << 8);
    position += 2;
    let matched = (token & 15) + MIN_MATCH;
    if (matched === 15 + MIN_MATCH) {
      let byte: number;
      do {
        if (position >= end) return -1;
        byte = source[position++]!;
        matched += byte;
      } while (byte === 255);
    }
    let match = out - offset;
    if (offset === 0 || match < at || out + matched > outEnd) return -1;
    if (offset >= matched && matched > 48) {
      into.copyWithin(out, match, match + matched);
      out += matched;
    } else {
      for (let i = 0; i < matched; i++) into[out++] = into[match++]!;
    }
  }
  return -1;
}
