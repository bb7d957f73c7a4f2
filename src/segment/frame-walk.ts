// Walks the frames of one segment file and checks everything a replica can check: checksums, the place each frame says it
// lies at, and the chain of sequence numbers and digests.

import { ALIGN, BLOCK_SIZE, unknownVersion, type VolumeId } from '../base/index.js';
import {
  decodeFrame,
  FORMATS_READ,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  FRAME_SIZE_MAX,
  type FrameFault,
  type FrameHeader,
  followsDigest,
  frameDigest,
  type SegmentName,
} from '../format/index.js';
import type { DiskFile } from './disk.js';
import { isUnreadable } from './disk-error.js';

/** What the frames of a segment must say of themselves; from the segment's header. */
export interface SegmentContext {
  readonly name: SegmentName;
  /** Null when the header is unreadable: any volume is then taken. */
  readonly volumeId: VolumeId | null;
}

export interface WalkStart {
  readonly offset: number;
  /** The frame before `offset`. */
  readonly seq: number;
  readonly digest: Buffer;
}

/** Why the bytes after the last valid frame are no frame of this segment. 'unreadable': the disk can't give them. */
export type WalkFault = FrameFault | ChainFault | 'after-seal' | 'unreadable';
/** Valid by itself, but not what belongs here. */
export type ChainFault = 'volume' | 'place' | 'epoch' | 'seq' | 'digest' | 'claims';

export interface WalkEnd {
  /** End of the last valid frame. */
  readonly offset: number;
  readonly seq: number;
  readonly digest: Buffer;
  /** Highest claim among the valid frames. */
  readonly flushedThrough: number;
  /** The last valid frame ends a sealed segment. */
  readonly sealed: boolean;
  /** Null when the file ends at `offset` or holds only zeroes after it. */
  readonly fault: WalkFault | null;
}

export interface WalkedFrame {
  readonly header: FrameHeader;
  readonly offset: number;
  /** Header and body. */
  readonly length: number;
  readonly digest: Buffer;
}

/**
 * The fault of a frame that decodes but doesn't belong here, or null. `expected` is the place behind the frame before it.
 * The accept rule of a replica and the recovery scan share it, so that nothing is accepted that would not be found again.
 */
export function chainFault(
  header: FrameHeader,
  bytes: Buffer,
  at: number,
  context: SegmentContext,
  expected: WalkStart,
): ChainFault | null {
  if (context.volumeId !== null && header.volumeId !== context.volumeId) return 'volume';
  if (header.epoch !== context.name.epoch) return 'epoch';
  if (header.ordinal !== context.name.ordinal || header.offset !== expected.offset) return 'place';
  if (header.seq !== expected.seq + 1) return 'seq';
  if (!followsDigest(bytes, at, expected.digest)) return 'digest';
  if (header.committedThrough >= header.seq || header.flushedThrough >= header.seq) return 'claims';
  return null;
}

/** Walks from `start` to the first thing that is no valid frame. `visit` may return false to stop early (then fault is null). */
export function walkFrames(
  file: DiskFile,
  context: SegmentContext,
  start: WalkStart,
  verifyBodies: boolean,
  visit?: (frame: WalkedFrame) => boolean,
): WalkEnd {
  const window = new FileWindow(file, verifyBodies ? 1024 * 1024 : 4096);
  let { offset, seq, digest } = start;
  let flushedThrough = 0;
  let sealed = false;
  const end = (fault: WalkFault | null): WalkEnd => ({ offset, seq, digest, flushedThrough, sealed, fault });
  while (offset < window.fileSize) {
    if (sealed) return end(window.isBlank(offset) ? null : 'after-seal');
    const header = readFrame(window, offset, verifyBodies);
    if (typeof header === 'string') {
      const harmless = (header === 'blank' || header === 'short') && window.isBlank(offset);
      return end(harmless ? null : header);
    }
    const head = window.view(offset, FRAME_HEADER_SIZE);
    if (typeof head === 'string') return end(head);
    const { bytes, at } = head;
    const fault = chainFault(header, bytes, at, context, { offset, seq, digest });
    if (fault !== null) return end(fault);
    const length = FRAME_HEADER_SIZE + header.bodyLength;
    seq = header.seq;
    digest = Buffer.from(frameDigest(bytes, at));
    flushedThrough = Math.max(flushedThrough, header.flushedThrough);
    sealed = (header.flags & FRAME_FLAG_SEALS) !== 0;
    const frame = { header, offset, length, digest };
    offset += length;
    if (visit && !visit(frame)) return end(null);
  }
  return end(null);
}

/**
 * The frame at `offset`, its whole extent inside the file; checks the body too when asked. Throws FAILED_PRECONDITION/UnknownVersion at one
 * that another release wrote: its header's checksum is right, so it is no rubbish that a crash left, and must not be cut off as such.
 */
function readFrame(window: FileWindow, offset: number, withBody: boolean): FrameHeader | FrameFault | 'unreadable' {
  const head = window.view(offset, FRAME_HEADER_SIZE);
  if (typeof head === 'string') return head;
  const header = decodeFrame(head.bytes, head.at, false);
  if (header === 'version') {
    const what = `the disk format of the frame at ${offset} of ${window.path}`;
    throw unknownVersion(what, head.bytes.readUInt16LE(head.at + 4), FORMATS_READ);
  }
  if (typeof header === 'string') return header;
  const length = FRAME_HEADER_SIZE + header.bodyLength;
  if (offset + length > window.fileSize) return 'short';
  if (!withBody) return header;
  const whole = window.view(offset, length);
  return typeof whole === 'string' ? whole : decodeFrame(whole.bytes, whole.at, true);
}

/**
 * Looks for whole valid frames of this segment after a bad one. They decide whether the bad one can be a torn tail, and
 * what they say was flushed. What can't be read counts as found: no crash of a process leaves that.
 */
export function findLaterFrames(
  file: DiskFile,
  context: SegmentContext,
  from: number,
): { found: boolean; flushedThrough: number } {
  const window = new FileWindow(file, 1024 * 1024);
  let found = false;
  let flushedThrough = 0;
  let offset = Math.ceil(from / ALIGN) * ALIGN;
  while (offset + FRAME_HEADER_SIZE <= window.fileSize) {
    const header = readFrame(window, offset, true);
    if (header === 'unreadable') found = true;
    const ours =
      typeof header !== 'string' &&
      header.ordinal === context.name.ordinal &&
      header.epoch === context.name.epoch &&
      header.offset === offset &&
      (context.volumeId === null || header.volumeId === context.volumeId);
    if (ours) {
      found = true;
      flushedThrough = Math.max(flushedThrough, header.flushedThrough);
      offset += FRAME_HEADER_SIZE + header.bodyLength;
    } else offset += ALIGN;
  }
  return { found, flushedThrough };
}

/** A moving window over a file, so that a walk costs few reads. Views are valid until the next call. */
class FileWindow {
  readonly fileSize: number;
  readonly path: string;
  readonly #file: DiskFile;
  #bytes: Buffer;
  #start = 0;
  #length = 0;
  /** Where the filesystem's blocks begin that can't be read. */
  readonly #bad = new Set<number>();

  constructor(file: DiskFile, windowBytes: number) {
    this.#file = file;
    this.path = file.path;
    this.fileSize = file.size();
    this.#bytes = Buffer.allocUnsafe(windowBytes);
  }

  /** `length` (at most FRAME_SIZE_MAX) bytes at `offset`; 'short' when the file ends before. */
  view(offset: number, length: number): { bytes: Buffer; at: number } | 'short' | 'unreadable' {
    if (offset + length > this.fileSize || length > FRAME_SIZE_MAX) return 'short';
    if (offset < this.#start || offset + length > this.#start + this.#length) {
      if (length > this.#bytes.length) this.#bytes = Buffer.allocUnsafe(FRAME_SIZE_MAX);
      this.#start = offset;
      this.#length = this.#fill(offset);
      if (this.#length < length) return this.#bad.has(blockOf(offset + this.#length)) ? 'unreadable' : 'short';
    }
    return { bytes: this.#bytes.subarray(0, this.#length), at: offset - this.#start };
  }

  /** Reads on from `offset` as far as the window or the file goes, or to the first block that can't be read; returns the bytes. */
  #fill(offset: number): number {
    let end = offset + this.#bytes.length;
    for (const bad of this.#bad) if (bad + BLOCK_SIZE > offset) end = Math.min(end, Math.max(bad, offset));
    try {
      return this.#read(offset, end);
    } catch (error) {
      if (!isUnreadable(error)) throw error;
    }
    // Somewhere in there; found once, since each try may take a failing disk seconds.
    for (let at = offset; ; ) {
      try {
        const next = Math.min(end, blockOf(at) + BLOCK_SIZE);
        const count = this.#read(at, next, at - offset);
        if (at + count < next || next === end) return at + count - offset;
        at = next;
      } catch (error) {
        if (!isUnreadable(error)) throw error;
        this.#bad.add(blockOf(at));
        return at - offset;
      }
    }
  }

  #read(from: number, to: number, at = 0): number {
    return this.#file.read(this.#bytes.subarray(at, at + to - from), from);
  }

  /** Only zeroes from `offset` to the end of the file. */
  isBlank(offset: number): boolean {
    for (let at = offset; at < this.fileSize; ) {
      const part = Math.min(this.#bytes.length, this.fileSize - at);
      const found = this.view(at, part);
      if (typeof found === 'string') return found === 'short';
      const bytes = found.bytes.subarray(found.at, found.at + part);
      for (let i = 0; i < bytes.length; i++) if (bytes[i] !== 0) return false;
      at += part;
    }
    return true;
  }
}

function blockOf(offset: number): number {
  return offset - (offset % BLOCK_SIZE);
}
