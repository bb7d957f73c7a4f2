// What the kernel is asked to do: batches and plans. They are blocks of numbers without an object per record, laid out so that the
// native kernel reads them where they lie (native/src/seal.rs knows the same places). They are used again for every call.

import { assert, BLOCK_SIZE, uuidToBytes, type VolumeId } from '../base/index.js';
import {
  type Cipher,
  type Compression,
  cipherId,
  compressionId,
  DIGEST_SIZE,
  RECORD_HEADER_SIZE,
  TAG_SIZE,
} from '../format/index.js';
import type { KeyRing } from './keys.js';

/** Most bytes a record of `run` blocks can take, padded. */
export function recordSizeMax(run: number): number {
  return Math.ceil((RECORD_HEADER_SIZE + run * BLOCK_SIZE + TAG_SIZE) / 64) * 64;
}

const nothing = new Uint8Array(0);

/** Rows of `bytes` each, as many as asked for, seen as doubles and as 32-bit words. */
class Rows {
  readonly #rowBytes: number;
  bytes: Uint8Array;
  numbers: Float64Array;
  words: Uint32Array;

  constructor(rowBytes: number, rows: number) {
    this.#rowBytes = rowBytes;
    this.bytes = new Uint8Array(rowBytes * rows);
    this.numbers = new Float64Array(this.bytes.buffer);
    this.words = new Uint32Array(this.bytes.buffer);
  }
  get room(): number {
    return this.bytes.length / this.#rowBytes;
  }
  double(): void {
    const larger = new Uint8Array(this.bytes.length * 2);
    larger.set(this.bytes);
    this.bytes = larger;
    this.numbers = new Float64Array(larger.buffer);
    this.words = new Uint32Array(larger.buffer);
  }
}

/** Records to seal, in order. After sealing, where each lies. */
export class SealBatch {
  // A row: double block; words run, source, byte in the source, then filled in: place in the output, stored length; one unused.
  readonly #rows = new Rows(32, 64);
  count = 0;
  /** Most bytes the records can take. */
  bytesMax = 0;
  /** Each source once as long as it is used for records that follow each other. */
  readonly sources: Uint8Array[] = [];
  sourceCount = 0;

  /** `run` whole blocks that begin at byte `sourceAt` of `source`, which must not change until the batch is sealed. */
  add(block: number, run: number, source: Uint8Array, sourceAt = 0): void {
    assert(sourceAt + run * BLOCK_SIZE <= source.length, 'a record is sealed from whole blocks');
    if (this.sourceCount === 0 || this.sources[this.sourceCount - 1] !== source)
      this.sources[this.sourceCount++] = source;
    const rows = this.#rows;
    if (this.count === rows.room) rows.double();
    const i = this.count++;
    rows.numbers[i * 4] = block;
    const { words } = rows;
    words[i * 8 + 2] = run;
    words[i * 8 + 3] = this.sourceCount - 1;
    words[i * 8 + 4] = sourceAt;
    this.bytesMax += recordSizeMax(run);
  }
  clear(): void {
    // Lets go of the memory that was sealed, but keeps the array's room.
    for (let i = 0; i < this.sourceCount; i++) this.sources[i] = nothing;
    this.sourceCount = 0;
    this.count = 0;
    this.bytesMax = 0;
  }

  block(i: number): number {
    return this.#rows.numbers[i * 4]!;
  }
  run(i: number): number {
    return this.#rows.words[i * 8 + 2]!;
  }
  source(i: number): Uint8Array {
    return this.sources[this.#rows.words[i * 8 + 3]!]!;
  }
  sourceAt(i: number): number {
    return this.#rows.words[i * 8 + 4]!;
  }
  /** Where the record begins in the output. */
  offset(i: number): number {
    return this.#rows.words[i * 8 + 5]!;
  }
  /** Its stored length, padded to 64. */
  storedLength(i: number): number {
    return this.#rows.words[i * 8 + 6]!;
  }
  /** For a kernel that is not native. */
  placed(i: number, offset: number, storedLength: number): void {
    this.#rows.words[i * 8 + 5] = offset;
    this.#rows.words[i * 8 + 6] = storedLength;
  }
  /** For a native kernel. */
  get columns(): Uint8Array {
    return this.#rows.bytes;
  }
}

/** Why a record can't be opened, in the order of the native kernel's numbers. */
export const openFaults = [
  null,
  'checksum',
  'header',
  'address',
  'no-key',
  'tag',
  'content',
  'zstd-needs-native-kernel',
] as const;

export type OpenFault = Exclude<(typeof openFaults)[number], null>;

/** Records to open. After opening, each one's fault. */
export class OpenBatch {
  // A row: double block; words buffer, byte in it, stored length, blocks wanted, buffer to fill, byte in it, two unused, fault.
  readonly #rows = new Rows(40, 64);
  count = 0;
  readonly buffers: Uint8Array[] = [];
  bufferCount = 0;
  #lastFrom = 0;
  #lastInto = 0;

  /**
   * The record at `at` of `bytes` (`length` stored bytes), which must hold `block`; `count` blocks from there go into `into` at
   * `intoAt`. Neither may change meanwhile, nor may they share memory.
   */
  add(
    bytes: Uint8Array,
    at: number,
    length: number,
    block: number,
    count: number,
    into: Uint8Array,
    intoAt: number,
  ): void {
    assert(intoAt + count * BLOCK_SIZE <= into.length, 'there is room for the blocks of a record');
    const { buffers } = this;
    if (this.bufferCount === 0 || buffers[this.#lastFrom] !== bytes) {
      buffers[this.bufferCount] = bytes;
      this.#lastFrom = this.bufferCount++;
    }
    if (buffers[this.#lastInto] !== into) {
      buffers[this.bufferCount] = into;
      this.#lastInto = this.bufferCount++;
    }
    const rows = this.#rows;
    if (this.count === rows.room) rows.double();
    const i = this.count++;
    rows.numbers[i * 5] = block;
    const { words } = rows;
    words[i * 10 + 2] = this.#lastFrom;
    words[i * 10 + 3] = at;
    words[i * 10 + 4] = length;
    words[i * 10 + 5] = count;
    words[i * 10 + 6] = this.#lastInto;
    words[i * 10 + 7] = intoAt;
  }
  clear(): void {
    for (let i = 0; i < this.bufferCount; i++) this.buffers[i] = nothing;
    this.bufferCount = 0;
    this.count = 0;
    this.#lastFrom = 0;
    this.#lastInto = 0;
  }

  bytes(i: number): Uint8Array {
    return this.buffers[this.#rows.words[i * 10 + 2]!]!;
  }
  at(i: number): number {
    return this.#rows.words[i * 10 + 3]!;
  }
  length(i: number): number {
    return this.#rows.words[i * 10 + 4]!;
  }
  block(i: number): number {
    return this.#rows.numbers[i * 5]!;
  }
  blocks(i: number): number {
    return this.#rows.words[i * 10 + 5]!;
  }
  into(i: number): Uint8Array {
    return this.buffers[this.#rows.words[i * 10 + 6]!]!;
  }
  intoAt(i: number): number {
    return this.#rows.words[i * 10 + 7]!;
  }
  /** Null when it was opened. On a fault nothing of its blocks counts. */
  fault(i: number): OpenFault | null {
    return openFaults[this.#rows.words[i * 10 + 9]!] ?? null;
  }
  /** For a kernel that is not native. */
  found(i: number, fault: OpenFault | null): void {
    this.#rows.words[i * 10 + 9] = openFaults.indexOf(fault);
  }
  get columns(): Uint8Array {
    return this.#rows.bytes;
  }
}

/** How frames of one reign are sealed, and the header of the next one. */
export class FramePlan {
  readonly keys: KeyRing;
  readonly volumeId: VolumeId;
  readonly epoch: number;
  readonly cipher: Cipher;
  readonly compression: Compression;
  // Doubles: seq, committedThrough, flushedThrough, epoch, first record number. Words from 10 on: ordinal, offset in 64-byte units,
  // place of the header in the output, bytes and number of control entries that stand there already, flags, cipher, compression,
  // key ring, records, sources, one unused. Byte 88: volume. Byte 104: digest of the frame before, after sealing of this one.
  readonly bytes = new Uint8Array(120);
  readonly #numbers = new Float64Array(this.bytes.buffer);
  readonly #words = new Uint32Array(this.bytes.buffer);
  /** Of the newest frame: a view that changes with the next one. */
  readonly digest = Buffer.from(this.bytes.buffer, 104, DIGEST_SIZE);

  constructor(
    parts: {
      readonly keys: KeyRing;
      readonly volumeId: VolumeId;
      readonly epoch: number;
      readonly cipher: Cipher;
      readonly compression: Compression;
    },
    previousDigest: Uint8Array,
  ) {
    this.keys = parts.keys;
    this.volumeId = parts.volumeId;
    this.epoch = parts.epoch;
    this.cipher = parts.cipher;
    this.compression = parts.compression;
    this.#numbers[3] = parts.epoch;
    this.#words[16] = cipherId[parts.cipher];
    this.#words[17] = compressionId[parts.compression];
    uuidToBytes(parts.volumeId, Buffer.from(this.bytes.buffer), 88);
    this.digest.set(previousDigest);
  }

  /** Numbers of the next frame's header. `offset` is bytes in the segment, `flags` those of the format. */
  header(
    seq: number,
    committedThrough: number,
    flushedThrough: number,
    ordinal: number,
    offset: number,
    flags: number,
  ) {
    const numbers = this.#numbers;
    numbers[0] = seq;
    numbers[1] = committedThrough;
    numbers[2] = flushedThrough;
    const words = this.#words;
    words[10] = ordinal;
    words[11] = offset / 64;
    words[15] = flags;
  }
  /**
   * What goes in: the header at byte `at` of the output; behind it stand `controlBytes` of control entries already; then records, whose
   * numbers rise from `firstRecordNumber`.
   */
  body(at: number, controlBytes: number, controlEntries: number, firstRecordNumber: number) {
    this.#numbers[4] = firstRecordNumber;
    const words = this.#words;
    words[12] = at;
    words[13] = controlBytes;
    words[14] = controlEntries;
  }
  /** For a native kernel. */
  batch(ring: number, records: number, sources: number) {
    const words = this.#words;
    words[18] = ring;
    words[19] = records;
    words[20] = sources;
  }

  get seq(): number {
    return this.#numbers[0]!;
  }
  get committedThrough(): number {
    return this.#numbers[1]!;
  }
  get flushedThrough(): number {
    return this.#numbers[2]!;
  }
  get firstRecordNumber(): number {
    return this.#numbers[4]!;
  }
  get ordinal(): number {
    return this.#words[10]!;
  }
  get offset(): number {
    return this.#words[11]! * 64;
  }
  get at(): number {
    return this.#words[12]!;
  }
  get controlBytes(): number {
    return this.#words[13]!;
  }
  get controlEntries(): number {
    return this.#words[14]!;
  }
  get flags(): number {
    return this.#words[15]!;
  }
}
