// Which segments of a log leave the page cache. While clients read another copy, what nobody read a part of for UNREAD_SEGMENTS goes
// once it is sealed and synced: the kernel can't tell, and each new byte would take the place of one that somebody reads (decision 035).
//
// Owner: SegmentLog. Invariant: nothing goes by this that is not on the disk.

import { UNREAD_SEGMENTS } from './limits.js';
import type { LogSegment } from './segment-log.js';

export class LogCache {
  /** The engine, and so who reads, is on another node. */
  readElsewhere = false;
  /** Segments sealed and synced since something was read. */
  #unread = UNREAD_SEGMENTS;

  /** Something of the log was read for a client. */
  read(): void {
    this.#unread = 0;
  }

  /** A sync of the segment has ended. */
  synced(segment: LogSegment): void {
    if (!this.readElsewhere || !segment.sealed || segment.dirty) return;
    if (this.#unread < UNREAD_SEGMENTS) this.#unread++;
    else segment.file?.dropCached();
  }
}
