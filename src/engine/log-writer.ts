// Turns sealed records and control entries into frames at definite places of the log. Owner: the engine; synchronous. It
// decides seq, segment and offset, so equal placement on all replicas is by construction. Sealing of a full segment (its
// index as last frame) and opening of the next happen here, between two frames.

import { assert, KiB, type LineageId, type VolumeId } from '../base/index.js';
import {
  type ControlEntry,
  encodeControl,
  encodeFrameHeader,
  encodeSegmentHeader,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  FRAME_MAC_AT,
  FRAME_SIZE_MAX,
  frameDigest,
  IndexBuilder,
  indexEntrySize,
  placeWord0,
  placeWord1,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_DEFAULT,
} from '../format/index.js';
import {
  frameMac,
  type Kernel,
  type KeyRing,
  recordSizeMax,
  type SealBatch,
  type SealContext,
} from '../hotpath/index.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** One frame on its way. `bytes` starts with the segment's header when `offset` is 0. */
export interface Frame {
  readonly seq: number;
  readonly segment: TableEntry;
  readonly offset: number;
  readonly bytes: Buffer;
  readonly digest: Buffer;
  /** Places of its records, parallel arrays; empty for control frames. */
  readonly blocks: readonly number[];
  readonly runs: readonly number[];
  readonly words: readonly number[];
}

const nothing: readonly number[] = [];

/** Small frames share buffers of this size: one allocation for hundreds of them, and nothing kept of their worst case. */
const SLAB_BYTES = 512 * KiB;
/** Larger frames get a buffer of their own, so that little of a slab is left over. */
const SLAB_FRAME_MAX = 64 * KiB;

/** Where frames are made. Frames are forgotten in the order in which they were made, so slabs are, too. */
class FrameSlab {
  #slab = Buffer.alloc(0);
  #used = 0;

  /** A buffer of `most` bytes, good until the next call. */
  reserve(most: number): Buffer {
    if (most > SLAB_FRAME_MAX) return Buffer.allocUnsafeSlow(most);
    if (this.#slab.length - this.#used < most) {
      this.#slab = Buffer.allocUnsafeSlow(SLAB_BYTES);
      this.#used = 0;
    }
    return this.#slab.subarray(this.#used, this.#used + most);
  }
  /** The first `length` bytes of what reserve() gave last, to keep. */
  keep(reserved: Buffer, length: number): Buffer {
    if (reserved.buffer === this.#slab.buffer) this.#used += length;
    return reserved.subarray(0, length);
  }
}

export interface LogStart {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly reign: Reign;
  readonly nextSeq: number;
  readonly digest: Buffer;
}

export class LogWriter {
  readonly #start: LogStart;
  readonly #table: SegmentTable;
  readonly #kernel: Kernel;
  readonly #keys: KeyRing;
  readonly #seal: SealContext;
  readonly #wallMs: () => number;
  readonly #emit: (frame: Frame) => void;
  #nextSeq: number;
  #digest: Buffer;
  #recordNumber = 0;
  #segment: TableEntry | undefined;
  #index = new IndexBuilder();
  #pendingHeader: Buffer | undefined;
  readonly #slab = new FrameSlab();
  /** What each frame header says of its predecessors; kept up to date by the engine. */
  committedThrough = 0;
  flushedThrough = 0;
  /** Bytes emitted in this reign. */
  bytesWritten = 0;

  constructor(
    start: LogStart,
    parts: {
      table: SegmentTable;
      kernel: Kernel;
      seal: SealContext;
      wallMs: () => number;
      emit: (frame: Frame) => void;
    },
  ) {
    this.#start = start;
    this.#table = parts.table;
    this.#kernel = parts.kernel;
    this.#seal = parts.seal;
    this.#keys = parts.seal.keys;
    this.#wallMs = parts.wallMs;
    this.#emit = parts.emit;
    this.#nextSeq = start.nextSeq;
    this.#digest = start.digest;
  }

  get lastSeq(): number {
    return this.#nextSeq - 1;
  }
  get digest(): Buffer {
    return this.#digest;
  }
  /** Where the next frame would begin; undefined when it opens a segment. */
  get position(): { segment: TableEntry; offset: number } | undefined {
    return this.#segment === undefined ? undefined : { segment: this.#segment, offset: this.#segment.length };
  }

  /** Seals the batch as one frame. Worst case of the batch must fit a frame. Returns the frame after emitting it. */
  writeRecords(batch: SealBatch): Frame {
    let worst = 0;
    for (let i = 0; i < batch.count; i++) worst += recordSizeMax(batch.runs[i]!);
    assert(worst <= FRAME_SIZE_MAX - FRAME_HEADER_SIZE, 'a batch fits one frame');
    const { segment, headerLength } = this.#place(worst, batch.count);
    const reserved = this.#slab.reserve(headerLength + FRAME_HEADER_SIZE + worst);
    const bodyAt = headerLength + FRAME_HEADER_SIZE;
    const end = this.#kernel.seal(this.#seal, batch, this.#recordNumber, reserved, bodyAt);
    const bytes = this.#slab.keep(reserved, end);
    this.#recordNumber += batch.count;
    const shift = headerLength === 0 ? segment.length : 0;
    const blocks = new Array<number>(batch.count);
    const runs = new Array<number>(batch.count);
    const words = new Array<number>(batch.count * 2);
    for (let i = 0; i < batch.count; i++) {
      const offset = shift + batch.offsets[i]!;
      const length = batch.lengths[i]!;
      blocks[i] = batch.blocks[i]!;
      runs[i] = batch.runs[i]!;
      words[i * 2] = placeWord0(segment.slot, 0);
      words[i * 2 + 1] = placeWord1(offset, length);
      this.#index.add(entryKind.record, offset, length, batch.blocks[i]!, batch.runs[i]!);
    }
    return this.#finish(segment, bytes, headerLength, batch.count, 0, blocks, runs, words);
  }

  /** One frame of control entries. Returns it together with the place (map words) of each entry. */
  writeEntries(entries: readonly Buffer[]): { frame: Frame; places: [number, number][] } {
    const size = entries.reduce((sum, entry) => sum + entry.length, 0);
    assert(size <= FRAME_SIZE_MAX - FRAME_HEADER_SIZE, 'control entries fit one frame');
    const { segment, headerLength } = this.#place(size, entries.length);
    const bytes = Buffer.allocUnsafe(headerLength + FRAME_HEADER_SIZE + size);
    const shift = headerLength === 0 ? segment.length : 0;
    let at = headerLength + FRAME_HEADER_SIZE;
    const places: [number, number][] = [];
    for (const entry of entries) {
      entry.copy(bytes, at);
      const offset = shift + at;
      // The item of a control entry carries the frame's seq where a record's has its block.
      this.#index.add(entry[12]!, offset, entry.length, this.#nextSeq, 0);
      places.push(entry.length <= 65_536 ? [placeWord0(segment.slot, 0), placeWord1(offset, entry.length)] : [0, 0]);
      at += entry.length;
    }
    const frame = this.#finish(segment, bytes, headerLength, entries.length, 0, nothing, nothing, nothing);
    return { frame, places };
  }

  writeControl(...entries: ControlEntry[]): Frame {
    return this.writeEntries(entries.map(encodeControl)).frame;
  }

  /** Ends the current segment with its index; the next frame opens a new one. */
  sealSegment(): void {
    const segment = this.#segment;
    if (segment === undefined) return;
    const entry = this.#index.encode(segment.length);
    const bytes = Buffer.allocUnsafe(FRAME_HEADER_SIZE + entry.length);
    entry.copy(bytes, FRAME_HEADER_SIZE);
    this.#finish(segment, bytes, 0, 1, FRAME_FLAG_SEALS, nothing, nothing, nothing);
    segment.closed = true;
    segment.sealed = true;
    this.#segment = undefined;
  }

  #place(bodyBytes: number, entries: number): { segment: TableEntry; headerLength: number } {
    const current = this.#segment;
    if (current !== undefined) {
      const after =
        current.length +
        FRAME_HEADER_SIZE +
        bodyBytes +
        FRAME_HEADER_SIZE +
        indexEntrySize(this.#index.count + entries);
      if (after <= SEGMENT_SIZE_DEFAULT) return { segment: current, headerLength: 0 };
      this.sealSegment();
    }
    const segment = this.#table.open(this.#start.reign.epoch, this.#nextSeq);
    this.#segment = segment;
    this.#index = new IndexBuilder();
    this.#pendingHeader = encodeSegmentHeader({
      epoch: segment.epoch,
      reignId: this.#start.reign.reignId,
      ordinal: segment.ordinal,
      slot: segment.slot,
      volumeId: this.#start.volumeId,
      lineageId: this.#start.lineageId,
      firstSeq: this.#nextSeq,
      previousDigest: this.#digest,
      createdAtMs: this.#wallMs(),
    });
    return { segment, headerLength: SEGMENT_HEADER_SIZE };
  }

  #finish(
    segment: TableEntry,
    bytes: Buffer,
    headerLength: number,
    entryCount: number,
    flags: number,
    blocks: readonly number[],
    runs: readonly number[],
    words: readonly number[],
  ): Frame {
    if (headerLength > 0) this.#pendingHeader!.copy(bytes, 0);
    const frameOffset = headerLength > 0 ? headerLength : segment.length;
    const bodyLength = bytes.length - headerLength - FRAME_HEADER_SIZE;
    const seq = this.#nextSeq++;
    const keyed = this.#keys.keyed && this.#seal.cipher !== 'none';
    const header = {
      flags: flags | (keyed ? FRAME_FLAG_MAC : 0),
      bodyLength,
      entryCount,
      epoch: segment.epoch,
      seq,
      committedThrough: this.committedThrough,
      flushedThrough: this.flushedThrough,
      ordinal: segment.ordinal,
      offset: frameOffset,
      volumeId: this.#start.volumeId,
    };
    const bodyChecksum = encodeFrameHeader(bytes, headerLength, header, this.#digest);
    if (keyed) {
      // The mac covers the header's other fields, so they are written first, and the header's checksum once more after it.
      frameMac(this.#keys, segment.epoch, bytes, headerLength, bodyLength).copy(bytes, headerLength + FRAME_MAC_AT);
      encodeFrameHeader(bytes, headerLength, header, this.#digest, bodyChecksum);
    }
    this.#digest = frameDigest(bytes, headerLength);
    const offset = headerLength > 0 ? 0 : segment.length;
    segment.length = offset + bytes.length;
    segment.lastSeq = seq;
    this.bytesWritten += bytes.length;
    const frame: Frame = { seq, segment, offset, bytes, digest: this.#digest, blocks, runs, words };
    this.#emit(frame);
    return frame;
  }
}
