// Each row of the table in segment/recovery.ts, from made-up scans.

import { describe, expect, it } from 'vitest';
import type { SegmentHeader } from '../../../src/format/index.js';
import { decideRecovery, type RecoveryEvidence } from '../../../src/segment/recovery.js';
import type { SegmentScan } from '../../../src/segment/segment-scan.js';
import { lineageA, reignOf, volumeA } from '../../lib/frame-maker.js';

const digestOf = (seq: number, branch = 0) =>
  seq === 0 ? Buffer.alloc(16) : Buffer.alloc(16, (seq + branch * 64) & 0xff);

function scan(
  ordinal: number,
  firstSeq: number,
  lastSeq: number,
  changes: Partial<SegmentScan> & { previousDigest?: Buffer } = {},
): SegmentScan {
  const header: SegmentHeader = {
    ...reignOf(1),
    ordinal,
    slot: ordinal,
    volumeId: volumeA,
    lineageId: lineageA,
    firstSeq,
    previousDigest: changes.previousDigest ?? digestOf(firstSeq - 1),
    createdAtMs: 0,
  };
  return {
    name: { epoch: 1, ordinal },
    header,
    seq: lastSeq,
    digest: digestOf(lastSeq),
    length: 8192,
    fileSize: 8192,
    sealed: false,
    fault: null,
    laterFrames: false,
    flushedThrough: 0,
    full: true,
    ...changes,
  };
}

const survived: RecoveryEvidence = { joining: false, cacheSurvived: true, flushedSeq: 0, checkpointSeq: 0 };
const powerLoss: RecoveryEvidence = { ...survived, cacheSurvived: false };
const joining: RecoveryEvidence = { ...survived, joining: true };
const torn = { fault: 'body-checksum' as const };

function outcome(scans: SegmentScan[], evidence: RecoveryEvidence) {
  const { row, verdict, kept, end } = decideRecovery(scans, evidence);
  return { row, verdict, kept, end: end.seq };
}

describe('recovery table', () => {
  it('A: whole logs, dropped segments at the start included', () => {
    expect(outcome([], survived)).toEqual({ row: 'A', verdict: 'whole', kept: 0, end: 0 });
    expect(outcome([scan(1, 1, 5), scan(2, 6, 9)], survived)).toEqual({ row: 'A', verdict: 'whole', kept: 2, end: 9 });
    expect(outcome([scan(1, 1, 5), scan(2, 6, 5)], survived)).toEqual({ row: 'A', verdict: 'whole', kept: 2, end: 5 });
  });

  it('A: bytes behind the last frame that the next segment passes over', () => {
    expect(outcome([scan(1, 1, 5, torn), scan(2, 6, 9)], survived)).toEqual({
      row: 'A',
      verdict: 'whole',
      kept: 2,
      end: 9,
    });
    // Without the proof of the digest they are a bad frame like any other.
    const other = scan(2, 6, 9, { previousDigest: digestOf(5, 1) });
    expect(outcome([scan(1, 1, 5, torn), other], survived)).toMatchObject({ row: 'G', kept: 1, end: 5 });
  });

  it('C: gaps at or below what is durable, or while joining; not above', () => {
    const gap = [scan(1, 1, 2, { sealed: true }), scan(4, 9, 12)];
    expect(outcome(gap, { ...survived, flushedSeq: 8 })).toMatchObject({ row: 'A', end: 12 });
    expect(outcome(gap, { ...survived, checkpointSeq: 8 })).toMatchObject({ row: 'A', end: 12 });
    expect(outcome([gap[0]!, { ...gap[1]!, flushedThrough: 8 }], survived)).toMatchObject({ row: 'A', end: 12 });
    expect(outcome(gap, joining)).toMatchObject({ row: 'A', end: 12 });
    expect(outcome(gap, { ...survived, flushedSeq: 7 })).toMatchObject({ row: 'H' });
    expect(outcome(gap, { ...survived, flushedSeq: 2 })).toMatchObject({
      row: 'G',
      verdict: 'damage',
      kept: 1,
      end: 2,
    });
    expect(outcome(gap, { ...powerLoss, flushedSeq: 2 })).toMatchObject({ row: 'E', verdict: 'cut', kept: 1, end: 2 });
    expect(outcome([scan(4, 9, 12)], { ...powerLoss, flushedSeq: 8 })).toMatchObject({ row: 'A', end: 12 });
  });

  it('C: not behind a segment of the same reign that lost its seal', () => {
    const evidence = { ...survived, flushedSeq: 8 };
    expect(outcome([scan(1, 1, 2, { sealed: true }), scan(4, 9, 12)], evidence)).toMatchObject({ row: 'A', end: 12 });
    for (const cache of [evidence, { ...powerLoss, flushedSeq: 8 }]) {
      const verdict = decideRecovery([scan(1, 1, 2), scan(4, 9, 12)], cache);
      expect([verdict.row, verdict.verdict, verdict.kept]).toEqual(['H', 'damage', 1]);
      expect(verdict.text).toMatch(/the frames from 3 on, behind segment 000000000001-00000001.seg, are missing/);
    }
    // The next reign's first segments may have been dropped behind one that its engine did not live to seal.
    const later = scan(4, 9, 12);
    const ofNextReign = {
      ...later,
      name: { epoch: 2, ordinal: 4 },
      header: { ...(later.header as SegmentHeader), ...reignOf(2) },
    };
    expect(outcome([scan(1, 1, 2), ofNextReign], evidence)).toMatchObject({ row: 'A', end: 12 });
    expect(outcome([scan(1, 1, 2), scan(4, 9, 12)], { ...evidence, joining: true })).toMatchObject({
      row: 'A',
      end: 12,
    });
    expect(outcome([scan(1, 1, 2), scan(2, 3, 8)], evidence)).toMatchObject({ row: 'A', end: 8 });
  });

  it('D: a joiner is cut at anything, whatever is said to be durable', () => {
    const scans = [scan(1, 1, 5, { ...torn, laterFrames: true, flushedThrough: 5 }), scan(2, 9, 12)];
    expect(outcome(scans, { ...joining, flushedSeq: 30 })).toEqual({ row: 'D', verdict: 'cut', kept: 1, end: 5 });
    expect(outcome([scan(1, 1, 5)], { ...joining, flushedSeq: 30 })).toMatchObject({ row: 'A', end: 5 });
  });

  it('E: after a power loss anything above the durable point is a torn tail, also with valid frames behind it', () => {
    const scans = [scan(1, 1, 5, { ...torn, laterFrames: true }), scan(2, 9, 12)];
    expect(outcome(scans, { ...powerLoss, flushedSeq: 5 })).toEqual({ row: 'E', verdict: 'cut', kept: 1, end: 5 });
    expect(outcome([scan(1, 1, 5), scan(2, 0, 0, { header: 'blank' })], { ...powerLoss, flushedSeq: 5 })).toEqual({
      row: 'E',
      verdict: 'cut',
      kept: 1,
      end: 5,
    });
  });

  it('F: with the page cache kept only the very last write may be torn', () => {
    expect(outcome([scan(1, 1, 5, torn)], survived)).toEqual({ row: 'F', verdict: 'cut', kept: 1, end: 5 });
    expect(outcome([scan(1, 1, 5), scan(2, 0, 0, { header: 'short' })], survived)).toEqual({
      row: 'F',
      verdict: 'cut',
      kept: 1,
      end: 5,
    });
  });

  it('G: with the page cache kept a bad frame before good ones is damage', () => {
    expect(outcome([scan(1, 1, 5, { ...torn, laterFrames: true })], survived)).toMatchObject({
      row: 'G',
      verdict: 'damage',
      end: 5,
    });
    expect(outcome([scan(1, 1, 5, torn), scan(2, 7, 9)], survived)).toMatchObject({
      row: 'G',
      verdict: 'damage',
      kept: 1,
    });
    expect(outcome([scan(1, 0, 0, { header: 'blank' }), scan(2, 6, 9)], survived)).toMatchObject({
      row: 'G',
      verdict: 'damage',
      kept: 0,
      end: 0,
    });
  });

  it('H: what was durable does not tear, power loss or not', () => {
    for (const evidence of [survived, powerLoss]) {
      expect(outcome([scan(1, 1, 5, torn)], { ...evidence, flushedSeq: 6 })).toMatchObject({
        row: 'H',
        verdict: 'damage',
        end: 5,
      });
      expect(outcome([scan(1, 1, 5, { ...torn, laterFrames: true, flushedThrough: 6 })], evidence)).toMatchObject({
        row: 'H',
      });
      expect(outcome([scan(1, 1, 5, torn), scan(2, 9, 12, { flushedThrough: 6 })], evidence)).toMatchObject({
        row: 'H',
      });
      expect(outcome([scan(1, 1, 5, torn)], { ...evidence, checkpointSeq: 6 })).toMatchObject({ row: 'H' });
    }
    const { text } = decideRecovery([scan(1, 1, 5, torn)], { ...survived, flushedSeq: 6 });
    expect(text).toMatch(
      /000000000001-00000001\.seg, offset 8192: bad frame \(body-checksum\).*through seq 5.*through 6/,
    );
  });

  it('I: a log that ends below what is durable lost its end', () => {
    for (const evidence of [survived, powerLoss]) {
      expect(outcome([scan(1, 1, 5)], { ...evidence, flushedSeq: 6 })).toMatchObject({
        row: 'I',
        verdict: 'damage',
        end: 5,
      });
      expect(outcome([], { ...evidence, checkpointSeq: 1 })).toMatchObject({ row: 'I', verdict: 'damage', end: 0 });
    }
  });

  it('takes overlaps, falling ordinals and foreign digests for bad places', () => {
    expect(outcome([scan(1, 1, 5), scan(2, 5, 9)], survived)).toMatchObject({ row: 'G', kept: 1, end: 5 });
    expect(outcome([scan(3, 1, 5), scan(2, 6, 9)], survived)).toMatchObject({ row: 'G', kept: 1 });
    expect(outcome([scan(1, 1, 5), scan(2, 6, 9, { previousDigest: digestOf(5, 1) })], powerLoss)).toMatchObject({
      row: 'E',
      kept: 1,
      end: 5,
    });
  });
});
