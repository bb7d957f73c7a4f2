// What keeps the volume's space: the sweeper of map pages that nobody sees, the mover, the dropper and the cleaner that uses both, put
// together. Owner: one engine.

import type { Clock, Logger } from '../base/index.js';
import type { SegmentName } from '../format/index.js';
import { type BlockMap, type KeyRing, kernel } from '../hotpath/index.js';
import type { BlockHeat } from './block-heat.js';
import type { Checkpointer } from './checkpointer.js';
import { Cleaner } from './cleaner.js';
import type { LogReader } from './log-reader.js';
import type { LogWriter } from './log-writer.js';
import { Mover } from './mover.js';
import type { Pipeline } from './pipeline.js';
import type { ReplicaSet } from './replica-set.js';
import { SegmentDropper } from './segment-dropper.js';
import type { SegmentTable, TableEntry } from './segment-table.js';
import { Sweeper } from './sweeper.js';

export interface SpaceParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly reader: LogReader;
  readonly set: ReplicaSet;
  readonly checkpointer: Checkpointer;
  readonly keys: KeyRing;
  readonly heat: BlockHeat;
  /** False for a volume whose records this engine can't open. */
  readonly canReseal: boolean;
  /** The volume serves, and enough replicas are in sync. */
  readonly mayWrite: () => boolean;
  /** Resolves when everything through seq is durable on all counting replicas. */
  readonly durable: (seq: number) => Promise<void>;
  /** Deletes segment files on every connected replica, after the reads that may need them. */
  readonly deleteSegments: (segments: readonly SegmentName[]) => Promise<void>;
  /** Called after space was won. */
  readonly won: () => void;
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class SpaceKeeper {
  readonly #sweeper: Sweeper;
  readonly #mover: Mover;
  readonly #dropper: SegmentDropper;
  readonly #cleaner: Cleaner;
  /** Client bytes that the cleaner was told of. */
  #toldBytes = 0;

  constructor(parts: SpaceParts) {
    this.#sweeper = new Sweeper({ ...parts, swept: () => this.#swept() });
    this.#mover = new Mover({ ...parts, kernel, stopped: () => this.#cleaner.stopped });
    this.#dropper = new SegmentDropper(parts);
    this.#cleaner = new Cleaner({
      ...parts,
      mover: this.#mover,
      dropper: this.#dropper,
      freeBytes: () => parts.set.freeBytes(),
      nearest: () => parts.set.sources()[0],
    });
  }

  get movedBytes(): number {
    return this.#mover.movedBytes;
  }
  get reclaimedBytes(): number {
    return this.#dropper.droppedBytes;
  }
  /** Asked after each commit: checkpoints should be written now, for the dead segments they release. */
  holdsMuch(): boolean {
    return this.#dropper.holdsMuch();
  }

  /** Nothing needs the segment. */
  isDead(entry: TableEntry): boolean {
    return this.#dropper.isDead(entry);
  }

  /** Told after each commit how many bytes clients wrote in all. */
  noteWritten(clientBytes: number): void {
    if (clientBytes === this.#toldBytes) return;
    this.#cleaner.noteWritten(clientBytes - this.#toldBytes);
    this.#toldBytes = clientBytes;
  }
  /** Told when something was trimmed or a snapshot deleted. */
  noteFreed(): void {
    this.#cleaner.noteFreed();
    this.#sweeper.kick();
  }
  /** No commit follows that would bring a turn. */
  #swept(): void {
    this.#cleaner.noteFreed();
    this.#cleaner.wake();
  }
  /** A turn of maintenance: does what is due. */
  wake(): void {
    this.#cleaner.wake();
  }
  /** `dropped`: what an earlier reign had dropped, perhaps without living to delete the files. */
  async start(dropped: readonly SegmentName[]): Promise<void> {
    await this.#dropper.finish(dropped);
    this.#sweeper.kick();
  }
  /** No frame is written any more after this. */
  stop(): void {
    this.#cleaner.stop();
  }
}
