// Snapshots: name (intent), record `creating`, freeze at the volume's engine, record `ready`. A repetition goes on with the same
// id, and the engine freezes an id once; so a snapshot shows one instant however often its creation was repeated.

import {
  type Clock,
  HoldfastError,
  invalid,
  isUuid,
  type Logger,
  notFound,
  precondition,
  printable,
  type Random,
  type SnapshotId,
} from '../base/index.js';
import { keyOf, type VolumeRecord } from '../meta/index.js';
import type { KeyedLocks } from '../rpc/index.js';
import { changedMeanwhile, claimName } from './claim-name.js';
import type { EngineOrders } from './engine-orders.js';
import { ORDER_DEADLINE_MS } from './limits.js';
import { nameHash } from './names.js';
import { checkPage, type Page, type PageRequest, pageOf } from './paging.js';
import type { Records, SnapshotEntry } from './records.js';
import type { SerialQueue } from './serial-queue.js';
import type { Tombstones } from './tombstones.js';
import { cloneSnapshotId, readyVolume } from './volume-state.js';

export interface SnapshotsOptions {
  readonly records: Records;
  readonly orders: EngineOrders;
  readonly tombstones: Tombstones;
  readonly locks: KeyedLocks;
  readonly intents: SerialQueue;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface SnapshotFilter {
  /** Empty: any. */
  readonly snapshotId: string;
  readonly sourceVolumeId: string;
}

export class Snapshots {
  readonly #options: SnapshotsOptions;

  constructor(options: SnapshotsOptions) {
    this.#options = options;
  }

  /** Throws NOT_FOUND for an unknown volume, ALREADY_EXISTS when the name belongs to a snapshot of another one. */
  create(name: string, volumeId: string): Promise<SnapshotEntry> {
    return this.#options.locks.run('CreateSnapshot', lockOf(name), () => this.#create(name, volumeId));
  }

  async #create(name: string, volumeId: string): Promise<SnapshotEntry> {
    const { records, orders, logger } = this.#options;
    const claimed = await this.#claim(name, volumeId);
    const { id } = claimed;
    if (claimed.volumeId !== volumeId) {
      throw new HoldfastError(
        'ALREADY_EXISTS',
        `snapshot ${printable(name)} exists as ${id} of volume ${claimed.volumeId}, not of ${printable(volumeId)}`,
      );
    }
    if (claimed.state === 'ready') return claimed;
    const freeze = { volume_id: claimed.volumeId, snapshot_id: id };
    const frozen = await orders.give(claimed.volumeId, `snapshot ${printable(name)}`, (engine) =>
      engine.Freeze(freeze, { deadlineMs: ORDER_DEADLINE_MS }),
    );
    const done = await records.change<SnapshotEntry>(keyOf.snapshot(id), (now) =>
      now.state === 'creating'
        ? { ...now, state: 'ready', createdMs: frozen.wall_ms, sizeBytes: frozen.size_bytes }
        : 'unchanged',
    );
    if (done?.state !== 'ready') throw changedMeanwhile('snapshot', name);
    logger.info({ snapshot: id, volume: done.volumeId }, 'snapshot created');
    return done;
  }

  #claim(name: string, volumeId: string): Promise<SnapshotEntry> {
    const { records, intents, random } = this.#options;
    return claimName<SnapshotEntry>(records, intents, random, {
      what: 'snapshot',
      name,
      nameKey: keyOf.snapshotName(nameHash(name)),
      objectKey: (id) => keyOf.snapshot(id as SnapshotId),
      isCurrent: ({ state }) => state !== 'deleting',
      plan: async (id) => {
        const volume = await readyVolume(records, volumeId);
        return {
          id: id as SnapshotId,
          name,
          volumeId: volume.id,
          state: 'creating',
          createdMs: 0,
          sizeBytes: volume.sizeBytes,
          // Before the freeze: at worst the volume was formatted in between, and a clone looks before it formats.
          formatted: volume.formatted,
        };
      },
    });
  }

  /** Only snapshots that were cut. Throws NOT_FOUND. */
  async get(id: string): Promise<SnapshotEntry> {
    const snapshot = isUuid(id) ? await this.#options.records.snapshot(id as SnapshotId) : undefined;
    if (snapshot?.state !== 'ready') throw notFound(`snapshot ${printable(id)} does not exist`);
    return snapshot;
  }

  async list(filter: SnapshotFilter, request: PageRequest): Promise<Page<SnapshotEntry>> {
    const { records } = this.#options;
    const { snapshotId, sourceVolumeId } = filter;
    const isReady = (snapshot: SnapshotEntry) => snapshot.state === 'ready';
    if (snapshotId === '') {
      const only = sourceVolumeId === '' ? undefined : { volumeId: sourceVolumeId };
      return pageOf({ store: records.store, prefix: 'snapshot/', only }, request, isReady);
    }
    checkPage(request);
    const found = isUuid(snapshotId) ? await records.snapshot(snapshotId as SnapshotId) : undefined;
    const wanted = found !== undefined && isReady(found) && ['', found.volumeId].includes(sourceVolumeId);
    return { items: wanted ? [found] : [], nextToken: '' };
  }

  /** Resolves once the deletion is certain to happen. An id that names nothing is no error. */
  async delete(id: string): Promise<void> {
    if (!isUuid(id)) return;
    const snapshotId = id as SnapshotId;
    await this.#options.locks.run('DeleteSnapshot', `snapshot ${id}`, () => this.#delete(snapshotId));
  }

  /** Gives up a snapshot that nobody repeats. */
  undo(snapshot: SnapshotEntry): Promise<void> {
    return this.#options.locks.run('undoing CreateSnapshot', [lockOf(snapshot.name), `snapshot ${snapshot.id}`], () =>
      this.#delete(snapshot.id, 'creating'),
    );
  }

  async #delete(id: SnapshotId, onlyIn?: SnapshotEntry['state']): Promise<void> {
    const { records, tombstones, intents } = this.#options;
    const marked = await intents.run(() => this.#markDeleted(id, onlyIn));
    if (marked?.state !== 'deleting') return;
    if (marked.name !== '') await records.freeName(keyOf.snapshotName(nameHash(marked.name)), id);
    await tombstones.trySnapshot(id);
  }

  async #markDeleted(id: SnapshotId, onlyIn?: SnapshotEntry['state']): Promise<SnapshotEntry | undefined> {
    const { records } = this.#options;
    const present = await records.snapshot(id);
    if (present?.groupId !== undefined && (await records.group(present.groupId)) !== undefined) {
      throw invalid(
        `snapshot ${id} belongs to group snapshot ${present.groupId} and goes with it: delete the group snapshot`,
      );
    }
    await refuseInUse(records, id);
    return records.change<SnapshotEntry>(keyOf.snapshot(id), (now) => {
      if (now.state === 'deleting' || (onlyIn !== undefined && now.state !== onlyIn)) return 'unchanged';
      return { ...now, state: 'deleting' };
    });
  }
}

/** Throws FAILED_PRECONDITION while a volume is being made from the snapshot. */
export async function refuseInUse(records: Records, id: SnapshotId): Promise<void> {
  const isFrom = (volume: VolumeRecord) => volume.source?.id === id || cloneSnapshotId(volume.id) === id;
  const clone = (await records.unfinishedVolumes()).find((volume) => volume.state === 'creating' && isFrom(volume));
  if (clone !== undefined)
    throw precondition(`volume ${clone.id} is being made from snapshot ${id}; delete it when that is done`, 'Busy');
}

const lockOf = (name: string) => `snapshot name ${name}`;
