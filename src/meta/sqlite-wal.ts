// Looks for damage in a write-ahead log before SQLite reads it. SQLite takes the first frame that does not verify for the
// end of the log, which is right for a torn tail and wrong for a flipped bit: everything after it, acknowledged or not, would
// silently be gone. Each of our transactions is synced before the next begins, so a torn tail is within the last one: a bad
// frame with two or more commits at or after it was durable once, and is damage. (Damage within the very last transaction
// can't be told from a torn tail; the daemons, who remember the highest version they saw, notice that one.)
// Format: sqlite.org/fileformat2.html section 4. LocalStore's file is checkpointed to an empty log at each open, so frames of
// the current salt never include leftovers of an earlier recovery.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { errnoOf } from '../base/index.js';

const HEADER_BYTES = 32;
const FRAME_HEADER_BYTES = 24;
const MAGIC = 0x377f0682;

type Sums = readonly [number, number];

/** The log's own checksum: two running sums over pairs of 32-bit words in the byte order that the magic number names. */
function sum(bytes: Buffer, [first, second]: Sums, bigEndian: boolean): Sums {
  let s0 = first;
  let s1 = second;
  for (let i = 0; i + 8 <= bytes.length; i += 8) {
    s0 = (s0 + (bigEndian ? bytes.readUInt32BE(i) : bytes.readUInt32LE(i)) + s1) >>> 0;
    s1 = (s1 + (bigEndian ? bytes.readUInt32BE(i + 4) : bytes.readUInt32LE(i + 4)) + s0) >>> 0;
  }
  return [s0, s1];
}

function storedSums(bytes: Buffer, at: number): Sums {
  return [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)];
}

function equal(a: Sums, b: Sums): boolean {
  return a[0] === b[0] && a[1] === b[1];
}

function read(fd: number, position: number, length: number): Buffer {
  const bytes = Buffer.alloc(length);
  return bytes.subarray(0, readSync(fd, bytes, 0, length, position));
}

/** What is wrong with the log at `path`, or undefined when nothing is (or there is none). Reads only. */
export function walDamage(path: string): string | undefined {
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return scan(fd, fstatSync(fd).size);
  } finally {
    closeSync(fd);
  }
}

function scan(fd: number, size: number): string | undefined {
  if (size <= HEADER_BYTES) return undefined;
  const header = read(fd, 0, HEADER_BYTES);
  const magic = header.readUInt32BE(0);
  const bigEndian = (magic & 1) === 1;
  const pageBytes = header.readUInt32BE(8);
  const seed = sum(header.subarray(0, 24), [0, 0], bigEndian);
  if ((magic & ~1) >>> 0 !== MAGIC || !equal(seed, storedSums(header, 24)) || pageBytes < 512 || pageBytes > 65536) {
    // The header is synced before the first frame is written, so a log with frames has a good one. A log that never got
    // further than its first write may read as zeroes.
    const start = read(fd, 0, Math.min(size, HEADER_BYTES + FRAME_HEADER_BYTES));
    return start.every((byte) => byte === 0) ? undefined : 'its write-ahead log has a damaged header';
  }
  return scanFrames(fd, size, header.readBigUInt64BE(16), pageBytes, bigEndian, seed);
}

function scanFrames(
  fd: number,
  size: number,
  salt: bigint,
  pageBytes: number,
  bigEndian: boolean,
  seed: Sums,
): string | undefined {
  const frameBytes = FRAME_HEADER_BYTES + pageBytes;
  let sums = seed;
  let bad: number | undefined;
  let commitsAfter = 0;
  for (let at = HEADER_BYTES; at + frameBytes <= size; at += frameBytes) {
    const frame = read(fd, at, frameBytes);
    if (bad === undefined) {
      sums = sum(frame.subarray(FRAME_HEADER_BYTES), sum(frame.subarray(0, 8), sums, bigEndian), bigEndian);
      const good = frame.readBigUInt64BE(8) === salt && equal(sums, storedSums(frame, 16));
      if (good) continue;
      bad = at;
    }
    if (frame.readBigUInt64BE(8) === salt && frame.readUInt32BE(4) !== 0) commitsAfter++;
  }
  if (bad === undefined || commitsAfter < 2) return undefined;
  return `its write-ahead log is damaged at byte ${bad}, before ${commitsAfter} committed changes`;
}
