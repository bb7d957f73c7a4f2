// The loop that finishes or undoes what was begun: tombstones, creations that nobody repeats, names without an object, volumes
// kept for snapshots that are gone. Owner: the controller. It decides from the store alone and each step may be repeated; what it
// remembers (how long something has been unfinished, when to try again) may be lost at any time.
// Replicas that no record names are reported, never deleted: a metadata store that went back in time must not cost data.

import { type Clock, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { keyOf, type VolumeRecord } from '../meta/index.js';
import { Backoff } from './backoff.js';
import type { Daemons } from './daemons.js';
import type { Groups } from './groups.js';
import {
  ORDER_DEADLINE_MS,
  RECONCILE_BACKOFF_MAX_MS,
  RECONCILE_INTERVAL_MS,
  STRAY_INTERVAL_MS,
  UNFINISHED_MS,
} from './limits.js';
import { nameHash } from './names.js';
import type { Nodes } from './nodes.js';
import type { NameEntry, Records } from './records.js';
import type { SerialQueue } from './serial-queue.js';
import type { Snapshots } from './snapshots.js';
import type { Tombstones } from './tombstones.js';
import type { VolumeCreation } from './volume-create.js';

export interface ReconcilerOptions {
  readonly records: Records;
  readonly nodes: Nodes;
  readonly daemons: Daemons;
  readonly tombstones: Tombstones;
  readonly creation: VolumeCreation;
  readonly snapshots: Snapshots;
  readonly groups: Groups;
  readonly intents: SerialQueue;
  readonly clock: Clock;
  readonly logger: Logger;
}

const STRAYS_MAX = 10_000;

export class Reconciler {
  readonly #options: ReconcilerOptions;
  readonly #backoff = new Backoff(RECONCILE_INTERVAL_MS, RECONCILE_BACKOFF_MAX_MS);
  /** When something unfinished was first seen by this process, on the monotonic clock. */
  readonly #firstSeen = new Map<string, number>();
  readonly #strays = new Set<string>();
  #strayCheckMs = 0;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Rounds until the signal aborts. A round that fails (the store is away) is logged and tried again. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, logger } = this.#options;
    while (!signal.aborted) {
      try {
        await this.round(signal);
      } catch (error) {
        logger.warn({ error: messageOf(error) }, 'a reconcile round failed');
      }
      await clock.sleep(RECONCILE_INTERVAL_MS, signal).catch(() => {});
    }
  }

  /** One look at everything. */
  async round(signal?: AbortSignal): Promise<void> {
    const seen = new Set<string>();
    const step = async (key: string, work: () => Promise<void>) => {
      seen.add(key);
      if (!signal?.aborted) await this.#try(key, work);
    };
    await this.#volumes(step, seen);
    await this.#snapshotsAndGroups(step, seen);
    await this.#orphanedNames(step, seen);
    this.#backoff.keepOnly(seen);
    for (const key of this.#firstSeen.keys()) if (!seen.has(key)) this.#firstSeen.delete(key);
    await this.#reportStrays(signal);
  }

  async #try(key: string, work: () => Promise<void>): Promise<void> {
    const { clock, logger } = this.#options;
    if (!this.#backoff.ready(key, clock.monotonicMs())) return;
    try {
      await work();
    } catch (error) {
      this.#backoff.failed(key, clock.monotonicMs());
      // Somebody is at it right now: that is progress, not trouble.
      const busy = error instanceof HoldfastError && error.code === 'ABORTED';
      if (!busy) logger.warn({ what: key, error: messageOf(error) }, 'not finished yet, will be tried again');
    }
  }

  /** Whether `key` has been unfinished for so long that nobody will repeat it. */
  #overdue(key: string, seen: Set<string>): boolean {
    seen.add(key);
    const now = this.#options.clock.monotonicMs();
    const first = this.#firstSeen.get(key);
    if (first === undefined) this.#firstSeen.set(key, now);
    return first !== undefined && now - first >= UNFINISHED_MS;
  }

  async #volumes(step: Step, seen: Set<string>): Promise<void> {
    const { records, tombstones, creation } = this.#options;
    for (const volume of await records.volumes()) {
      const key = `volume ${volume.id}`;
      if (volume.state === 'deleting') await step(key, () => this.#bury(volume));
      else if (volume.state === 'snapshots-only') await step(key, () => tombstones.lastSnapshotGone(volume.id));
      else if (volume.state === 'creating' && this.#overdue(key, seen)) await step(key, () => creation.undo(volume));
    }
  }

  async #bury(volume: VolumeRecord): Promise<void> {
    const { records, tombstones } = this.#options;
    await records.freeName(keyOf.volumeName(nameHash(volume.name)), volume.id);
    await tombstones.volume(volume.id);
  }

  async #snapshotsAndGroups(step: Step, seen: Set<string>): Promise<void> {
    const { records, tombstones, snapshots, groups } = this.#options;
    for (const group of await records.groups()) {
      const key = `group ${group.id}`;
      if (group.state === 'creating' && this.#overdue(key, seen)) await step(key, () => groups.undo(group));
      if (group.state !== 'deleting') continue;
      await step(key, async () => {
        await records.freeName(keyOf.groupName(nameHash(group.name)), group.id);
        await tombstones.group(group.id);
      });
    }
    for (const snapshot of await records.snapshots()) {
      const key = `snapshot ${snapshot.id}`;
      if (snapshot.state === 'deleting') {
        await step(key, async () => {
          if (snapshot.name !== '') await records.freeName(keyOf.snapshotName(nameHash(snapshot.name)), snapshot.id);
          await tombstones.snapshot(snapshot.id);
        });
      } else if (snapshot.state === 'creating' && snapshot.groupId === undefined && this.#overdue(key, seen)) {
        await step(key, () => snapshots.undo(snapshot));
      }
    }
  }

  /** A name whose object was never made, or is gone. */
  async #orphanedNames(step: Step, seen: Set<string>): Promise<void> {
    const { records, intents } = this.#options;
    const kinds = ['volume', 'snapshot', 'group'] as const;
    for (const kind of kinds) {
      for (const entry of await records.names(`${kind}-name/`)) {
        const objectKey = `${kind}/${entry.id}`;
        if ((await records.store.get(objectKey)) !== undefined) continue;
        const key = `name ${entry.key}`;
        if (this.#overdue(key, seen)) await step(key, () => intents.run(() => this.#dropName(entry, objectKey)));
      }
    }
  }

  async #dropName(entry: NameEntry, objectKey: string): Promise<void> {
    const { records } = this.#options;
    if ((await records.store.get(objectKey)) === undefined) await records.freeName(entry.key, entry.id);
  }

  async #reportStrays(signal?: AbortSignal): Promise<void> {
    const { records, nodes, daemons, clock, logger } = this.#options;
    if (clock.monotonicMs() < this.#strayCheckMs || signal?.aborted) return;
    this.#strayCheckMs = clock.monotonicMs() + STRAY_INTERVAL_MS;
    const alive = (await nodes.list()).filter((node) => node.silentMs === undefined);
    const reports = await Promise.allSettled(
      alive.map((node) => daemons.replica(node).Status({ volume_id: '' }, { deadlineMs: ORDER_DEADLINE_MS })),
    );
    // Read after the daemons answered: a replica made meanwhile is named by then.
    const named = new Set(
      (await records.volumes()).flatMap((volume) => volume.replicas.map((replica) => replica.id as string)),
    );
    reports.forEach((report, index) => {
      if (report.status === 'rejected') return;
      for (const replica of report.value.replicas) {
        if (named.has(replica.replica_id) || this.#strays.has(replica.replica_id) || this.#strays.size >= STRAYS_MAX)
          continue;
        this.#strays.add(replica.replica_id);
        const fields = {
          node: alive[index]!.id,
          volume: replica.volume_id,
          replica: replica.replica_id,
          bytes: replica.stored_bytes,
        };
        logger.warn(fields, 'a replica that no record names; it is left alone');
      }
    });
  }
}

type Step = (key: string, work: () => Promise<void>) => Promise<void>;
