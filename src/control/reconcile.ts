// The loop that finishes or undoes what was begun: tombstones, creations that nobody repeats, names without an object, volumes
// kept for snapshots that are gone. It sleeps until a change of the store leaves something unfinished, and reads only that.
// Owner: the controller. It decides from the store alone and each step may be repeated; what it remembers (how long something has
// been unfinished, when to try again) may be lost at any time.
// Replicas that no record names are reported, never deleted: a metadata store that went back in time must not cost data.

import { type Clock, HoldfastError, type Logger, messageOf } from '../base/index.js';
import { type JsonObject, keyOf, type VolumeRecord, type WatchEvent } from '../meta/index.js';
import { Backoff } from './backoff.js';
import type { Daemons } from './daemons.js';
import type { Groups } from './groups.js';
import {
  ORDER_DEADLINE_MS,
  PAGE_ENTRIES,
  RECONCILE_BACKOFF_MAX_MS,
  RECONCILE_EVERYTHING_MS,
  RECONCILE_INTERVAL_MS,
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
  /** Something became unfinished since the last round began. */
  #changed = false;
  #wake = () => {};
  /** When something seen in this round is due again. */
  #dueMs = 0;
  #everythingMs = 0;

  constructor(options: ReconcilerOptions) {
    this.#options = options;
  }

  /** Looks at what is unfinished, when there is something, until the signal aborts. A round that fails is tried again. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, logger } = this.#options;
    const watching = this.#watch(signal);
    while (!signal.aborted) {
      this.#changed = false;
      const everything = clock.monotonicMs() >= this.#everythingMs;
      try {
        await this.#look(everything, signal);
      } catch (error) {
        logger.warn({ error: messageOf(error) }, 'a reconcile round failed');
        this.#dueMs = 0;
        if (everything) this.#everythingMs = 0;
      }
      await this.#pause(signal);
    }
    await watching;
  }

  /** One look at everything. */
  round(signal?: AbortSignal): Promise<void> {
    return this.#look(true, signal);
  }

  /** Tells the loop of every change that leaves something unfinished. */
  async #watch(signal: AbortSignal): Promise<void> {
    const { records, clock, logger } = this.#options;
    while (!signal.aborted) {
      try {
        const version = await records.store.version();
        const watching = records.store.watch('', version, (events) => this.#note(events), signal);
        // What changed before the watch stood is found by looking.
        this.#everythingMs = 0;
        this.#noteChange();
        await watching;
        return;
      } catch (error) {
        logger.warn({ error: messageOf(error) }, 'changes of the metadata are not seen, they will be looked for');
        await clock.sleep(RECONCILE_INTERVAL_MS, signal).catch(() => {});
      }
    }
  }

  #note(events: readonly WatchEvent[]): void {
    for (const event of events) {
      if (event.type === 'resync') this.#everythingMs = 0;
      // The last snapshot that goes takes the volume with it that was kept for it.
      else if (event.type === 'delete' ? !event.key.startsWith('snapshot/') : !isUnfinished(event.entry.value))
        continue;
      this.#noteChange();
    }
  }

  #noteChange(): void {
    this.#changed = true;
    this.#wake();
  }

  /** Until something is due. What has just appeared is somebody's work: it gets time to be finished by whoever began it. */
  async #pause(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    const waitMs = Math.min(this.#dueMs, this.#everythingMs) - clock.monotonicMs();
    const woken = new AbortController();
    this.#wake = () => woken.abort();
    if (!this.#changed && waitMs > RECONCILE_INTERVAL_MS) {
      await clock.sleep(waitMs - RECONCILE_INTERVAL_MS, AbortSignal.any([signal, woken.signal])).catch(() => {});
    }
    if (!signal.aborted) await clock.sleep(RECONCILE_INTERVAL_MS, signal).catch(() => {});
  }

  /** `everything`: also names without an object and replicas without a record, which costs as much as there is. */
  async #look(everything: boolean, signal?: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    this.#dueMs = Number.POSITIVE_INFINITY;
    // From here on whoever sets it back does it for something this look may have missed.
    if (everything) this.#everythingMs = clock.monotonicMs() + RECONCILE_EVERYTHING_MS;
    const seen = new Set<string>();
    const step = async (key: string, work: () => Promise<void>) => {
      seen.add(key);
      if (!signal?.aborted) await this.#try(key, work);
    };
    await this.#volumes(step, seen);
    await this.#snapshotsAndGroups(step, seen);
    if (everything) {
      const namesDueMs = await this.#orphanedNames(step, seen);
      this.#everythingMs = Math.min(this.#everythingMs, namesDueMs);
      await this.#reportStrays(signal);
    } else for (const key of this.#firstSeen.keys()) if (key.startsWith(NAME)) seen.add(key);
    this.#backoff.keepOnly(seen);
    for (const key of this.#firstSeen.keys()) if (!seen.has(key)) this.#firstSeen.delete(key);
  }

  async #try(key: string, work: () => Promise<void>): Promise<void> {
    const { clock, logger } = this.#options;
    if (this.#backoff.readyMs(key) <= clock.monotonicMs()) {
      try {
        return await work();
      } catch (error) {
        this.#backoff.failed(key, clock.monotonicMs());
        // Somebody is at it right now: that is progress, not trouble.
        const busy = error instanceof HoldfastError && error.code === 'ABORTED';
        if (!busy) logger.warn({ what: key, error: messageOf(error) }, 'not finished yet, will be tried again');
      }
    }
    this.#dueMs = Math.min(this.#dueMs, this.#backoff.readyMs(key));
  }

  /** Whether `key` has been unfinished for so long that nobody will repeat it. */
  #overdue(key: string, seen: Set<string>): boolean {
    seen.add(key);
    const now = this.#options.clock.monotonicMs();
    const first = this.#firstSeen.get(key) ?? now;
    this.#firstSeen.set(key, first);
    if (now - first >= UNFINISHED_MS) return true;
    this.#dueMs = Math.min(this.#dueMs, first + UNFINISHED_MS);
    return false;
  }

  async #volumes(step: Step, seen: Set<string>): Promise<void> {
    const { records, tombstones, creation } = this.#options;
    for (const volume of await records.unfinishedVolumes()) {
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
    for (const group of await records.unfinishedGroups()) {
      const key = `group ${group.id}`;
      if (group.state === 'creating' && this.#overdue(key, seen)) await step(key, () => groups.undo(group));
      if (group.state !== 'deleting') continue;
      await step(key, async () => {
        await records.freeName(keyOf.groupName(nameHash(group.name)), group.id);
        await tombstones.group(group.id);
      });
    }
    for (const snapshot of await records.unfinishedSnapshots()) {
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

  /** Names whose object was never made, or is gone. Returns when the next of them is due. */
  async #orphanedNames(step: Step, seen: Set<string>): Promise<number> {
    const { records, intents, clock } = this.#options;
    const kinds = ['volume', 'snapshot', 'group'] as const;
    let looks = 0;
    let dueMs = Number.POSITIVE_INFINITY;
    for (const kind of kinds) {
      for (const entry of await records.names(`${kind}-name/`)) {
        // There may be tens of thousands of them, and calls to answer in between.
        if (++looks % PAGE_ENTRIES === 0) await clock.sleep(0);
        const objectKey = `${kind}/${entry.id}`;
        if ((await records.store.get(objectKey)) !== undefined) continue;
        const key = `${NAME}${entry.key}`;
        if (this.#overdue(key, seen)) await step(key, () => intents.run(() => this.#dropName(entry, objectKey)));
        else dueMs = Math.min(dueMs, this.#firstSeen.get(key)! + UNFINISHED_MS);
      }
    }
    return dueMs;
  }

  async #dropName(entry: NameEntry, objectKey: string): Promise<void> {
    const { records } = this.#options;
    if ((await records.store.get(objectKey)) === undefined) await records.freeName(entry.key, entry.id);
  }

  async #reportStrays(signal?: AbortSignal): Promise<void> {
    const { records, nodes, daemons, logger } = this.#options;
    if (signal?.aborted) return;
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

/** Begins the keys of names without an object. */
const NAME = 'name ';

function isUnfinished(value: JsonObject): boolean {
  return typeof value.state === 'string' && value.state !== 'ready';
}

type Step = (key: string, work: () => Promise<void>) => Promise<void>;
