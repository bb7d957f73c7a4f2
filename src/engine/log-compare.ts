// Brings one replica's log to the state of another's: finds where the two part, cuts what lies beyond, copies what is missing
// as the same bytes. Used at open (all in-sync replicas to one end) and for a replica that returns.

import { HoldfastError, messageOf } from '../base/index.js';
import {
  decodeFrame,
  decodeSegmentHeader,
  FRAME_HEADER_SIZE,
  SEGMENT_HEADER_SIZE,
  type SegmentName,
  segmentFileName,
} from '../format/index.js';
import { COPY_CHUNK } from './limits.js';
import type { LogReader } from './log-reader.js';
import type { FrameInfo, ReplicaPort, SegmentInfo } from './replica-port.js';

const keyOf = (segment: SegmentName) => `${segment.epoch}/${segment.ordinal}`;

/** What lists the frames of a log's segments. */
type Frames = Pick<ReplicaPort, 'frames'>;

/** Seq of the last frame that both logs hold with the same digest; 0 when they share none. */
export async function commonPoint(
  source: Frames,
  sourceSegments: readonly SegmentInfo[],
  target: Frames,
  targetSegments: readonly SegmentInfo[],
): Promise<number> {
  const bySource = new Map(sourceSegments.map((segment) => [keyOf(segment), segment]));
  for (const mine of [...targetSegments].reverse()) {
    const theirs = bySource.get(keyOf(mine));
    if (theirs === undefined) continue;
    if (mine.lastSeq >= mine.firstSeq && mine.lastSeq === theirs.lastSeq && mine.lastDigest === theirs.lastDigest)
      return mine.lastSeq;
    const known = new Map((await source.frames(theirs)).map((frame) => [frame.seq, frame.digest]));
    const frames = await target.frames(mine);
    for (let i = frames.length - 1; i >= 0; i--)
      if (known.get(frames[i]!.seq) === frames[i]!.digest) return frames[i]!.seq;
  }
  return 0;
}

/**
 * A log of which damaged segments are no common ground: they are cut and sent again. Only for a replica that is marked as joining before it
 * is cut; one without the mark would look whole when it has been cut and the rest never comes.
 */
export function soundFrames(port: ReplicaPort): Frames {
  return {
    frames: (segment) =>
      port.frames(segment).catch((error: unknown) => {
        if (error instanceof HoldfastError && error.code === 'DATA_LOSS') return [];
        throw error;
      }),
  };
}

/** The first of the needed segments up to `common` that a replica does not have, or has shorter. */
export function missingSegment<T extends SegmentName & { firstSeq: number; lastSeq: number }>(
  needed: readonly T[],
  held: readonly SegmentInfo[],
  common: number,
): T | undefined {
  const byName = new Map(held.map((segment) => [keyOf(segment), segment]));
  return needed.find(
    (segment) => segment.lastSeq <= common && (byName.get(keyOf(segment))?.lastSeq ?? -1) < segment.lastSeq,
  );
}

/**
 * Removes from `target` everything above `common`, and what a damaged log holds beyond its good part. Segments that only the
 * target has are left: whether they were dropped or the source has lost them is not to be seen here.
 */
export async function cutToCommon(
  target: ReplicaPort,
  targetSegments: readonly SegmentInfo[],
  common: number,
  damaged: boolean,
): Promise<void> {
  const end = targetSegments.at(-1)?.lastSeq ?? 0;
  const beyond = targetSegments.some((segment) => segment.firstSeq > common);
  if (end > common || beyond || damaged) await target.cut(common);
}

/** A stretch of whole frames of one segment; at offset 0 it starts with the segment's header. */
interface Stretch {
  readonly segment: SegmentInfo;
  readonly offset: number;
  readonly length: number;
  readonly lastSeq: number;
}

/** Stretches of about 1 MiB that hold every frame above `after`. */
async function* stretches(
  source: Frames,
  segments: readonly SegmentInfo[],
  after: number,
  through: number,
): AsyncGenerator<Stretch> {
  for (const segment of segments) {
    if (segment.lastSeq <= after || segment.firstSeq > through) continue;
    const frames = (await source.frames(segment)).filter((frame) => frame.seq > after && frame.seq <= through);
    let first = 0;
    while (first < frames.length) {
      let last = first;
      while (last + 1 < frames.length && endOf(frames[last + 1]!) - frames[first]!.offset <= COPY_CHUNK) last++;
      const opens = frames[first]!.offset === SEGMENT_HEADER_SIZE;
      const offset = opens ? 0 : frames[first]!.offset;
      yield { segment, offset, length: endOf(frames[last]!) - offset, lastSeq: frames[last]!.seq };
      first = last + 1;
    }
  }
}

function endOf(frame: FrameInfo): number {
  return frame.offset + frame.length;
}

/** Null when every frame of the stretch is whole, and the segment's header when it begins there. */
export function verifyStretch(
  bytes: Buffer,
  { segment, offset }: { readonly segment: SegmentName; readonly offset: number },
): string | null {
  let at = 0;
  if (offset === 0) {
    try {
      const { epoch, ordinal } = decodeSegmentHeader(bytes, segmentFileName(segment));
      if (epoch !== segment.epoch || ordinal !== segment.ordinal) return 'segment header: that of another segment';
    } catch (error) {
      return messageOf(error);
    }
    at = SEGMENT_HEADER_SIZE;
  }
  while (at < bytes.length) {
    const header = decodeFrame(bytes, at, true);
    if (typeof header === 'string') return `frame: ${header}`;
    at += FRAME_HEADER_SIZE + header.bodyLength;
  }
  return null;
}

/**
 * Appends to `target` every frame of `source` above `after` and up to `through`. `sent` is told each stretch and resolves when the target
 * may take the next. Returns the last seq copied.
 */
export async function copyLog(
  parts: { source: Frames; reader: Pick<LogReader, 'read'>; target: ReplicaPort },
  segments: readonly SegmentInfo[],
  after: number,
  through: number,
  sent: (lastSeq: number) => Promise<void>,
): Promise<number> {
  let last = after;
  for await (const stretch of stretches(parts.source, segments, after, through)) {
    const bytes = await parts.reader.read(stretch.segment, stretch.offset, stretch.length, (candidate) =>
      verifyStretch(candidate, stretch),
    );
    parts.target.append(stretch.segment, stretch.offset, bytes, stretch.lastSeq);
    last = stretch.lastSeq;
    await sent(last);
  }
  return last;
}
