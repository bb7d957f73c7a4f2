// The bytes of a log that go over a place which a replica's disk can't read: whole blocks of the filesystem, since a block that is
// written in part is read first. Each byte is part of a frame that verifies, or of the segment's header.

import { alignUp, BLOCK_SIZE, corrupt } from '../base/index.js';
import { SEGMENT_HEADER_SIZE, type SegmentName, segmentFileName } from '../format/index.js';
import { verifyStretch } from './log-compare.js';
import { readOnce } from './read-once.js';
import type { ReplicaPort } from './replica-port.js';

/**
 * What `good` holds in the blocks that the range touches, as far as its log goes. Rejects with DATA_LOSS when a frame there is not
 * whole, and as port.frames() and port.read() do.
 */
export async function wholeBlocks(
  good: ReplicaPort,
  segment: SegmentName,
  offset: number,
  length: number,
): Promise<{ offset: number; bytes: Buffer }> {
  const from = offset - (offset % BLOCK_SIZE);
  const to = alignUp(offset + length, BLOCK_SIZE);
  const frames = (await good.frames(segment)).filter(
    (frame) => frame.offset < to && frame.offset + frame.length > from,
  );
  const first = from < SEGMENT_HEADER_SIZE ? 0 : (frames[0]?.offset ?? from);
  const last = frames.at(-1);
  const end = last === undefined ? SEGMENT_HEADER_SIZE : last.offset + last.length;
  const bytes = Buffer.allocUnsafe(Math.max(0, end - first));
  await readOnce(good, [{ segment, offset: first, into: bytes }]);
  const fault = end < offset + length ? 'its log is shorter' : verifyStretch(bytes, { segment, offset: first });
  if (fault !== null)
    throw corrupt(`${good.nodeId}, segment ${segmentFileName(segment)}, bytes ${first} to ${end}: ${fault}`);
  return { offset: from, bytes: bytes.subarray(from - first, Math.min(to, end) - first) };
}
