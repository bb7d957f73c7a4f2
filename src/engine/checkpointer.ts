// Writes checkpoints of the map into the log. Owner: one engine.
//
// A checkpoint shows one moment: every frame through `coveredThrough` is applied, none after. It takes a cut of the map then and writes it
// frame by frame, and requests go on in between: a page that changes before it was written leaves its former self to the cut, and
// places, flags and ids of the map's table change only when a checkpoint begins or as it writes. So the entries that the root names are
// the map of that moment, wherever between them other frames lie; replay begins at the oldest frame that was not committed at that
// moment, and finds all of them again. Nothing of it counts before its root is durable on all counting replicas and their superblocks
// name it; every place that this one or the one before names stays referenced (superseded) until two more count.

import { type Clock, HoldfastError, type Logger, messageOf } from '../base/index.js';
import {
  type CheckpointPlace,
  type CheckpointRoot,
  type Reign,
  SEGMENT_HEADER_SIZE,
  type SegmentName,
} from '../format/index.js';
import { type BlockMap, rewritePages } from '../hotpath/index.js';
import { ChunkPlaces } from './checkpoint-lists.js';
import { isLongLog, isPressing } from './checkpoint-policy.js';
import { type CheckpointLists, checkpointFrames } from './checkpoint-writer.js';
import { CHECKPOINT_AHEAD_BYTES, CHECKPOINT_DIRTY_PAGES, CHECKPOINT_FRAME_MAX, DIRTY_SHARE_MAX } from './limits.js';
import type { Frame, LogWriter } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { SegmentTable } from './segment-table.js';

export interface CheckpointParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly reigns: readonly Reign[];
  readonly committed: () => number;
  /** Resolves when everything through seq is durable on all counting replicas. */
  readonly durable: (seq: number) => Promise<void>;
  /** Puts the place into the superblock of every connected replica of the set; resolves with the nodes that did not take it. */
  readonly describe: (place: CheckpointPlace) => Promise<readonly string[]>;
  /** Changed pages may have left memory. */
  readonly roomAgain: () => void;
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** What an engine opens with. */
export interface CheckpointStart {
  readonly place: CheckpointPlace | null;
  readonly root: CheckpointRoot | null;
  /** What was replayed over it. */
  readonly replayedBytes: number;
  readonly replayedRecords: number;
}

export class Checkpointer {
  readonly #parts: CheckpointParts;
  readonly #lists: CheckpointLists;
  #writtenAt: number;
  #recordsAt: number;
  #running: Promise<CheckpointPlace> | undefined;
  /** Slots of places that the newest checkpoint names and the next one will not; those of failed attempts wait with them. */
  #superseded: number[] = [];
  /** The same of the checkpoint before it, which is still the fallback. */
  #before: number[] = [];
  #current: CheckpointPlace | null;
  #previous: CheckpointPlace | null = null;
  #own = false;
  #apart: Promise<void> = Promise.resolve();
  /** Of checkpoint frames in this reign. */
  bytesWritten = 0;

  constructor(parts: CheckpointParts, start: CheckpointStart) {
    this.#parts = parts;
    this.#current = start.place;
    this.#lists = {
      table: new ChunkPlaces(parts.map, start.root?.tablePlaces ?? []),
      segments: new ChunkPlaces(parts.map, start.root?.segmentPlaces ?? []),
      snapshots: new ChunkPlaces(parts.map, start.root?.snapshotPlaces ?? []),
    };
    this.#writtenAt = -start.replayedBytes;
    this.#recordsAt = parts.map.recordsStored - start.replayedRecords;
  }

  get current(): CheckpointPlace | null {
    return this.#current;
  }
  /** Replay from the newest checkpoint or the one before passes no segment below this; null: it may pass any. */
  get oldestReplayOrdinal(): number | null {
    if (!this.#own || this.#current === null) return null;
    const newest = this.#current.replayFrom.segment.ordinal;
    return Math.min(newest, this.#previous?.replayFrom.segment.ordinal ?? newest);
  }

  /** True when the log since the last checkpoint, or what it keeps in memory, has grown past its budget. */
  due(): boolean {
    return this.#running === undefined && (this.#longLog() || this.pressing());
  }

  /** True when changed pages take up so much memory that a checkpoint should begin at once. Cheap enough for every commit. */
  pressing(): boolean {
    const { map } = this.#parts;
    return isPressing(map.dirtyPages, map.dirtyShare);
  }

  /** Told after every commit. */
  beginWhenPressing(): void {
    if (this.#running !== undefined || !this.pressing()) return;
    this.write().catch((error: unknown) => {
      if (!this.#parts.closed())
        this.#parts.logger.warn({ error: messageOf(error) }, 'a checkpoint failed; the next will follow');
    });
  }

  /** Changed pages stay in memory until they are written: writes wait rather than take all of it. */
  mapFull(): boolean {
    if (this.#parts.map.dirtyShare < DIRTY_SHARE_MAX || !this.pressing()) return false;
    this.beginWhenPressing();
    return true;
  }

  #longLog(): boolean {
    const { writer, map, table } = this.#parts;
    const logBytes = writer.bytesWritten - this.#writtenAt;
    return isLongLog(logBytes, map.recordsStored - this.#recordsAt, table.storedBytes);
  }

  /** Writes a checkpoint unless one is being written, and waits until it counts. */
  write(): Promise<CheckpointPlace> {
    // Begun in a turn of its own: what it writes may be acknowledged, and ask for a checkpoint, before its first await.
    this.#running ??= this.#apart
      .then(() => this.#write())
      .finally(() => {
        this.#running = undefined;
      });
    return this.#running;
  }

  async #write(): Promise<CheckpointPlace> {
    const { map, writer, pipeline, reigns, table } = this.#parts;
    // Frames are applied one by one: of those that are committed, the oldest may be still to be applied.
    const oldest = pipeline.oldest;
    const coveredThrough = oldest === undefined ? this.#parts.committed() : oldest.seq - 1;
    const cut = map.cut();
    const superseded = this.#superseded;
    superseded.push(...cut.superseded);
    this.#writtenAt = writer.bytesWritten;
    this.#recordsAt = map.recordsStored;
    const job = { map, cut, segments: table, lists: this.#lists, writer, reigns, coveredThrough, superseded };
    const { first, last } = await this.#writeFrames(checkpointFrames(job));
    const replayFrame = oldest ?? first;
    const place: CheckpointPlace = {
      coveredThrough,
      segment: nameOf(last.segment),
      frameOffset: frameStart(last),
      replayFrom: { segment: nameOf(replayFrame.segment), offset: frameStart(replayFrame) },
    };
    await this.#parts.durable(last.seq);
    this.#settled();
    const refused = await this.#parts.describe(place);
    if (refused.length > 0)
      throw new HoldfastError('RESOURCE_EXHAUSTED', `no superblock names the new checkpoint on ${refused.join(', ')}`);
    this.#previous = this.#current;
    this.#current = place;
    this.#own = true;
    // What the checkpoint before the last one named is needed by none of the two that count now.
    for (const slot of this.#before) map.counts.addPlaces(slot, -1);
    this.#before = superseded;
    this.#superseded = [];
    return place;
  }

  /** What was written so far is on every replica: it may leave memory, and writes that wait for that go on. */
  #settled(): void {
    this.#parts.map.settled();
    this.#parts.roomAgain();
  }

  /** The first frame goes out in this turn, so that nothing lies between the cut and it; each further one when the log is not far ahead. */
  async #writeFrames(frames: Generator<Frame>): Promise<{ first: Frame; last: Frame }> {
    const { pipeline, committed, closed, clock } = this.#parts;
    let first: Frame | undefined;
    let last: Frame | undefined;
    let bytes = 0;
    for (const frame of frames) {
      first ??= frame;
      last = frame;
      pipeline.transmit();
      bytes += frame.bytes.length;
      this.bytesWritten += frame.bytes.length;
      if (bytes < CHECKPOINT_FRAME_MAX / 2) continue;
      bytes = 0;
      await clock.sleep(0);
      while (!closed() && pipeline.bytesInFlight > CHECKPOINT_AHEAD_BYTES) await clock.sleep(1);
      if (committed() >= last.seq) this.#settled();
      if (closed()) throw new HoldfastError('UNAVAILABLE', 'the volume was closed', { reason: 'Closed' });
    }
    return { first: first!, last: last! };
  }

  /** Runs `work` at once if no checkpoint is under way, else after it; one that is asked for meanwhile begins behind it. */
  apart(work: () => void): Promise<void> {
    const done = (this.#running ?? Promise.resolve()).then(work, work);
    this.#apart = done.catch(() => undefined);
    return done;
  }

  /**
   * The next checkpoint will write anew what of the map itself lies in a segment; once it counts, only live records refer to that. Of very
   * much it takes a part, as long as few pages wait for a checkpoint: called again after one, it goes on.
   * Rejects when a page can't be read.
   */
  async evacuate(slot: number): Promise<void> {
    const { map, clock, closed } = this.#parts;
    if (map.dirtyPages >= CHECKPOINT_DIRTY_PAGES / 2) return;
    for (const chunk of this.#lists.table.in(slot)) map.table.touchChunk(chunk);
    for (const chunk of this.#lists.snapshots.in(slot)) map.snapshotList.touchChunk(chunk);
    for (const chunk of this.#lists.segments.in(slot)) map.counts.touchChunk(chunk);
    await rewritePages(map, slot, async () => {
      await clock.sleep(0);
      return !closed() && map.dirtyPages < CHECKPOINT_DIRTY_PAGES / 2;
    });
  }
}

function nameOf(segment: SegmentName): SegmentName {
  return { epoch: segment.epoch, ordinal: segment.ordinal };
}

/** Where the frame's header is, the segment's header left out. */
function frameStart(frame: Frame): number {
  return frame.offset === 0 ? SEGMENT_HEADER_SIZE : frame.offset;
}
