// CreateVolume as steps that can be cut short anywhere: name (intent), record `creating` with the places, replicas on the
// daemons, record `ready`. A repetition of the call goes on where the last one stopped; what can't be finished is given up
// whole: the record becomes a tombstone and the name is free again, so that nothing stays half created.

import {
  HoldfastError,
  type Logger,
  messageOf,
  printable,
  type Random,
  type SnapshotId,
  unavailable,
  type VolumeId,
} from '../base/index.js';
import { keyOf, type ReplicaRecord, type VolumeRecord } from '../meta/index.js';
import type { KeyedLocks } from '../rpc/index.js';
import { changedMeanwhile, claimName } from './claim-name.js';
import type { Daemons } from './daemons.js';
import { type EngineOrders, isUnreachable } from './engine-orders.js';
import { CLONE_DEADLINE_MS, ORDER_ATTEMPTS_MAX, ORDER_DEADLINE_MS } from './limits.js';
import { nameHash } from './names.js';
import type { Nodes } from './nodes.js';
import { differingParameter } from './parameters.js';
import type { Records, SnapshotEntry } from './records.js';
import type { SerialQueue } from './serial-queue.js';
import { sizeWithin } from './size.js';
import type { Tombstones } from './tombstones.js';
import { matches } from './topology.js';
import type { Origin, VolumeOrder, VolumePlanner } from './volume-plan.js';
import { asReady, cloneSnapshotId, superblockParameters } from './volume-state.js';

export interface VolumeCreationOptions {
  readonly records: Records;
  readonly planner: VolumePlanner;
  readonly daemons: Daemons;
  readonly nodes: Nodes;
  readonly orders: EngineOrders;
  readonly tombstones: Tombstones;
  readonly locks: KeyedLocks;
  readonly intents: SerialQueue;
  readonly random: Random;
  readonly logger: Logger;
}

const abandoned = (name: string) => changedMeanwhile('volume', name);

export class VolumeCreation {
  readonly #options: VolumeCreationOptions;

  constructor(options: VolumeCreationOptions) {
    this.#options = options;
  }

  /** Throws ALREADY_EXISTS naming the difference when the name belongs to another volume; ABORTED while it is being made. */
  create(order: VolumeOrder): Promise<VolumeRecord> {
    return this.#options.locks.run('CreateVolume', lockOf(order.name), () => this.#create(order));
  }

  /** Gives up a creation that nobody repeats. */
  undo(record: VolumeRecord): Promise<void> {
    return this.#options.locks.run('undoing CreateVolume', lockOf(record.name), () => this.#giveUp(record));
  }

  async #create(order: VolumeOrder): Promise<VolumeRecord> {
    for (let attempt = 0; attempt < ORDER_ATTEMPTS_MAX; attempt++) {
      const record = await this.#claim(order);
      await this.#refuseDifference(order, record);
      if (record.state === 'ready') return record;
      if (!(await this.#mustMove(record))) return await this.#finish(record);
      await this.#giveUp(record);
    }
    throw abandoned(order.name);
  }

  /** The record this name stands for, made if need be. */
  #claim(order: VolumeOrder): Promise<VolumeRecord> {
    const { records, intents, random, planner } = this.#options;
    return claimName<VolumeRecord>(records, intents, random, {
      what: 'volume',
      name: order.name,
      nameKey: keyOf.volumeName(nameHash(order.name)),
      objectKey: (id) => keyOf.volume(id as VolumeId),
      isCurrent: ({ state }) => state === 'creating' || state === 'ready',
      plan: (id) => planner.plan(order, id as VolumeId),
    });
  }

  async #refuseDifference(order: VolumeOrder, record: VolumeRecord): Promise<void> {
    const differs = difference(order, record) ?? (await this.#misplaced(order, record));
    if (differs === undefined) return;
    throw new HoldfastError(
      'ALREADY_EXISTS',
      `volume ${printable(order.name)} exists as ${record.id} and differs from this request in ${differs}`,
    );
  }

  /** A volume that is only reachable at its replicas may lie where this request can't use it. */
  async #misplaced(order: VolumeOrder, record: VolumeRecord): Promise<string | undefined> {
    const { requisite } = order.wish;
    if (record.parameters.dataLocality !== 'required' || requisite.length === 0) return undefined;
    const nodes = await this.#options.nodes.list();
    const holders = nodes.filter((node) => record.replicas.some((replica) => replica.nodeId === node.id));
    const near = holders.some((node) => requisite.some((segments) => matches(node, segments)));
    return near ? undefined : 'accessibility_requirements (its replicas lie elsewhere)';
  }

  /** Whether a place of an unfinished volume went silent: it is then made again elsewhere. */
  async #mustMove(record: VolumeRecord): Promise<boolean> {
    if (record.state !== 'creating') return false;
    const nodes = await this.#options.nodes.list();
    const origin = record.source === undefined ? null : await this.#options.planner.findOrigin(record.source);
    return record.replicas.some((replica) => {
      const node = nodes.find((known) => known.id === replica.nodeId);
      if (node === undefined || node.silentMs !== undefined) return true;
      // A clone is made out of what its source has there, which may have moved away.
      return origin !== null && sourceAt(origin.volume, replica) === undefined;
    });
  }

  async #finish(record: VolumeRecord): Promise<VolumeRecord> {
    const { records, tombstones, logger } = this.#options;
    let origin: VolumeRecord | undefined;
    try {
      if (record.source === undefined) await this.#makeReplicas(record);
      else origin = await this.#clone(record);
    } catch (error) {
      // What may pass is left for the repetition; what a repetition can't mend is undone now.
      const passing = isUnreachable(error) || (error instanceof HoldfastError && error.code === 'ABORTED');
      if (!passing) {
        await this.#giveUp(record).catch((also) =>
          logger.warn({ volume: record.id, error: messageOf(also) }, 'giving up a volume failed, the loop will do it'),
        );
      }
      throw error;
    }
    const done = await records.change<VolumeRecord>(keyOf.volume(record.id), (now) => asReady(now, origin));
    if (done === undefined) throw abandoned(record.name);
    await tombstones.dropCloneSnapshot(done);
    logger.info({ volume: done.id, replicas: done.replicas.map((replica) => replica.nodeId) }, 'volume created');
    return done;
  }

  async #makeReplicas(record: VolumeRecord): Promise<void> {
    const { daemons, nodes } = this.#options;
    const known = await nodes.list();
    const members = record.replicas.map((replica) => ({
      replica_id: replica.id,
      incarnation_id: replica.incarnationId,
    }));
    const results = await Promise.allSettled(
      record.replicas.map(async (replica) => {
        const node = known.find((candidate) => candidate.id === replica.nodeId);
        if (node === undefined) throw unavailable(`node ${replica.nodeId} is not registered`);
        await daemons.replica(node).Create(
          {
            volume_id: record.id,
            lineage_id: record.lineageId,
            replica_id: replica.id,
            incarnation_id: replica.incarnationId,
            pool_id: replica.poolId,
            size_bytes: record.sizeBytes,
            parameters: superblockParameters(record),
            members,
            set_version: 1,
          },
          { deadlineMs: ORDER_DEADLINE_MS },
        );
      }),
    );
    // A failure that nothing can mend says more than one that may pass.
    const failures = results.flatMap((result) => (result.status === 'rejected' ? [result.reason as unknown] : []));
    const first = failures.find((error) => !isUnreachable(error)) ?? failures[0];
    if (first !== undefined) throw first;
  }

  /** Resolves to the source's record as it is after the clone was made. */
  async #clone(record: VolumeRecord): Promise<VolumeRecord> {
    const { records, orders, planner } = this.#options;
    const source = record.source!;
    const origin = await planner.findOrigin(source);
    const snapshotId = source.kind === 'snapshot' ? (source.id as SnapshotId) : cloneSnapshotId(record.id);
    const what = `clone ${record.id}`;
    if (source.kind === 'volume') await this.#freezeForClone(record, origin);
    const targets = record.replicas.map((replica) => {
      const held = sourceAt(origin.volume, replica);
      if (held === undefined) throw abandoned(record.name);
      return { source_replica_id: held.id, replica_id: replica.id, incarnation_id: replica.incarnationId };
    });
    const clone = {
      volume_id: origin.volume.id,
      snapshot_id: snapshotId,
      new_volume_id: record.id,
      targets,
      parameters: superblockParameters(record),
    };
    await orders.give(origin.volume.id, what, (engine) => engine.Clone(clone, { deadlineMs: CLONE_DEADLINE_MS }));
    const after = await records.volume(origin.volume.id);
    if (after === undefined) throw abandoned(record.name);
    return after;
  }

  /** A snapshot of its own, in the store before it is in the engine, so that the loop deletes it whatever happens here. */
  async #freezeForClone(record: VolumeRecord, origin: Origin): Promise<void> {
    const { records, orders } = this.#options;
    const id = cloneSnapshotId(record.id);
    const { volume } = origin;
    const entry: SnapshotEntry = {
      id,
      name: '',
      volumeId: volume.id,
      state: 'creating',
      createdMs: 0,
      sizeBytes: volume.sizeBytes,
    };
    if (!(await records.create(keyOf.snapshot(id), entry))) {
      const present = await records.snapshot(id);
      if (present?.state !== 'creating') throw abandoned(record.name);
    }
    const freeze = { volume_id: volume.id, snapshot_id: id };
    await orders.give(volume.id, `clone ${record.id}`, (engine) =>
      engine.Freeze(freeze, { deadlineMs: ORDER_DEADLINE_MS }),
    );
  }

  async #giveUp(record: VolumeRecord): Promise<void> {
    const { records, tombstones } = this.#options;
    const now = await records.change<VolumeRecord>(keyOf.volume(record.id), (value) =>
      value.state === 'creating' ? { ...value, state: 'deleting' } : 'unchanged',
    );
    if (now?.state !== 'deleting') return;
    await records.freeName(keyOf.volumeName(nameHash(record.name)), record.id);
    await tombstones.tryVolume(record.id);
  }
}

function lockOf(name: string): string {
  return `volume name ${name}`;
}

/** The replica of a clone's source that its own is made out of. */
function sourceAt(source: VolumeRecord, { nodeId, poolId }: ReplicaRecord): ReplicaRecord | undefined {
  return source.replicas.find((held) => held.nodeId === nodeId && held.poolId === poolId && held.state !== 'leaving');
}

/** What keeps a repeated request from meaning this volume, or undefined. */
function difference(order: VolumeOrder, record: VolumeRecord): string | undefined {
  if (!sizeWithin(record.sizeBytes, order.range)) {
    return `capacity_range (has ${record.sizeBytes} bytes, asked for ${order.range?.requiredBytes} to ${order.range?.limitBytes || 'any'})`;
  }
  const source = record.source;
  if (source?.kind !== order.source?.kind || source?.id !== order.source?.id) {
    const words = (ref: { kind: string; id: string } | null | undefined) => (ref ? `${ref.kind} ${ref.id}` : 'none');
    return `volume_content_source (has ${words(source)}, asked for ${words(order.source)})`;
  }
  return differingParameter(order.volumeClass, record.parameters, record.qos);
}
