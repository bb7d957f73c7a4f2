// What an open volume does by itself, now and then: checkpoints when they are due, a note of how far it is durable when it has
// gone idle, and a slow look at what lies at rest. Nothing of it is urgent; a failure is tried again at the next turn.

import { type Clock, type Logger, messageOf } from '../base/index.js';
import type { Reign } from '../format/index.js';
import type { Checkpointer } from './checkpointer.js';
import type { MembershipPort } from './engine-api.js';
import { MAINTENANCE_MS, SCRUB_EVERY_MS } from './limits.js';
import type { LogWriter } from './log-writer.js';
import type { DescribeUpdate } from './replica-port.js';
import type { ReplicaSet } from './replica-set.js';
import type { Scrubber } from './scrubber.js';

export interface MaintenanceParts {
  readonly reign: Reign;
  readonly set: ReplicaSet;
  readonly writer: LogWriter;
  readonly checkpointer: Checkpointer;
  readonly scrubber: Scrubber;
  readonly membership: MembershipPort;
  readonly describe: (update: DescribeUpdate) => Promise<unknown>;
  readonly closed: () => boolean;
  readonly clock: Clock;
  readonly logger: Logger;
}

export class Maintenance {
  readonly #parts: MaintenanceParts;
  #notedThrough = 0;
  #scrubbedMs: number;

  constructor(parts: MaintenanceParts) {
    this.#parts = parts;
    this.#scrubbedMs = parts.clock.monotonicMs();
  }

  /** Runs until the volume closes, one turn after the other. */
  start(): void {
    this.#parts.clock.after(MAINTENANCE_MS, () => {
      if (this.#parts.closed()) return;
      void this.#turn().finally(() => this.start());
    });
  }

  async #turn(): Promise<void> {
    try {
      if (this.#parts.checkpointer.due()) await this.#parts.checkpointer.write();
      await this.noteFlushed();
      await this.#scrub();
    } catch (error) {
      if (this.#parts.closed()) return;
      this.#parts.logger.warn({ error: messageOf(error) }, 'maintenance will be tried again');
    }
  }

  async #scrub(): Promise<void> {
    const now = this.#parts.clock.monotonicMs();
    if (now - this.#scrubbedMs < SCRUB_EVERY_MS) return;
    this.#scrubbedMs = now;
    await this.#parts.scrubber.step();
  }

  /** An idle volume writes down how far it is durable, in the superblocks and in the store. */
  async noteFlushed(): Promise<void> {
    const { set, writer, reign, membership, logger, describe } = this.#parts;
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
