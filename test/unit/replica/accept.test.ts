// The accept rule: only what continues the log exactly, whichever field is wrong and whoever made it so.

import { describe, expect, it } from 'vitest';
import type { HoldfastError, LineageId, VolumeId } from '../../../src/base/index.js';
import {
  decodeFrame,
  decodeSegmentHeader,
  encodeFrameHeader,
  encodeSegmentHeader,
  FRAME_HEADER_SIZE,
  type FrameHeader,
  SEGMENT_HEADER_SIZE,
  type SegmentHeader,
} from '../../../src/format/index.js';
import { type AcceptRules, checkAppend } from '../../../src/replica/accept.js';
import { LogTail } from '../../../src/segment/index.js';
import type { AppendItem } from '../../../src/wire/index.js';
import { FrameMaker, lineageA, type MadeFrame, reignOf, volumeA } from '../../lib/frame-maker.js';

const rules: AcceptRules = {
  volumeId: volumeA,
  lineageId: lineageA,
  promised: reignOf(3),
  reigns: [reignOf(1), reignOf(2)],
  joining: false,
};

function tailAfter(items: readonly AppendItem[], withRules = rules): LogTail {
  const tail = new LogTail();
  for (const item of items) checkAppend(tail, withRules, item);
  return tail;
}

function refusal(tail: LogTail, item: AppendItem, withRules = rules): HoldfastError {
  const trial = new LogTail();
  trial.copyFrom(tail);
  try {
    checkAppend(trial, withRules, item);
  } catch (error) {
    return error as HoldfastError;
  }
  throw new Error('it was accepted');
}

/** The same frame with header fields changed and all checksums right: what a wrong sender would send. */
function forged(frame: MadeFrame, changes: Partial<FrameHeader>, previousDigest?: Buffer): AppendItem {
  const bytes = Buffer.from(frame.bytes);
  const at = frame.offset === 0 ? SEGMENT_HEADER_SIZE : 0;
  const header = decodeFrame(bytes, at, true) as FrameHeader;
  encodeFrameHeader(
    bytes,
    at,
    { ...header, ...changes },
    previousDigest ?? Buffer.from(bytes.subarray(at + 80, at + 96)),
  );
  return { ...frame, bytes };
}

function withHeader(frame: MadeFrame, changes: Partial<SegmentHeader>): AppendItem {
  const header = decodeSegmentHeader(frame.bytes, 'test');
  return {
    ...frame,
    bytes: Buffer.concat([encodeSegmentHeader({ ...header, ...changes }), frame.bytes.subarray(SEGMENT_HEADER_SIZE)]),
  };
}

describe('accept rule', () => {
  it('refuses a frame with any bit flipped, in header, body or segment header', () => {
    const maker = new FrameMaker(reignOf(3));
    const first = maker.next(300);
    const second = maker.next(300);
    for (const [tail, frame] of [
      [new LogTail(), first],
      [tailAfter([first]), second],
    ] as const) {
      for (let byte = 0; byte < frame.bytes.length; byte++) {
        const bytes = Buffer.from(frame.bytes);
        bytes[byte] = bytes[byte]! ^ (1 << (byte % 8));
        expect(['DATA_LOSS', 'FAILED_PRECONDITION'], `byte ${byte}`).toContain(refusal(tail, { ...frame, bytes }).code);
      }
      checkAppend(tail, rules, frame);
    }
  });

  it('refuses a well-made frame that belongs elsewhere, naming the field', () => {
    const maker = new FrameMaker(reignOf(3));
    maker.flushedThrough = 0;
    const first = maker.next();
    const second = maker.next();
    const tail = tailAfter([first]);
    const cases: [string, AppendItem][] = [
      ['epoch', forged(second, { epoch: 2 })],
      ['seq', forged(second, { seq: 3 })],
      ['seq', forged(second, { seq: 1 })],
      ['digest', forged(second, {}, Buffer.alloc(16, 7))],
      ['place', forged(second, { ordinal: 9 })],
      ['place', forged(second, { offset: second.offset + 64 })],
      ['volume', forged(second, { volumeId: '0a000000-0000-4000-8000-0000000000ee' as VolumeId })],
      ['claims', forged(second, { flushedThrough: 2 })],
      ['claims', forged(second, { committedThrough: 2 })],
      ['lastSeq', { ...second, lastSeq: 3 }],
      ['offset', { ...second, offset: second.offset + 64 }],
      ['segment', { ...second, segment: { epoch: 3, ordinal: 2 } }],
      ['segment', { ...second, segment: { epoch: 2, ordinal: 1 } }],
      ['bad frame', { ...second, bytes: second.bytes.subarray(0, second.bytes.length - 64) }],
      ['bad frame', { ...second, bytes: Buffer.concat([second.bytes, Buffer.alloc(64)]) }],
      ['segment', { ...first, bytes: second.bytes }],
    ];
    for (const [field, item] of cases) expect(refusal(tail, item).message, field).toMatch(new RegExp(field));
    checkAppend(tail, rules, second);
    expect(tail.seq).toBe(2);
  });

  it('refuses a segment that can not be the next, naming the field', () => {
    const maker = new FrameMaker(reignOf(2));
    const start = [maker.next(), maker.seal()];
    const tail = tailAfter(start);
    maker.newReign(reignOf(3));
    const next = maker.next();
    const cases: [string, AppendItem, AcceptRules?][] = [
      ['segment', { ...next, segment: { epoch: 3, ordinal: 7 } }],
      ['slot', withHeader(next, { slot: 0xffffff })],
      ['lineage', withHeader(next, { lineageId: '11000000-0000-4000-8000-0000000000ee' as LineageId })],
      ['epoch', next, { ...rules, promised: reignOf(2) }],
      ['reign', next, { ...rules, promised: reignOf(3, 1) }],
      ['reign', next, { ...rules, promised: reignOf(4), reigns: [reignOf(3, 1)] }],
      ['volume', withHeader(next, { volumeId: '0a000000-0000-4000-8000-0000000000ee' as VolumeId })],
      ['digest', withHeader(next, { previousDigest: Buffer.alloc(16, 3) })],
      ['seq', withHeader(next, { firstSeq: 4 })],
      ['seq', withHeader(next, { firstSeq: 2 })],
    ];
    for (const [field, item, withRules] of cases)
      expect(refusal(tail, item, withRules).message, field).toMatch(new RegExp(`refused: ${field}`));
    const lower = new FrameMaker(reignOf(1), { seq: 2, digest: tail.digest, ordinal: 5 });
    expect(refusal(tail, lower.next()).message).toMatch(/refused: epoch/);
    const same = new FrameMaker(reignOf(3), { seq: 2, digest: tail.digest, ordinal: 0 });
    expect(refusal(tail, same.next()).message).toMatch(/refused: ordinal/);
    checkAppend(tail, rules, next);
  });

  it('takes nothing behind the frame that seals, and old segments of a source volume in a clone', () => {
    const maker = new FrameMaker(reignOf(2), undefined, {
      volumeId: '0a000000-0000-4000-8000-0000000000ee' as VolumeId,
    });
    const first = maker.next();
    const seal = maker.seal();
    const tail = tailAfter([first, seal]);
    expect(tail.sealed).toBe(true);
    expect(
      refusal(tail, { ...first, offset: tail.offset, bytes: first.bytes.subarray(SEGMENT_HEADER_SIZE) }).message,
    ).toMatch(/sealed/);
  });

  it('takes a gap while joining, at a segment start only', () => {
    const maker = new FrameMaker(reignOf(3));
    const start = [maker.next(), maker.seal()];
    maker.next();
    maker.seal();
    const later = maker.next();
    const tail = tailAfter(start);
    expect(refusal(tail, later).message).toMatch(/refused: seq/);
    checkAppend(tail, { ...rules, joining: true }, later);
    maker.next();
    expect(refusal(tail, maker.next(), { ...rules, joining: true }).message).toMatch(/refused: offset/);
  });

  it('takes several frames in one item', () => {
    const maker = new FrameMaker(reignOf(3));
    const frames = [maker.next(), maker.next(5000), maker.seal()];
    const tail = new LogTail();
    checkAppend(tail, rules, { ...frames[0]!, bytes: Buffer.concat(frames.map((frame) => frame.bytes)), lastSeq: 3 });
    expect([tail.seq, tail.sealed, tail.offset - SEGMENT_HEADER_SIZE > 3 * FRAME_HEADER_SIZE]).toEqual([3, true, true]);
  });
});
