// Which frames a replica takes: exactly those that continue its log. Pure; on the way of every write.

import { HoldfastError, type LineageId, type VolumeId } from '../base/index.js';
import {
  decodeSegmentHeader,
  type Reign,
  SEGMENT_HEADER_SIZE,
  SEGMENT_SIZE_MAX,
  type SegmentHeader,
  SLOT_MAX,
  segmentFileName,
} from '../format/index.js';
import { isChecksumFault, type LogTail } from '../segment/index.js';
import type { AppendItem } from '../wire/index.js';

export interface AcceptRules {
  readonly volumeId: VolumeId;
  readonly lineageId: LineageId;
  readonly promised: Reign;
  readonly reigns: readonly Reign[];
  /** The log may skip dropped segments. */
  readonly joining: boolean;
}

/**
 * Checks that the item continues the log at `tail` and moves `tail` behind it. Returns the header of the segment that it opens,
 * or null. Throws FAILED_PRECONDITION/Protocol naming the field that contradicts, DATA_LOSS/Corrupt when a checksum does; `tail`
 * is then of no use. Every byte is checked, also of what an engine in this process sealed: in one native call that costs less
 * than the write it goes before.
 */
export function checkAppend(tail: LogTail, rules: AcceptRules, item: AppendItem): SegmentHeader | null {
  const { bytes, offset } = item;
  if (offset + bytes.length > SEGMENT_SIZE_MAX)
    throw refused(item, `offset: ${offset} and ${bytes.length} bytes pass a segment's end`);
  let opened: SegmentHeader | null = null;
  if (offset === 0) opened = openSegment(tail, rules, item);
  else if (!tail.isIn(item.segment)) {
    const open = tail.context === null ? 'none' : segmentFileName(tail.context.name);
    throw refused(item, `segment: the log's open segment is ${open}`);
  } else if (offset !== tail.offset) throw refused(item, `offset: the segment's next frame goes to ${tail.offset}`);
  const fault = tail.verify(bytes, opened === null ? 0 : SEGMENT_HEADER_SIZE);
  if (fault === 'after-seal') throw refused(item, 'the segment is sealed');
  if (fault !== null) {
    if (!isChecksumFault(fault))
      throw refused(item, `${fault}: of the frame at ${tail.offset}; the log ends at ${tail.seq}`);
    throw new HoldfastError('DATA_LOSS', `append to ${describe(item)}: bad frame at ${tail.offset} (${fault})`, {
      reason: 'Corrupt',
    });
  }
  if (tail.seq !== item.lastSeq) throw refused(item, `lastSeq: the bytes end with seq ${tail.seq}`);
  return opened;
}

function openSegment(tail: LogTail, rules: AcceptRules, item: AppendItem): SegmentHeader {
  const header = decodeSegmentHeader(asBuffer(item.bytes), describe(item));
  const fault = headerFault(tail, rules, item, header);
  if (fault !== null) throw refused(item, fault);
  const context = { name: { epoch: header.epoch, ordinal: header.ordinal }, volumeId: header.volumeId };
  tail.enter(context, header.firstSeq - 1, header.previousDigest, SEGMENT_HEADER_SIZE, false);
  return header;
}

/** Why the segment can't be the log's next, or null. */
function headerFault(tail: LogTail, rules: AcceptRules, item: AppendItem, header: SegmentHeader): string | null {
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
