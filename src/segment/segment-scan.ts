// What one segment file holds, as recovery needs to know it. "quick" trusts bodies: a sealed segment costs three small
// reads, an open one a read per frame; "full" checks every byte of every frame.

import { ALIGN, HoldfastError } from '../base/index.js';
import {
  DIGEST_SIZE,
  decodeFrame,
  decodeIndexTrailer,
  decodeSegmentHeader,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  frameDigest,
  parseSegmentFileName,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_MAX,
  type SegmentHeader,
  type SegmentName,
  segmentFileName,
} from '../format/index.js';
import type { Disk, DiskFile } from './disk.js';
import { isUnreadable } from './disk-error.js';
import { findLaterFrames, type SegmentContext, type WalkFault, type WalkStart, walkFrames } from './frame-walk.js';

export interface SegmentScan {
  readonly name: SegmentName;
  /** The header, or why there is none. */
  readonly header: SegmentHeader | string;
  /** The last valid frame; what the header says stands before the first one while there is none. */
  readonly seq: number;
  readonly digest: Buffer;
  /** End of the last valid frame; 0 without a header. */
  readonly length: number;
  /** Bytes of the file: more than `length` when zeroes were written ahead, or when there is a fault. */
  readonly fileSize: number;
  readonly sealed: boolean;
  /** Null when nothing but zeroes follows the last valid frame. */
  readonly fault: WalkFault | null;
  /** Whole valid frames lie beyond the fault, or may: something from there on can't be read. */
  readonly laterFrames: boolean;
  /** Highest claim of any valid frame, those beyond the fault included. */
  readonly flushedThrough: number;
  /** Every valid frame's body was checked. */
  readonly full: boolean;
}

export const zeroDigest: Buffer = Buffer.alloc(DIGEST_SIZE);

/** Segments in a replica's directory, in log order. Files that are none (superblocks, leftovers) are left out. */
export function listSegments(disk: Disk, directory: string): SegmentName[] {
  const names: SegmentName[] = [];
  for (const file of disk.list(directory)) {
    const name = parseSegmentFileName(file);
    if (name) names.push(name);
  }
  return names;
}

export function segmentPath(directory: string, name: SegmentName): string {
  return `${directory}/${segmentFileName(name)}`;
}

export function scanSegment(disk: Disk, directory: string, name: SegmentName, full: boolean): SegmentScan {
  const path = segmentPath(directory, name);
  const file = disk.openFile(path, 'read');
  try {
    const header = readHeader(file, name, path);
    if (typeof header === 'string') return headless(file, name, header);
    if (!full) {
      const sealed = quickSealed(file, header);
      if (sealed) {
        const fileSize = sealed.length;
        return { name, header, ...sealed, fileSize, sealed: true, fault: null, laterFrames: false, full: false };
      }
    }
    return walked(file, header, full);
  } finally {
    file.close();
  }
}

function readHeader(file: DiskFile, name: SegmentName, path: string): SegmentHeader | string {
  const bytes = Buffer.alloc(SEGMENT_HEADER_SIZE);
  try {
    const count = file.read(bytes, 0);
    const header = decodeSegmentHeader(bytes.subarray(0, count), path);
    if (header.epoch !== name.epoch || header.ordinal !== name.ordinal) {
      return `segment header of ${path}: names segment (${header.epoch}, ${header.ordinal})`;
    }
    if (file.size() > SEGMENT_SIZE_MAX)
      return `${path} has ${file.size()} bytes, a segment at most ${SEGMENT_SIZE_MAX}`;
    return header;
  } catch (error) {
    if (error instanceof HoldfastError && error.code === 'DATA_LOSS') return error.message;
    throw error;
  }
}

function headless(file: DiskFile, name: SegmentName, fault: string): SegmentScan {
  const later = findLaterFrames(file, { name, volumeId: null }, 0);
  return {
    name,
    header: fault,
    seq: 0,
    digest: zeroDigest,
    length: 0,
    fileSize: file.size(),
    sealed: false,
    fault: null,
    laterFrames: later.found,
    flushedThrough: later.flushedThrough,
    full: true,
  };
}

/**
 * A sealed segment by its trailer and last frame's header, or undefined when these don't fit: then the frames are walked. So it
 * is with one whose file still has zeroes behind its trailer, because a crash came before they were cut off.
 */
function quickSealed(
  file: DiskFile,
  header: SegmentHeader,
): { seq: number; digest: Buffer; length: number; flushedThrough: number } | undefined {
  const size = file.size();
  const trailer = Buffer.alloc(ALIGN);
  if (size < SEGMENT_HEADER_SIZE + FRAME_HEADER_SIZE + ALIGN || size % ALIGN !== 0) return undefined;
  if (!canRead(file, trailer, size - ALIGN)) return undefined;
  const index = decodeIndexTrailer(trailer);
  if (!index || index.frameOffset < SEGMENT_HEADER_SIZE || index.frameOffset > size - FRAME_HEADER_SIZE)
    return undefined;
  const bytes = Buffer.alloc(FRAME_HEADER_SIZE);
  if (!canRead(file, bytes, index.frameOffset)) return undefined;
  const frame = decodeFrame(bytes, 0, false);
  if (typeof frame === 'string' || (frame.flags & FRAME_FLAG_SEALS) === 0) return undefined;
  const fits =
    frame.epoch === header.epoch &&
    frame.ordinal === header.ordinal &&
    frame.volumeId === header.volumeId &&
    frame.offset === index.frameOffset &&
    frame.offset + FRAME_HEADER_SIZE + frame.bodyLength === size &&
    frame.seq >= header.firstSeq;
  if (!fits) return undefined;
  return {
    seq: frame.seq,
    digest: Buffer.from(frameDigest(bytes, 0)),
    length: size,
    flushedThrough: frame.flushedThrough,
  };
}

/** False when the place can't be read. */
function canRead(file: DiskFile, into: Buffer, position: number): boolean {
  try {
    file.read(into, position);
    return true;
  } catch (error) {
    if (isUnreadable(error)) return false;
    throw error;
  }
}

/** How to walk a segment's frames from its first one. */
export function walkStart(header: SegmentHeader): { context: SegmentContext; start: WalkStart } {
  return {
    context: { name: { epoch: header.epoch, ordinal: header.ordinal }, volumeId: header.volumeId },
    start: { offset: SEGMENT_HEADER_SIZE, seq: header.firstSeq - 1, digest: header.previousDigest },
  };
}

/** Whether everything that touches the range checks out: the frames, and the header when the range reaches into it. */
export function isSound(file: DiskFile, header: SegmentHeader, offset: number, length: number): boolean {
  const name = { epoch: header.epoch, ordinal: header.ordinal };
  if (offset < SEGMENT_HEADER_SIZE && typeof readHeader(file, name, file.path) === 'string') return false;
  const { context, start } = walkStart(header);
  const end = walkFrames(file, context, start, true, (frame) => frame.offset + frame.length < offset + length);
  return end.offset >= offset + length;
}

function walked(file: DiskFile, header: SegmentHeader, full: boolean): SegmentScan {
  const { context, start } = walkStart(header);
  const end = walkFrames(file, context, start, full);
  const from = end.fault === 'unreadable' ? end.offset : end.offset + ALIGN;
  const later = end.fault === null ? { found: false, flushedThrough: 0 } : findLaterFrames(file, context, from);
  return {
    name: context.name,
    header,
    seq: end.seq,
    digest: end.digest,
    length: end.offset,
    fileSize: file.size(),
    sealed: end.sealed,
    fault: end.fault,
    laterFrames: later.found,
    flushedThrough: Math.max(end.flushedThrough, later.flushedThrough),
    full,
  };
}
