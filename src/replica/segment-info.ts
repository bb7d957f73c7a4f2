// What a replica tells of its segments.

import type { Disk, LogSegment, SegmentLog } from '../segment/index.js';
import type { FrameInfo, SegmentInfo } from '../wire/index.js';

/** Of an open log's segment, or of one that is only read. */
type Told = Pick<LogSegment, 'name' | 'header' | 'path' | 'lastSeq' | 'lastDigest' | 'length' | 'sealed'>;

/** In log order. */
export function segmentInfos(segments: readonly Told[], disk: Disk): SegmentInfo[] {
  return segments.map((segment) => ({
    ...segment.name,
    slot: segment.header.slot,
    firstSeq: segment.header.firstSeq,
    lastSeq: segment.lastSeq,
    lastDigest: segment.lastDigest.toString('hex'),
    length: segment.length,
    sealed: segment.sealed,
    links: disk.stat(segment.path)?.links ?? 0,
  }));
}

/** In order; headers checked, bodies not. */
export function frameInfos(log: SegmentLog, segment: LogSegment): FrameInfo[] {
  const frames: FrameInfo[] = [];
  log.frames(segment, ({ header, offset, length, digest }) => {
    frames.push({ seq: header.seq, offset, length, digest: digest.toString('hex') });
    return true;
  });
  return frames;
}
