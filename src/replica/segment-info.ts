// What a replica tells of its segments.

import type { Disk, LogSegment } from '../segment/index.js';
import type { SegmentInfo } from '../wire/index.js';

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
