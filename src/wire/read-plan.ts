// Splits a read into requests that each stay within the protocol's bounds.

import { READ_BYTES_MAX, READ_RANGES_MAX } from './limits.js';
import type { ReadRange } from './replica-port.js';

export function readPlan(ranges: readonly ReadRange[]): { requests: readonly (readonly ReadRange[])[]; bytes: number } {
  let bytes = 0;
  for (const range of ranges) bytes += range.into.length;
  if (bytes <= READ_BYTES_MAX && ranges.length <= READ_RANGES_MAX)
    return { requests: ranges.length === 0 ? [] : [ranges], bytes };
  const requests: ReadRange[][] = [];
  let current: ReadRange[] = [];
  let room = READ_BYTES_MAX;
  const close = () => {
    if (current.length > 0) requests.push(current);
    current = [];
    room = READ_BYTES_MAX;
  };
  for (const range of ranges) {
    for (let done = 0; done < range.into.length; ) {
      if (room === 0 || current.length === READ_RANGES_MAX) close();
      const part = Math.min(room, range.into.length - done);
      current.push({
        segment: range.segment,
        offset: range.offset + done,
        into: range.into.subarray(done, done + part),
      });
      done += part;
      room -= part;
    }
  }
  close();
  return { requests, bytes };
}
