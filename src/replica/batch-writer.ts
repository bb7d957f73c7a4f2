// Checks and writes appends that arrived together: one write for each run of items in one segment.

import type { SegmentHeader } from '../format/index.js';
import { LogTail, type SegmentLog } from '../segment/index.js';
import type { AppendItem } from '../wire/index.js';
import { type AcceptRules, checkAppend } from './accept.js';

/**
 * Writes the items up to the first that is refused or fails, and moves `tail` along. Throws what refused or failed it; what
 * came before is then in the log, and `tail` is of no use. `opened` is told of each segment that was created.
 */
export function writeBatch(
  log: SegmentLog,
  tail: LogTail,
  rules: AcceptRules,
  items: readonly AppendItem[],
  opened: (header: SegmentHeader) => void,
): void {
  if (items.length === 1) {
    const header = checkAppend(tail, rules, items[0]!);
    one[0] = items[0]!.bytes;
    return writeRun(log, tail, header, one, opened);
  }
  for (let next = 0; next < items.length; ) {
    const buffers: Uint8Array[] = [];
    let header: SegmentHeader | null = null;
    let refused: unknown = null;
    do {
      const item = items[next]!;
      try {
        header = checkAppend(tail, rules, item) ?? header;
      } catch (error) {
        refused = error;
        break;
      }
      checked.copyFrom(tail);
      buffers.push(item.bytes);
      next++;
    } while (next < items.length && items[next]!.offset !== 0);
    if (buffers.length > 0) writeRun(log, checked, header, buffers, opened);
    if (refused !== null) throw refused;
  }
}

/** Behind the last item of a run that was accepted. */
const checked = new LogTail();
/** The list of the usual run. */
const one: Uint8Array[] = [];

function writeRun(
  log: SegmentLog,
  tail: LogTail,
  header: SegmentHeader | null,
  buffers: readonly Uint8Array[],
  opened: (header: SegmentHeader) => void,
): void {
  log.append(header === null ? log.last! : log.create(header), buffers, tail);
  if (header !== null) opened(header);
}
