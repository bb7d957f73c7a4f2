// Reads what lies at rest, on every in-sync replica, checks it frame by frame and has it repaired from a peer. What nobody reads
// (superseded records, frame headers, the checkpoint before the newest) would else rot unnoticed until it is needed.
//
// Owner: one engine; one pass or step at a time. Only segments that take no more frames. What no replica has intact is reported
// with its place and left as it is. May fail: a replica that goes away is left out and met again in the next pass.

import { type Clock, HoldfastError, type Logger, messageOf } from '../base/index.js';
import {
  decodeFrame,
  decodeSegmentHeader,
  FRAME_HEADER_SIZE,
  type FrameHeader,
  followsDigest,
  frameDigest,
  SEGMENT_HEADER_SIZE,
  segmentFileName,
} from '../format/index.js';
import type { ScrubReport } from './engine-api.js';
import { SCRUB_CHUNK, SCRUB_REST } from './limits.js';
import { LogReader } from './log-reader.js';
import type { ReplicaPort } from './replica-port.js';
import type { SegmentTable, TableEntry } from './segment-table.js';

export interface ScrubParts {
  readonly table: SegmentTable;
  /** How many map entries name the slot. */
  readonly references: (slot: number) => number;
  /** Connected in-sync replicas. */
  readonly sources: () => readonly ReplicaPort[];
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What the next frame must continue. A digest is unknown where the header before it could not be read. */
interface Before {
  at: number;
  seq: number;
  digest: Buffer | null;
}

export class Scrubber {
  readonly #parts: ScrubParts;
  /** Ordinal of the segment that a step looked at last. */
  #last = -1;
  #running: Promise<unknown> = Promise.resolve();

  constructor(parts: ScrubParts) {
    this.#parts = parts;
  }

  /** Every closed segment, on every in-sync replica. */
  pass(): Promise<ScrubReport> {
    return this.#alone(async () => {
      const missing = this.#parts.table.missing(this.#parts.references);
      const report = { verifiedBytes: 0, repairs: 0, damage: new Set(missing) };
      for (const segment of this.#closedSegments()) await this.#segment(segment, report);
      return { ...report, damage: [...report.damage] };
    });
  }

  /** The next closed segment in turn; what it finds is logged. */
  step(): Promise<void> {
    return this.#alone(async () => {
      const segments = this.#closedSegments();
      const segment = segments.find((candidate) => candidate.ordinal > this.#last) ?? segments[0];
      if (segment === undefined) return;
      this.#last = segment.ordinal;
      await this.#segment(segment, { verifiedBytes: 0, repairs: 0, damage: new Set() });
    });
  }

  /** What a pass looks at. */
  get segments(): number {
    return this.#closedSegments().length;
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#running.then(work);
    this.#running = result.catch(() => undefined);
    return result;
  }

  #closedSegments(): TableEntry[] {
    return this.#parts.table.entries().filter((entry) => entry.closed && !entry.dropped);
  }

  /** The files of a dropped segment are deleted some time before it leaves the table. */
  #isGone(segment: TableEntry): boolean {
    return segment.dropped || this.#parts.table.bySlot(segment.slot) !== segment;
  }

  async #segment(
    segment: TableEntry,
    report: { verifiedBytes: number; repairs: number; damage: Set<string> },
  ): Promise<void> {
    const { sources, closed, logger } = this.#parts;
    for (const port of sources()) {
      if (closed() || this.#isGone(segment)) return;
      const others = () => sources().filter((other) => other !== port);
      const reader = new LogReader(() => (sources().includes(port) ? [port, ...others()] : []), logger);
      try {
        report.verifiedBytes += await this.#copy(segment, port, reader, report.damage);
      } catch (error) {
        // It may have been dropped while it was read.
        if (closed() || this.#isGone(segment)) return;
        if (!(error instanceof HoldfastError)) throw error;
        if (error.code === 'DATA_LOSS') report.damage.add(error.message);
        logger.error({ node: port.nodeId, error: messageOf(error) }, 'a segment could not be verified');
      }
      report.repairs += reader.repairs;
    }
  }

  /** One replica's copy of a segment; returns the bytes verified. */
  async #copy(segment: TableEntry, port: ReplicaPort, reader: LogReader, damage: Set<string>): Promise<number> {
    const before: Before = { at: SEGMENT_HEADER_SIZE, seq: segment.firstSeq - 1, digest: null };
    try {
      const header = await reader.read(segment, 0, SEGMENT_HEADER_SIZE, (bytes) => headerFault(bytes, segment));
      before.digest = decodeSegmentHeader(header, segmentFileName(segment)).previousDigest;
    } catch (error) {
      this.#note(error, segment, port, damage);
    }
    const { clock, closed } = this.#parts;
    while (before.at < segment.length && !closed()) {
      const beganMs = clock.monotonicMs();
      await this.#chunk(segment, reader, before);
      // The chunk ended within a frame, or at a bad one: that one by itself, from whoever has it.
      if (before.at < segment.length) await this.#frame(segment, port, reader, before, damage);
      // Requests have the rest of the thread, and of the disk.
      await clock.sleep((clock.monotonicMs() - beganMs) * SCRUB_REST);
    }
    return before.at;
  }

  async #frame(
    segment: TableEntry,
    port: ReplicaPort,
    reader: LogReader,
    before: Before,
    damage: Set<string>,
  ): Promise<void> {
    const head = await reader.read(segment, before.at, FRAME_HEADER_SIZE, (bytes) =>
      frameFault(bytes, 0, false, segment, before),
    );
    const header = decodeFrame(head, 0, false) as FrameHeader;
    const length = FRAME_HEADER_SIZE + header.bodyLength;
    try {
      await reader.read(segment, before.at, length, (bytes) => frameFault(bytes, 0, true, segment, before));
    } catch (error) {
      this.#note(error, segment, port, damage);
    }
    advance(before, header, head, 0);
  }

  /** Damage is noted and the rest looked at; anything else ends this copy's turn. */
  #note(error: unknown, segment: TableEntry, port: ReplicaPort, damage: Set<string>): void {
    if (!(error instanceof HoldfastError) || error.code !== 'DATA_LOSS' || this.#isGone(segment)) throw error;
    damage.add(error.message);
    this.#parts.logger.error({ node: port.nodeId, error: error.message }, 'damage that no replica can repair');
  }

  /** Moves `before` over the whole frames of the next chunk that are right as this replica has them. */
  async #chunk(segment: TableEntry, reader: LogReader, before: Before): Promise<void> {
    const start = before.at;
    const length = Math.min(SCRUB_CHUNK, segment.length - start);
    let bytes: Buffer;
    try {
      bytes = await reader.read(segment, start, length, () => null);
    } catch (error) {
      // One frame after the other will say where.
      if (error instanceof HoldfastError && error.code === 'DATA_LOSS') return;
      throw error;
    }
    while (before.at - start < length) {
      const at = before.at - start;
      if (frameFault(bytes, at, true, segment, before) !== null) return;
      advance(before, decodeFrame(bytes, at, false) as FrameHeader, bytes, at);
    }
  }
}

function advance(before: Before, header: FrameHeader, bytes: Buffer, at: number): void {
  before.at += FRAME_HEADER_SIZE + header.bodyLength;
  before.seq = header.seq;
  before.digest = frameDigest(bytes, at);
}

function headerFault(bytes: Buffer, segment: TableEntry): string | null {
  try {
    const header = decodeSegmentHeader(bytes, segmentFileName(segment));
    const fits =
      header.epoch === segment.epoch &&
      header.ordinal === segment.ordinal &&
      header.slot === segment.slot &&
      header.firstSeq === segment.firstSeq;
    return fits ? null : 'segment header: that of another segment';
  } catch (error) {
    return messageOf(error);
  }
}

function frameFault(bytes: Buffer, at: number, whole: boolean, segment: TableEntry, before: Before): string | null {
  const header = decodeFrame(bytes, at, whole);
  if (typeof header === 'string') return `frame: ${header}`;
  if (header.epoch !== segment.epoch || header.ordinal !== segment.ordinal || header.offset !== before.at)
    return 'frame: it belongs elsewhere';
  if (header.seq !== before.seq + 1) return `frame: seq ${header.seq}, not ${before.seq + 1}`;
  if (before.digest !== null && !followsDigest(bytes, at, before.digest)) return 'frame: it follows another one';
  return null;
}
