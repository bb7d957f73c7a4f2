// Turns sealed records and control entries into frames at definite places of the log. Owner: the engine; synchronous. It
// decides seq, segment and offset, so equal placement on all replicas is by construction. Sealing of a full segment (its
// index as last frame) and opening of the next happen here, between two frames.

import { assert, type LineageId, type VolumeId } from '../base/index.js';
import {
  type Cipher,
  type Compression,
  type ControlEntry,
  encodeControl,
  encodeMove,
  encodeSegmentHeader,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  FRAME_SIZE_MAX,
  frameDigest,
  INDEX_MOVED_RECORD,
  IndexBuilder,
  indexEntrySize,
  placeWord0,
  placeWord1,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_DEFAULT,
} from '../format/index.js';
import { FramePlan, type Kernel, type KeyRing, SealBatch } from '../hotpath/index.js';
import { type FrameMemory, FrameSlab } from './frame-slab.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

/** One frame on its way. `bytes` starts with the segment's header when `offset` is 0. */
export interface Frame {
  readonly seq: number;
  readonly segment: TableEntry;
  readonly offset: number;
  readonly bytes: Buffer;
  /** Where `bytes` lies: whoever forgets the frame releases it there, once. */
  readonly memory: FrameMemory;
  /** Places of its records, parallel arrays; empty for control frames. */
  readonly blocks: readonly number[];
  readonly runs: readonly number[];
  readonly words: readonly number[];
}

/** What one frame of moved records moves: their blocks, and the old map entry (two words) of the first block of each. */
export interface Moves {
  readonly blocks: number[];
  readonly runs: number[];
  readonly from: number[];
}

/** The first of them are copied as they are: `lengths` stored bytes (padded) of each at `at` of `bytes`. */
export interface CopiedRecords {
  readonly bytes: Buffer;
  readonly at: readonly number[];
  readonly lengths: readonly number[];
}

/** What the next frame names as the one before it. */
export function digestOf(frame: Frame): Buffer {
  return frameDigest(frame.bytes, frame.offset === 0 ? SEGMENT_HEADER_SIZE : 0);
}

const nothing: readonly number[] = [];
const noRecords = new SealBatch();

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
  readonly #plan: FramePlan;
  readonly #flags: number;
  readonly #wallMs: () => number;
  readonly #emit: (frame: Frame) => void;
  readonly #slab = new FrameSlab();
  #nextSeq: number;
  #recordNumber = 0;
  #segment: TableEntry | undefined;
  #index = new IndexBuilder();
  #pendingHeader: Buffer | undefined;
  /** What each frame header says of its predecessors; kept up to date by the engine. */
  committedThrough = 0;
  flushedThrough = 0;
  /** Bytes emitted in this reign. */
  bytesWritten = 0;

  constructor(
    start: LogStart,
    parts: {
      readonly table: SegmentTable;
      readonly kernel: Kernel;
      readonly seal: {
        readonly keys: KeyRing;
        readonly epoch: number;
        readonly cipher: Cipher;
        readonly compression: Compression;
      };
      readonly wallMs: () => number;
      readonly emit: (frame: Frame) => void;
    },
  ) {
    this.#start = start;
    this.#table = parts.table;
    this.#kernel = parts.kernel;
    this.#plan = new FramePlan({ ...parts.seal, volumeId: start.volumeId }, start.digest);
    this.#flags = parts.seal.keys.keyed && parts.seal.cipher !== 'none' ? FRAME_FLAG_MAC : 0;
    this.#wallMs = parts.wallMs;
    this.#emit = parts.emit;
    this.#nextSeq = start.nextSeq;
  }

  get lastSeq(): number {
    return this.#nextSeq - 1;
  }
  /** Of the newest frame, or of what was there before the first. A copy. */
  get digest(): Buffer {
    return Buffer.from(this.#plan.digest);
  }
  /** Where the next frame would begin; undefined when it opens a segment. */
  get position(): { segment: TableEntry; offset: number } | undefined {
    return this.#segment === undefined ? undefined : { segment: this.#segment, offset: this.#segment.length };
  }

  /** Seals the batch as one frame. Worst case of the batch must fit a frame. Returns the frame after emitting it. */
  writeRecords(batch: SealBatch): Frame {
    const { count } = batch;
    assert(batch.bytesMax <= FRAME_SIZE_MAX - FRAME_HEADER_SIZE, 'a batch fits one frame');
    const { segment, headerLength } = this.#place(batch.bytesMax, count);
    this.#reserve(headerLength, batch.bytesMax);
    const bytes = this.#seal(segment, headerLength, 0, 0, batch, 0);
    this.#recordNumber += count;
    // From places in the slab to places in the segment.
    const shift = segment.length - this.#slab.at;
    const blocks = new Array<number>(count);
    const runs = new Array<number>(count);
    const words = new Array<number>(count * 2);
    const word0 = placeWord0(segment.slot, 0);
    for (let i = 0; i < count; i++) {
      const offset = shift + batch.offset(i);
      const length = batch.storedLength(i);
      const block = batch.block(i);
      const run = batch.run(i);
      blocks[i] = block;
      runs[i] = run;
      words[i * 2] = word0;
      words[i * 2 + 1] = placeWord1(offset, length);
      this.#index.add(entryKind.record, offset, length, block, run);
    }
    return this.#finish(segment, bytes, blocks, runs, words);
  }

  /** One frame of control entries. Returns it together with the place (map words) of each entry. */
  writeEntries(entries: readonly Buffer[]): { frame: Frame; places: [number, number][] } {
    const size = entries.reduce((sum, entry) => sum + entry.length, 0);
    assert(size <= FRAME_SIZE_MAX - FRAME_HEADER_SIZE, 'control entries fit one frame');
    const { segment, headerLength } = this.#place(size, entries.length);
    this.#reserve(headerLength, size);
    const shift = segment.length - this.#slab.at;
    let at = this.#slab.at + headerLength + FRAME_HEADER_SIZE;
    const places: [number, number][] = [];
    for (const entry of entries) {
      entry.copy(this.#slab.bytes, at);
      const offset = shift + at;
      // The item of a control entry carries the frame's seq where a record's has its block.
      this.#index.add(entry[12]!, offset, entry.length, this.#nextSeq, 0);
      places.push(entry.length <= 65_536 ? [placeWord0(segment.slot, 0), placeWord1(offset, entry.length)] : [0, 0]);
      at += entry.length;
    }
    const bytes = this.#seal(segment, headerLength, size, entries.length, noRecords, 0);
    segment.mapBytes += size;
    segment.mapEntries += entries.length;
    return { frame: this.#finish(segment, bytes, nothing, nothing, nothing), places };
  }

  /**
   * One frame of moved records: copies, then what is sealed anew of others. Returns the new map entries, too, in the order of the moves;
   * the map changes only where it still has the old one.
   */
  writeMove(moves: Moves, copies: CopiedRecords, resealed: SealBatch): { frame: Frame; to: number[] } {
    const { lengths } = copies;
    assert(moves.from.length === 2 * (lengths.length + resealed.count), 'a move says where each of its records was');
    const entry = encodeMove(moves.from);
    const copied = lengths.reduce((sum, length) => sum + length, entry.length);
    assert(copied + resealed.bytesMax <= FRAME_SIZE_MAX - FRAME_HEADER_SIZE, 'moved records fit one frame');
    const { segment, headerLength } = this.#place(copied + resealed.bytesMax, 1 + lengths.length + resealed.count);
    this.#reserve(headerLength, copied + resealed.bytesMax);
    const shift = segment.length - this.#slab.at;
    const word0 = placeWord0(segment.slot, 0);
    const to: number[] = [];
    const place = (at: number, length: number, block: number, run: number) => {
      this.#index.add(INDEX_MOVED_RECORD, shift + at, length, block, run);
      to.push(word0, placeWord1(shift + at, length));
    };
    let at = this.#slab.at + headerLength + FRAME_HEADER_SIZE;
    entry.copy(this.#slab.bytes, at);
    this.#index.add(entryKind.move, shift + at, entry.length, this.#nextSeq, 0);
    at += entry.length;
    copyRecords(copies, this.#slab.bytes, at);
    for (let i = 0; i < lengths.length; i++) {
      place(at, lengths[i]!, moves.blocks[i]!, moves.runs[i]!);
      at += lengths[i]!;
    }
    const bytes = this.#seal(segment, headerLength, copied, 1 + lengths.length, resealed, 0);
    this.#recordNumber += resealed.count;
    for (let i = 0; i < resealed.count; i++)
      place(resealed.offset(i), resealed.storedLength(i), resealed.block(i), resealed.run(i));
    return { frame: this.#finish(segment, bytes, nothing, nothing, nothing), to };
  }

  writeControl(...entries: ControlEntry[]): Frame {
    return this.writeEntries(entries.map(encodeControl)).frame;
  }

  /** Ends the current segment with its index; the next frame opens a new one. */
  sealSegment(): void {
    const segment = this.#segment;
    if (segment === undefined) return;
    const entry = this.#index.encode(segment.length);
    this.#reserve(0, entry.length);
    entry.copy(this.#slab.bytes, this.#slab.at + FRAME_HEADER_SIZE);
    const bytes = this.#seal(segment, 0, entry.length, 1, noRecords, FRAME_FLAG_SEALS);
    this.#finish(segment, bytes, nothing, nothing, nothing);
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
      previousDigest: this.#plan.digest,
      createdAtMs: this.#wallMs(),
    });
    return { segment, headerLength: SEGMENT_HEADER_SIZE };
  }

  /** Room for a frame in the slab, with the segment's header in front when it is the first one. */
  #reserve(headerLength: number, bodyBytes: number): void {
    this.#slab.reserve(headerLength + FRAME_HEADER_SIZE + bodyBytes);
    if (headerLength > 0) this.#pendingHeader!.copy(this.#slab.bytes, this.#slab.at);
  }

  /** Seals what was reserved and placed: control entries that are there already, and the batch. The whole frame's bytes. */
  #seal(
    segment: TableEntry,
    headerLength: number,
    controlBytes: number,
    controlEntries: number,
    batch: SealBatch,
    flags: number,
  ): Buffer {
    const plan = this.#plan;
    plan.header(
      this.#nextSeq,
      this.committedThrough,
      this.flushedThrough,
      segment.ordinal,
      segment.length + headerLength,
      flags | this.#flags,
    );
    plan.body(this.#slab.at + headerLength, controlBytes, controlEntries, this.#recordNumber);
    return this.#slab.keep(this.#kernel.seal(plan, batch, this.#slab.bytes));
  }

  #finish(
    segment: TableEntry,
    bytes: Buffer,
    blocks: readonly number[],
    runs: readonly number[],
    words: readonly number[],
  ): Frame {
    const seq = this.#nextSeq++;
    const offset = segment.length;
    segment.length = offset + bytes.length;
    segment.lastSeq = seq;
    this.bytesWritten += bytes.length;
    const frame: Frame = { seq, segment, offset, bytes, memory: this.#slab.memory, blocks, runs, words };
    this.#emit(frame);
    return frame;
  }
}

/** Side by side, from byte `to` on; what lies side by side already goes in one piece. */
function copyRecords({ bytes, at, lengths }: CopiedRecords, into: Buffer, to: number): void {
  for (let i = 0; i < at.length; ) {
    const start = at[i]!;
    let end = start;
    while (at[i] === end) end += lengths[i++]!;
    bytes.copy(into, to, start, end);
    to += end - start;
  }
}
