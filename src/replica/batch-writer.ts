// Checks and writes appends that arrived together: one write for each run of items in one segment.

import type { SegmentHeader } from '../format/index.js';
import type { SegmentLog } from '../segment/index.js';
import type { AppendItem } from '../wire/index.js';
import { type AcceptRules, checkAppend, type Tail } from './accept.js';

/** Where the log ends. `flushedThrough` is the highest claim known so far. */
export function tailOf(log: SegmentLog, flushedThrough: number): Tail {
  const { last, end } = log;
  return {
    seq: end.seq,
    digest: end.digest,
    context: last === undefined ? null : { name: last.name, volumeId: last.header.volumeId },
    offset: last?.length ?? 0,
    sealed: last?.sealed ?? false,
    flushedThrough,
    opened: null,
  };
}

/**
 * Writes the items up to the first that is refused or fails, and moves `tail` along. Throws what refused or failed it; what
 * came before is then in the log, and `tail` is of no use. `opened` is told of each segment that was created.
 */
export function writeBatch(
  log: SegmentLog,
  tail: Tail,
  rules: AcceptRules,
  items: readonly AppendItem[],
  opened: (header: SegmentHeader) => void,
): void {
  let next = 0;
  while (next < items.length) {
    const buffers: Uint8Array[] = [];
    let bytes = 0;
    let { seq, digest, sealed } = tail;
    let refused: unknown = null;
    do {
      const item = items[next]!;
      try {
        checkAppend(tail, rules, item);
      } catch (error) {
        refused = error;
        break;
      }
      ({ seq, digest, sealed } = tail);
      buffers.push(item.bytes);
      bytes += item.bytes.length;
      next++;
    } while (next < items.length && items[next]!.offset !== 0);
    if (bytes > 0) {
      const header = tail.opened;
      tail.opened = null;
      const segment = header === null ? log.last! : log.create(header);
      log.append(segment, buffers, bytes, seq, digest, sealed);
      if (header !== null) opened(header);
    }
    if (refused !== null) throw refused;
  }
}
