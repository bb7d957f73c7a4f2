// Where a log goes on, and the check that frames do go on there: checksums, place, order, chain. In a block of bytes, so that a
// frame is checked in one native call and without an object. The same rule as the recovery scan's (chainFault), so that nothing
// is accepted that would not be found again.

import { uuidToBytes, zeroUuid } from '../base/index.js';
import {
  DIGEST_SIZE,
  decodeFrame,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  type FrameFault,
  frameDigest,
  readSafe,
  type SegmentName,
  writeSafe,
} from '../format/index.js';
import { nativeBinding } from '../hotpath/index.js';
import { type ChainFault, chainFault, type SegmentContext } from './frame-walk.js';

/** Places in the block; also in native/src/disk.rs. */
const SEQ = 0;
const FLUSHED = 8;
const DIGEST = 16;
const VOLUME = 32;
const EPOCH = 48;
const ORDINAL = 56;
const OFFSET = 60;
const FLAGS = 64;
const SIZE = 72;
const ANY_VOLUME = 1;
const SEALED = 2;

export type TailFault = FrameFault | ChainFault | 'after-seal';

/** By the numbers that disk.rs gives them. */
const faults: readonly (TailFault | null)[] = [
  null,
  'blank',
  'short',
  'magic',
  'version',
  'header-checksum',
  'length',
  'body-checksum',
  'volume',
  'place',
  'epoch',
  'seq',
  'digest',
  'claims',
  'after-seal',
];

const checksumFaults = new Set<TailFault>([
  'blank',
  'short',
  'magic',
  'version',
  'header-checksum',
  'length',
  'body-checksum',
]);

/** The bytes are no frame; any other fault is that of a good frame in the wrong place. */
export function isChecksumFault(fault: TailFault): boolean {
  return checksumFaults.has(fault);
}

const native = nativeBinding();

export class LogTail {
  /** Changed in place by every method. */
  readonly bytes: Buffer = Buffer.alloc(SIZE);
  /** A view of the last frame's digest. */
  readonly digest: Buffer = this.bytes.subarray(DIGEST, DIGEST + DIGEST_SIZE);
  /** The segment that takes frames; null before the first. */
  #context: SegmentContext | null = null;

  get context(): SegmentContext | null {
    return this.#context;
  }
  get seq(): number {
    return readSafe(this.bytes, SEQ);
  }
  /** Where the segment's next frame goes. */
  get offset(): number {
    return this.bytes.readUInt32LE(OFFSET);
  }
  get sealed(): boolean {
    return (this.bytes[FLAGS]! & SEALED) !== 0;
  }
  /** Highest claim of the frames that were checked. */
  get flushedThrough(): number {
    return readSafe(this.bytes, FLUSHED);
  }

  copyFrom(other: LogTail): void {
    this.bytes.set(other.bytes);
    this.#context = other.#context;
  }

  /** The log goes on in this segment. */
  enter(context: SegmentContext, seq: number, digest: Uint8Array, offset: number, sealed: boolean): void {
    this.#context = context;
    writeSafe(this.bytes, seq, SEQ);
    this.digest.set(digest);
    uuidToBytes(context.volumeId ?? zeroUuid, this.bytes, VOLUME);
    writeSafe(this.bytes, context.name.epoch, EPOCH);
    this.bytes.writeUInt32LE(context.name.ordinal, ORDINAL);
    this.bytes.writeUInt32LE(offset, OFFSET);
    this.bytes[FLAGS] = (context.volumeId === null ? ANY_VOLUME : 0) | (sealed ? SEALED : 0);
  }

  /** The log is empty up to here. */
  clear(): void {
    this.bytes.fill(0);
    this.#context = null;
  }

  setFlushedThrough(seq: number): void {
    writeSafe(this.bytes, seq, FLUSHED);
  }

  isIn(name: SegmentName): boolean {
    const context = this.#context;
    return context !== null && context.name.ordinal === name.ordinal && context.name.epoch === name.epoch;
  }

  /** Checks the frames that fill `bytes` from `from` on and moves behind them; on a fault this stands before the bad frame. */
  verify(bytes: Uint8Array, from: number): TailFault | null {
    if (native === null) return this.verifyTwin(bytes, from);
    const fault = native.verifyFrames(bytes, from, this.bytes);
    return fault === 0 ? null : faults[fault]!;
  }

  verifyTwin(source: Uint8Array, from: number): TailFault | null {
    const bytes = Buffer.isBuffer(source) ? source : Buffer.from(source.buffer, source.byteOffset, source.byteLength);
    const { digest } = this;
    for (let at = from; at < bytes.length; ) {
      if (this.sealed) return 'after-seal';
      const header = decodeFrame(bytes, at, true);
      if (typeof header === 'string') return header;
      const fault = chainFault(header, bytes, at, this.#context!, { offset: this.offset, seq: this.seq, digest });
      if (fault !== null) return fault;
      const length = FRAME_HEADER_SIZE + header.bodyLength;
      writeSafe(this.bytes, header.seq, SEQ);
      digest.set(frameDigest(bytes, at));
      if (header.flushedThrough > this.flushedThrough) this.setFlushedThrough(header.flushedThrough);
      if ((header.flags & FRAME_FLAG_SEALS) !== 0) this.bytes[FLAGS] = this.bytes[FLAGS]! | SEALED;
      this.bytes.writeUInt32LE(this.offset + length, OFFSET);
      at += length;
    }
    return null;
  }
}
