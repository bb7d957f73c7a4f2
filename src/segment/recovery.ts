// Which part of what lies on disk is the log: the one table of recovery cases. Pure; the scan comes before it, and
// SegmentLog carries the verdict out.
//
// The log is walked in order. At the first place where the next frame is not the one that belongs there ("bad place"; its
// seq is that of the last good frame plus one) a row is chosen:
//
//   row | what is met at the bad place                                       | verdict
//   ----|--------------------------------------------------------------------|-----------------------------------------
//    A  | nothing: no bad place. Bytes behind a segment's last frame are     | whole. The digest proves that the bytes
//       | none if the next segment goes on exactly (seq and digest) there    | never were part of this log
//    C  | a gap in seq between segments, wholly at or below what is durable, | go on: the segments were dropped after a
//       | behind a sealed one or another reign's; or the replica is joining  | durable checkpoint without them
//    D  | anything, and the replica is joining                               | cut: it is no source of anything, and what
//       |                                                                    | it lacks is sent again
//    E  | bad, above all that is known durable, page cache lost              | cut: a power loss leaves any subset of the
//       |                                                                    | unsynced bytes
//    F  | bad, above all that is known durable, page cache survived, nothing | cut: the process died within its last write
//       | valid after it                                                     |
//    G  | bad, above all that is known durable, page cache survived, valid   | damage: no crash leaves this
//       | frames after it, or something from there on can't be read          |
//    H  | bad, at or below what is known durable                             | damage: synced bytes don't go bad by a crash
//    I  | no bad place, but the log ends below what is known durable         | damage: its end is missing
//
// "Known durable" is the highest of: the flushed point and the checkpoint of the superblock, flushedThrough of every valid
// frame anywhere. While joining, frames came from a peer whose claims say nothing about this disk, so only the superblock
// counts and rows C and D apply. Segments whose order contradicts itself (overlapping seqs, falling ordinals) are bad
// places like any other: rows D, G, H (and E, where a delete before the power loss was not yet durable). There is no row B
// any more (decision 032).

import { assert } from '../base/index.js';
import { type SegmentHeader, segmentFileName } from '../format/index.js';
import { type SegmentScan, zeroDigest } from './segment-scan.js';

export interface RecoveryEvidence {
  readonly joining: boolean;
  /** Boot and mount are those under which the last bytes were taken. */
  readonly cacheSurvived: boolean;
  /** Seq of the superblock's flushed point, and coveredThrough of its checkpoint; 0 without. */
  readonly flushedSeq: number;
  readonly checkpointSeq: number;
}

export type RecoveryRow = 'A' | 'D' | 'E' | 'F' | 'G' | 'H' | 'I';

export interface RecoveryVerdict {
  readonly row: RecoveryRow;
  /** How often row C was met on the way. */
  readonly gaps: number;
  /** whole: use all. cut: delete what lies beyond. damage: use what stands before, change nothing. */
  readonly verdict: 'whole' | 'cut' | 'damage';
  /** How many of the scanned segments count; the last of them through its `length`. */
  readonly kept: number;
  readonly end: { readonly epoch: number; readonly seq: number; readonly digest: Buffer };
  /** What must be on this disk. */
  readonly durableThrough: number;
  /** The highest claim of any frame or of the superblock that a point is durable on every in-sync replica. */
  readonly flushedThrough: number;
  /** A sentence naming segment and offset; null unless something was cut or is damaged. */
  readonly text: string | null;
}

export function durableThrough(scans: readonly SegmentScan[], evidence: RecoveryEvidence): number {
  let highest = Math.max(evidence.flushedSeq, evidence.checkpointSeq);
  if (!evidence.joining) for (const scan of scans) highest = Math.max(highest, scan.flushedThrough);
  return highest;
}

export function decideRecovery(scans: readonly SegmentScan[], evidence: RecoveryEvidence): RecoveryVerdict {
  const durable = durableThrough(scans, evidence);
  const flushedThrough = scans.reduce((highest, scan) => Math.max(highest, scan.flushedThrough), evidence.flushedSeq);
  let gaps = 0;
  const found = { durableThrough: durable, flushedThrough };
  const end = { epoch: 0, seq: 0, digest: zeroDigest };
  const stop = (kept: number, at: SegmentScan, offset: number, what: string): RecoveryVerdict => {
    const later = scans.slice(kept).some(hasFrames) || (kept > 0 && scans[kept - 1]!.laterFrames);
    const { row, verdict } = judge(end.seq + 1, durable, evidence, later);
    const text = `segment ${segmentFileName(at.name)}, offset ${offset}: ${what} (log good through seq ${end.seq}, durable through ${durable}, case ${row})`;
    return { row, verdict, kept, end, gaps, ...found, text };
  };
  for (const [i, scan] of scans.entries()) {
    if (typeof scan.header === 'string') return stop(i, scan, 0, scan.header);
    assert(scan.seq >= scan.header.firstSeq - 1, 'a scan ends before it starts');
    assert(!scan.sealed || scan.fault === null || scan.fault === 'after-seal', 'a sealed segment has a bad frame');
    const joint = jointFault(scan.header, end, scans[i - 1], durable, evidence.joining);
    if (joint !== null) return stop(i, scan, 0, joint);
    if (scan.header.firstSeq > end.seq + 1) gaps++;
    if (scan.seq >= scan.header.firstSeq) end.epoch = scan.name.epoch;
    else if (scan.header.firstSeq - 1 > end.seq) end.epoch = scan.name.epoch;
    end.seq = scan.seq;
    end.digest = scan.digest;
    if (scan.fault !== null && !continuesExactly(scans[i + 1], end))
      return stop(i + 1, scan, scan.length, `bad frame (${scan.fault})`);
  }
  if (end.seq < durable && !evidence.joining) {
    const last = scans.at(-1);
    const where = last === undefined ? '' : ` with segment ${segmentFileName(last.name)}`;
    const text = `the log ends at seq ${end.seq}${where} though seq ${durable} was durable: its newest segment is missing or cut short (case I)`;
    return { row: 'I', verdict: 'damage', kept: scans.length, end, gaps, ...found, text };
  }
  return { row: 'A', verdict: 'whole', kept: scans.length, end, gaps, ...found, text: null };
}

function judge(
  badSeq: number,
  durable: number,
  evidence: RecoveryEvidence,
  validAfter: boolean,
): { row: RecoveryRow; verdict: RecoveryVerdict['verdict'] } {
  if (evidence.joining) return { row: 'D', verdict: 'cut' };
  if (badSeq <= durable) return { row: 'H', verdict: 'damage' };
  if (!evidence.cacheSurvived) return { row: 'E', verdict: 'cut' };
  return validAfter ? { row: 'G', verdict: 'damage' } : { row: 'F', verdict: 'cut' };
}

/** Why the segment can't follow what stands before it, or null when it does or the gap is one that row C allows. */
function jointFault(
  header: SegmentHeader,
  before: { seq: number; digest: Buffer },
  previous: SegmentScan | undefined,
  durable: number,
  joining: boolean,
): string | null {
  if (previous !== undefined && header.ordinal <= previous.name.ordinal)
    return `its ordinal does not rise above ${previous.name.ordinal}`;
  if (header.firstSeq <= before.seq)
    return `starts at seq ${header.firstSeq}, the segment before it ends at ${before.seq}`;
  if (header.firstSeq === before.seq + 1) {
    return header.previousDigest.equals(before.digest) ? null : 'does not name the digest of the frame before it';
  }
  // A reign seals a segment before it opens the next, and a joiner deletes what it has only in part before it ends joining.
  const unsealed = previous !== undefined && !previous.sealed && previous.name.epoch === header.epoch;
  if (joining || (header.firstSeq - 1 <= durable && !unsealed)) return null; // row C
  const behind = previous === undefined ? '' : `, behind segment ${segmentFileName(previous.name)},`;
  return `starts at seq ${header.firstSeq}, the frames from ${before.seq + 1} on${behind} are missing`;
}

function continuesExactly(next: SegmentScan | undefined, end: { seq: number; digest: Buffer }): boolean {
  return (
    next !== undefined &&
    typeof next.header !== 'string' &&
    next.header.firstSeq === end.seq + 1 &&
    next.header.previousDigest.equals(end.digest)
  );
}

function hasFrames(scan: SegmentScan): boolean {
  return scan.laterFrames || (typeof scan.header !== 'string' && scan.seq >= scan.header.firstSeq);
}
