// What an open volume does by itself, now and then: checkpoints when they are due, a note of how far it is durable when it has
// gone idle, and a slow look at what lies at rest. Nothing of it is urgent; a failure is tried again at the next turn. A volume on
// which nothing happens has no turns: only the look at rest has a timer of its own, about one an hour.

import { type Clock, type Logger, messageOf, type TimerHandle } from '../base/index.js';
import type { Reign } from '../format/index.js';
import type { Checkpointer } from './checkpointer.js';
import type { MembershipPort } from './engine-api.js';
import { MAINTENANCE_MS, SCRUB_EVERY_MS, SCRUB_LOOK_MS, SCRUB_PASS_MS } from './limits.js';
import type { LogWriter } from './log-writer.js';
import type { DescribeUpdate } from './replica-port.js';
import type { ReplicaSet } from './replica-set.js';
import type { Scrubber } from './scrubber.js';
import type { SpaceKeeper } from './space-keeper.js';

export interface MaintenanceParts {
  readonly reign: Reign;
  readonly set: ReplicaSet;
  readonly writer: LogWriter;
  readonly checkpointer: Checkpointer;
  readonly space: SpaceKeeper;
  readonly scrubber: Scrubber;
  readonly membership: MembershipPort;
  readonly describe: (update: DescribeUpdate) => Promise<unknown>;
  /** Resolves when everything through seq is durable on all counting replicas. */
  readonly durable: (seq: number) => Promise<void>;
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class Maintenance {
  readonly #parts: MaintenanceParts;
  #notedThrough = 0;
  #scrubDueMs: number;
  /** Set while a turn is awaited or runs. */
  #turning: TimerHandle | null = null;
  #scrubbing: TimerHandle | null = null;
  /** The awaited turn does not wait any more, or it runs. */
  #hurried = false;
  /** Something happened since the running turn began. */
  #again = false;
  #stopped = true;

  constructor(parts: MaintenanceParts) {
    this.#parts = parts;
    this.#scrubDueMs = parts.clock.monotonicMs() + SCRUB_EVERY_MS;
  }

  start(): void {
    this.#stopped = false;
    this.noteWork();
    this.#awaitScrub();
  }

  stop(): void {
    this.#stopped = true;
    this.#turning?.cancel();
    this.#scrubbing?.cancel();
  }

  /** Something was committed or became durable: a turn looks at it soon. Called for every frame. */
  noteWork(): void {
    this.#again = true;
    if (this.#stopped) return;
    const { clock, space } = this.#parts;
    if (this.#turning === null) this.#turning = clock.after(MAINTENANCE_MS, () => void this.#turn(false));
    else if (!this.#hurried && space.holdsMuch()) {
      this.#turning.cancel();
      this.#hurried = true;
      this.#turning = clock.after(0, () => void this.#turn(true));
    }
  }

  async #turn(checkpoint: boolean): Promise<void> {
    const { checkpointer, space, closed, logger } = this.#parts;
    this.#again = false;
    this.#hurried = true;
    try {
      if (closed()) return;
      if (checkpoint || checkpointer.due()) await checkpointer.write();
      space.wake();
      await this.noteFlushed();
      this.#again ||= checkpointer.due();
    } catch (error) {
      if (closed()) return;
      this.#again = true;
      logger.warn({ error: messageOf(error) }, 'maintenance will be tried again');
    } finally {
      this.#turning = null;
      this.#hurried = false;
      if (this.#again) this.noteWork();
    }
  }

  /** All that lies at rest is looked at once a week, however much or little it is. */
  #awaitScrub(): void {
    if (this.#stopped) return;
    const { clock } = this.#parts;
    const waitMs = Math.max(0, this.#scrubDueMs - clock.monotonicMs());
    this.#scrubbing = clock.after(Math.min(waitMs, SCRUB_LOOK_MS), () => void this.#scrub());
  }

  async #scrub(): Promise<void> {
    const { clock, scrubber, closed, logger } = this.#parts;
    if (closed()) return;
    try {
      const nowMs = clock.monotonicMs();
      if (nowMs >= this.#scrubDueMs) {
        this.#scrubDueMs = nowMs + SCRUB_PASS_MS;
        await scrubber.step();
      }
      // What has grown meanwhile is due earlier.
      const paceMs = Math.max(SCRUB_EVERY_MS, SCRUB_PASS_MS / Math.max(1, scrubber.segments));
      this.#scrubDueMs = Math.min(this.#scrubDueMs, nowMs + paceMs);
    } catch (error) {
      if (!closed()) logger.warn({ error: messageOf(error) }, 'what lies at rest will be looked at again');
    } finally {
      this.#awaitScrub();
    }
  }

  /** An idle volume writes down how far it is durable, in the superblocks and in the store. */
  async noteFlushed(): Promise<void> {
    const { set, writer, reign, membership, logger, describe, durable } = this.#parts;
    // A log that ends with a sealed segment looks as if it had lost the next file, until the superblocks say that this is its end.
    if (writer.position === undefined && set.synced < writer.lastSeq) await durable(writer.lastSeq);
    const seq = set.synced;
    if (seq <= this.#notedThrough || seq !== writer.lastSeq) return;
    const point = { epoch: reign.epoch, seq, digest: writer.digest.toString('hex') };
    this.#notedThrough = seq;
    await describe({ flushed: point });
    await membership
      .noteFlushed(point)
      .catch((error: unknown) => logger.debug({ error: messageOf(error) }, 'flushed point not noted in the store'));
  }
}
