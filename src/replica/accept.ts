// Which frames a replica takes: exactly those that continue its log. Pure; on the way of every write.

import { HoldfastError, type LineageId, type VolumeId } from '../base/index.js';
import {
  decodeFrame,
  decodeSegmentHeader,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  frameDigest,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_MAX,
  type SegmentHeader,
  SLOT_MAX,
  segmentFileName,
} from '../format/index.js';
import { chainFault, type SegmentContext } from '../segment/index.js';
import type { AppendItem } from '../wire/index.js';

/** Where the log ends, while a batch is being checked. Changed in place by checkAppend(). */
export interface Tail {
  seq: number;
  digest: Buffer;
  /** The segment that takes frames; null before the first. */
  context: SegmentContext | null;
  /** Where its next frame goes. */
  offset: number;
  sealed: boolean;
  /** Highest claim of the frames taken. */
  flushedThrough: number;
  /** Set by an append that opens a segment; whoever creates the file clears it. */
  opened: SegmentHeader | null;
}

export interface AcceptRules {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly promised: Reign;
  readonly reigns: readonly Reign[];
  /** The log may skip dropped segments. */
  readonly joining: boolean;
}

/**
 * Checks that the item continues the log at `tail` and moves `tail` behind it. Throws FAILED_PRECONDITION/Protocol naming the
 * field that contradicts, DATA_LOSS/Corrupt when a checksum does; `tail` is then of no use.
 */
export function checkAppend(tail: Tail, rules: AcceptRules, item: AppendItem): void {
  const bytes = asBuffer(item.bytes);
  if (item.offset + bytes.length > SEGMENT_SIZE_MAX)
    throw refused(item, `offset: ${item.offset} and ${bytes.length} bytes pass a segment's end`);
  let at = 0;
  if (item.offset === 0) {
    openSegment(tail, rules, item, bytes);
    at = SEGMENT_HEADER_SIZE;
  } else if (tail.context === null || !isSame(tail.context, item)) {
    throw refused(
      item,
      `segment: the log's open segment is ${tail.context === null ? 'none' : segmentFileName(tail.context.name)}`,
    );
  } else if (item.offset !== tail.offset)
    throw refused(item, `offset: the segment's next frame goes to ${tail.offset}`);
  const context = tail.context!;
  while (at < bytes.length) {
    if (tail.sealed) throw refused(item, 'the segment is sealed');
    const header = decodeFrame(bytes, at, true);
    if (typeof header === 'string') {
      throw new HoldfastError(
        'DATA_LOSS',
        `append to ${describe(item)}: bad frame at ${item.offset + at} (${header})`,
        { reason: 'Corrupt' },
      );
    }
    const fault = chainFault(header, bytes, at, context, tail);
    if (fault !== null)
      throw refused(
        item,
        `${fault}: the frame at ${item.offset + at} has seq ${header.seq}, the log ends at ${tail.seq}`,
      );
    tail.seq = header.seq;
    tail.digest = frameDigest(bytes, at);
    if (header.flushedThrough > tail.flushedThrough) tail.flushedThrough = header.flushedThrough;
    tail.sealed = (header.flags & FRAME_FLAG_SEALS) !== 0;
    at += FRAME_HEADER_SIZE + header.bodyLength;
    tail.offset = item.offset + at;
  }
  if (tail.seq !== item.lastSeq) throw refused(item, `lastSeq: the bytes end with seq ${tail.seq}`);
}

function openSegment(tail: Tail, rules: AcceptRules, item: AppendItem, bytes: Buffer): void {
  const header = decodeSegmentHeader(bytes, describe(item));
  const fault = headerFault(tail, rules, item, header);
  if (fault !== null) throw refused(item, fault);
  tail.context = { name: { epoch: header.epoch, ordinal: header.ordinal }, volumeId: header.volumeId };
  tail.seq = header.firstSeq - 1;
  tail.digest = header.previousDigest;
  tail.offset = SEGMENT_HEADER_SIZE;
  tail.sealed = false;
  tail.opened = header;
}

/** Why the segment can't be the log's next, or null. */
function headerFault(tail: Tail, rules: AcceptRules, item: AppendItem, header: SegmentHeader): string | null {
  const { promised } = rules;
  if (header.epoch !== item.segment.epoch || header.ordinal !== item.segment.ordinal)
    return `segment: its header names (${header.epoch}, ${header.ordinal})`;
  if (header.slot > SLOT_MAX) return `slot: ${header.slot} is no slot`;
  if (header.lineageId !== rules.lineageId) return `lineage: ${header.lineageId}, the replica's is ${rules.lineageId}`;
  if (header.epoch > promised.epoch) return `epoch: ${header.epoch} is above the promised ${promised.epoch}`;
  if (header.epoch === promised.epoch && header.reignId !== promised.reignId)
    return `reign: ${header.reignId}, promised is ${promised.reignId}`;
  // A clone's older segments carry its source's volume id.
  if (header.epoch === promised.epoch && header.volumeId !== rules.volumeId)
    return `volume: ${header.volumeId}, the replica's is ${rules.volumeId}`;
  const known = rules.reigns.find((reign) => reign.epoch === header.epoch);
  if (known && known.reignId !== header.reignId)
    return `reign: ${header.reignId}, epoch ${header.epoch} was that of ${known.reignId}`;
  if (tail.context !== null && header.epoch < tail.context.name.epoch)
    return `epoch: ${header.epoch} is below the log's ${tail.context.name.epoch}`;
  if (tail.context !== null && header.ordinal <= tail.context.name.ordinal)
    return `ordinal: ${header.ordinal} does not rise above ${tail.context.name.ordinal}`;
  if (header.firstSeq === tail.seq + 1)
    return header.previousDigest.equals(tail.digest) ? null : "digest: not that of the log's last frame";
  if (header.firstSeq > tail.seq && rules.joining) return null;
  return `seq: the segment starts at ${header.firstSeq}, the log ends at ${tail.seq}`;
}

function isSame(context: SegmentContext, item: AppendItem): boolean {
  return context.name.ordinal === item.segment.ordinal && context.name.epoch === item.segment.epoch;
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function describe(item: AppendItem): string {
  return `${segmentFileName(item.segment)} at ${item.offset}`;
}

function refused(item: AppendItem, what: string): HoldfastError {
  return new HoldfastError('FAILED_PRECONDITION', `append to ${describe(item)} refused: ${what}`, {
    reason: 'Protocol',
  });
}
