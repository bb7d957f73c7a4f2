// Makes frames as an engine would, for tests of what stands below it.

import type { LineageId, ReignId, VolumeId } from '../../src/base/index.js';
import {
  type EntryKind,
  encodeControlEntry,
  encodeFrameHeader,
  encodeSegmentHeader,
  entryKind,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  frameDigest,
  IndexBuilder,
  type Reign,
  SEGMENT_HEADER_SIZE,
  type SegmentName,
} from '../../src/format/index.js';
import type { AppendItem } from '../../src/wire/index.js';

export const volumeA = '0a000000-0000-4000-8000-000000000001' as VolumeId;
export const lineageA = '11000000-0000-4000-8000-000000000001' as LineageId;

export function reignOf(epoch: number, salt = 0): Reign {
  const hex = (epoch * 256 + salt).toString(16).padStart(12, '0');
  return { epoch, reignId: `00000000-0000-4000-8000-${hex}` as ReignId };
}

export interface MadeFrame extends AppendItem {
  readonly bytes: Buffer;
  readonly digest: string;
}

export class FrameMaker {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  reign: Reign;
  seq: number;
  digest: Buffer;
  ordinal: number;
  committedThrough = 0;
  flushedThrough = 0;
  #offset = 0;
  #open = false;
  #index = new IndexBuilder();

  constructor(
    reign: Reign,
    from: { seq: number; digest: Buffer; ordinal: number } = { seq: 0, digest: Buffer.alloc(16), ordinal: 0 },
    ids: { volumeId?: VolumeId; lineageId?: LineageId } = {},
  ) {
    this.reign = reign;
    this.seq = from.seq;
    this.digest = from.digest;
    this.ordinal = from.ordinal;
    this.volumeId = ids.volumeId ?? volumeA;
    this.lineageId = ids.lineageId ?? lineageA;
  }

  get segment(): SegmentName {
    return { epoch: this.reign.epoch, ordinal: this.ordinal };
  }
  get offset(): number {
    return this.#offset;
  }

  /** The next frame, with about `size` bytes of contents that depend on its seq; opens a segment when none is open. */
  next(size = 200): MadeFrame {
    const content = Buffer.alloc(Math.max(8, size));
    for (let i = 0; i < content.length; i++) content[i] = (this.seq * 31 + i * 7 + this.reign.epoch) & 0xff;
    return this.#frame(entryKind.page, content, 0);
  }

  /** The frame that seals the open segment. */
  seal(): MadeFrame {
    const entry = this.#index.encode(this.#offset);
    const made = this.#frameAround(entry, FRAME_FLAG_SEALS);
    this.#open = false;
    return made;
  }

  /** A new reign goes on from here; it opens its own segment. */
  newReign(reign: Reign): void {
    this.reign = reign;
    this.#open = false;
  }

  /** Where a fork of this log starts. */
  fork(reign: Reign): FrameMaker {
    const fork = new FrameMaker(
      reign,
      { seq: this.seq, digest: this.digest, ordinal: this.ordinal },
      { volumeId: this.volumeId, lineageId: this.lineageId },
    );
    fork.committedThrough = this.committedThrough;
    fork.flushedThrough = this.flushedThrough;
    return fork;
  }

  #frame(kind: EntryKind, content: Buffer, flags: number): MadeFrame {
    return this.#frameAround(encodeControlEntry(kind, content), flags);
  }

  #frameAround(entry: Buffer, flags: number): MadeFrame {
    let header: Buffer | null = null;
    if (!this.#open) {
      this.ordinal++;
      this.#open = true;
      this.#offset = SEGMENT_HEADER_SIZE;
      this.#index = new IndexBuilder();
      header = encodeSegmentHeader({
        ...this.reign,
        ordinal: this.ordinal,
        slot: this.ordinal,
        volumeId: this.volumeId,
        lineageId: this.lineageId,
        firstSeq: this.seq + 1,
        previousDigest: this.digest,
        createdAtMs: 0,
      });
    }
    const frame = Buffer.alloc(FRAME_HEADER_SIZE + entry.length);
    entry.copy(frame, FRAME_HEADER_SIZE);
    this.seq++;
    this.#index.add(entry[12]!, this.#offset + FRAME_HEADER_SIZE, entry.length, this.seq, 0);
    encodeFrameHeader(
      frame,
      0,
      {
        flags,
        bodyLength: entry.length,
        entryCount: 1,
        epoch: this.reign.epoch,
        seq: this.seq,
        committedThrough: this.committedThrough,
        flushedThrough: this.flushedThrough,
        ordinal: this.ordinal,
        offset: this.#offset,
        volumeId: this.volumeId,
      },
      this.digest,
    );
    this.digest = Buffer.from(frameDigest(frame, 0));
    const offset = header === null ? this.#offset : 0;
    this.#offset += frame.length;
    const bytes = header === null ? frame : Buffer.concat([header, frame]);
    return { segment: this.segment, offset, bytes, lastSeq: this.seq, digest: this.digest.toString('hex') };
  }
}
