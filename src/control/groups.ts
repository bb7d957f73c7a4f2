// Group snapshots: all members frozen at one instant. Every engine is told to hold its replies, then every one to freeze under
// that hold, then every one to go on. Only when each says it held until then is the group kept: a write that was issued after
// another was acknowledged can then be in no member without the other. In every other case, and after a crash of the controller
// in the middle, the attempt is given up whole and begun anew under new ids.

import {
  assert,
  type Clock,
  type GroupId,
  HoldfastError,
  invalid,
  isUuid,
  type Logger,
  messageOf,
  notFound,
  printable,
  type Random,
  type SnapshotId,
  type VolumeId,
} from '../base/index.js';
import { type GroupRecord, keyOf } from '../meta/index.js';
import type { holdfast, KeyedLocks } from '../rpc/index.js';
import { changedMeanwhile, claimName } from './claim-name.js';
import { type EngineOrders, isUnreachable } from './engine-orders.js';
import { GROUP_HOLD_MS, GROUP_MEMBERS_MAX, OPEN_DEADLINE_MS, ORDER_ATTEMPTS_MAX, ORDER_DEADLINE_MS } from './limits.js';
import { nameHash } from './names.js';
import type { Records, SnapshotEntry } from './records.js';
import type { SerialQueue } from './serial-queue.js';
import { refuseInUse } from './snapshots.js';
import type { Tombstones } from './tombstones.js';
import { readyVolume } from './volume-state.js';

export interface GroupsOptions {
  readonly records: Records;
  readonly orders: EngineOrders;
  readonly tombstones: Tombstones;
  readonly locks: KeyedLocks;
  readonly intents: SerialQueue;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

export interface GroupView {
  readonly group: GroupRecord;
  readonly snapshots: readonly SnapshotEntry[];
}

type Frozen = ReadonlyMap<SnapshotId, holdfast.FreezeResponse__Output>;

export class Groups {
  readonly #options: GroupsOptions;

  constructor(options: GroupsOptions) {
    this.#options = options;
  }

  /** Throws NOT_FOUND, ALREADY_EXISTS (same name, other volumes), ABORTED or UNAVAILABLE when no common instant was reached. */
  create(name: string, volumeIds: readonly string[]): Promise<GroupView> {
    if (volumeIds.length === 0) throw invalid('source_volume_ids is empty: a group snapshot needs at least one volume');
    if (volumeIds.length > GROUP_MEMBERS_MAX)
      throw invalid(`a group snapshot holds at most ${GROUP_MEMBERS_MAX} volumes, not ${volumeIds.length}`);
    const wanted = [...new Set(volumeIds)].sort();
    if (wanted.length !== volumeIds.length) throw invalid('source_volume_ids names a volume twice');
    return this.#options.locks.run('CreateVolumeGroupSnapshot', lockOf(name), () => this.#create(name, wanted));
  }

  async #create(name: string, volumeIds: readonly string[]): Promise<GroupView> {
    for (let attempt = 0; attempt < ORDER_ATTEMPTS_MAX; attempt++) {
      const group = await this.#claim(name, volumeIds);
      refuseOtherVolumes(group, volumeIds);
      if (group.state === 'ready') return this.#view(group);
      // Members of an attempt that was cut short may show different instants.
      if (await this.#wasBegun(group)) {
        await this.#giveUp(group);
        continue;
      }
      return await this.#freezeAll(group);
    }
    throw changedMeanwhile('group snapshot', name);
  }

  #claim(name: string, volumeIds: readonly string[]): Promise<GroupRecord> {
    const { records, intents, random, clock } = this.#options;
    return claimName<GroupRecord>(records, intents, random, {
      what: 'group snapshot',
      name,
      nameKey: keyOf.groupName(nameHash(name)),
      objectKey: (id) => keyOf.group(id as GroupId),
      isCurrent: ({ state }) => state !== 'deleting',
      plan: async (id) => {
        const volumes = await Promise.all(volumeIds.map((volumeId) => readyVolume(records, volumeId)));
        const members = volumes.map((volume) => ({ volumeId: volume.id, snapshotId: random.uuid() as SnapshotId }));
        return { id: id as GroupId, name, state: 'creating', createdMs: clock.wallMs(), members };
      },
    });
  }

  async #wasBegun(group: GroupRecord): Promise<boolean> {
    const { records } = this.#options;
    const members = await Promise.all(group.members.map((member) => records.snapshot(member.snapshotId)));
    return members.some((member) => member !== undefined);
  }

  async #freezeAll(group: GroupRecord): Promise<GroupView> {
    const { records, logger, intents } = this.#options;
    try {
      await intents.run(() => this.#writeMembers(group));
      const frozen = await this.#oneInstant(group);
      for (const { snapshotId } of group.members) {
        const { wall_ms, size_bytes } = frozen.get(snapshotId)!;
        await records.change<SnapshotEntry>(keyOf.snapshot(snapshotId), (now) =>
          now.state === 'creating'
            ? { ...now, state: 'ready', createdMs: wall_ms, sizeBytes: size_bytes }
            : 'unchanged',
        );
      }
      const createdMs = Math.max(...[...frozen.values()].map((member) => member.wall_ms));
      const done = await records.change<GroupRecord>(keyOf.group(group.id), (now) =>
        now.state === 'creating' ? { ...now, state: 'ready', createdMs } : 'unchanged',
      );
      if (done?.state !== 'ready') throw notReached(group, 'it was given up meanwhile');
      logger.info({ group: group.id, members: group.members.length }, 'group snapshot created');
      return await this.#view(done);
    } catch (error) {
      await this.#giveUp(group).catch((also) =>
        logger.warn(
          { group: group.id, error: messageOf(also) },
          'giving up a group snapshot failed, the loop will do it',
        ),
      );
      throw error;
    }
  }

  async #writeMembers(group: GroupRecord): Promise<void> {
    const { records } = this.#options;
    for (const member of group.members) {
      const volume = await readyVolume(records, member.volumeId);
      const made: SnapshotEntry = {
        id: member.snapshotId,
        name: '',
        volumeId: member.volumeId,
        groupId: group.id,
        state: 'creating',
        createdMs: 0,
        sizeBytes: volume.sizeBytes,
        formatted: volume.formatted,
      };
      if (!(await records.create(keyOf.snapshot(member.snapshotId), made)))
        throw notReached(group, 'its members were begun twice');
    }
  }

  /** Hold, freeze, release: all members or none. */
  async #oneInstant(group: GroupRecord): Promise<Frozen> {
    const { orders, random } = this.#options;
    const token = random.uuid();
    const what = `group snapshot ${printable(group.name)}`;
    const options = { deadlineMs: ORDER_DEADLINE_MS };
    const each = <T>(run: (member: GroupRecord['members'][number]) => Promise<T>) =>
      allOrThrow(group, group.members.map(run));
    const release = (volume_id: VolumeId) =>
      orders.give(volume_id, what, (engine) => engine.Release({ volume_id, hold_token: token }, options));
    // Opening an engine may take longer than anybody should be held; so all are open before the first one is.
    const open = { export: false, wrapping_key: Buffer.alloc(0), read_only: false };
    await each(({ volumeId: volume_id }) =>
      orders.give(volume_id, what, (engine) => engine.Open({ ...open, volume_id }, { deadlineMs: OPEN_DEADLINE_MS })),
    );
    try {
      await each(({ volumeId: volume_id }) =>
        orders.give(volume_id, what, (engine) =>
          engine.Hold({ volume_id, hold_token: token, deadline_ms: GROUP_HOLD_MS }, options),
        ),
      );
      const frozen = await each(async ({ volumeId: volume_id, snapshotId }) => {
        const freeze = { volume_id, snapshot_id: snapshotId, group_id: group.id, hold_token: token };
        return [snapshotId, await orders.give(volume_id, what, (engine) => engine.Freeze(freeze, options))] as const;
      });
      const held = await each(({ volumeId }) => release(volumeId));
      const late = held.findIndex((answer) => !answer.held_until_now);
      if (late >= 0) throw notReached(group, `volume ${group.members[late]!.volumeId} could not wait for the others`);
      const answers = new Map(frozen);
      assert(answers.size === group.members.length, 'every member of a group has its own snapshot');
      return answers;
    } catch (error) {
      // Each hold also ends by itself; this only shortens the pause of those that were reached.
      await Promise.allSettled(group.members.map((member) => release(member.volumeId)));
      throw error;
    }
  }

  async #view(group: GroupRecord): Promise<GroupView> {
    const { records } = this.#options;
    const found = await Promise.all(group.members.map((member) => records.snapshot(member.snapshotId)));
    return { group, snapshots: found.filter((snapshot) => snapshot?.state === 'ready') as SnapshotEntry[] };
  }

  /** Throws NOT_FOUND; INVALID_ARGUMENT when `snapshotIds` (if any) are not its members. */
  async get(id: string, snapshotIds: readonly string[]): Promise<GroupView> {
    const group = isUuid(id) ? await this.#options.records.group(id as GroupId) : undefined;
    if (group?.state !== 'ready') throw notFound(`group snapshot ${printable(id)} does not exist`);
    refuseOtherMembers(group, snapshotIds);
    return this.#view(group);
  }

  /** Deletes the group with all members. Resolves once that is certain to happen; an unknown id is no error. */
  async delete(id: string, snapshotIds: readonly string[]): Promise<void> {
    if (!isUuid(id)) return;
    const groupId = id as GroupId;
    await this.#options.locks.run('DeleteVolumeGroupSnapshot', `group snapshot ${id}`, async () => {
      const group = await this.#options.records.group(groupId);
      if (group === undefined) return;
      refuseOtherMembers(group, snapshotIds);
      await this.#giveUp(group);
    });
  }

  /** Gives up a group that nobody repeats. */
  undo(group: GroupRecord): Promise<void> {
    return this.#options.locks.run('undoing CreateVolumeGroupSnapshot', lockOf(group.name), async () => {
      const now = await this.#options.records.group(group.id);
      if (now?.state === 'creating') await this.#giveUp(now);
    });
  }

  async #giveUp(group: GroupRecord): Promise<void> {
    const { records, tombstones, intents } = this.#options;
    await intents.run(async () => {
      for (const member of group.members) await refuseInUse(records, member.snapshotId);
      await records.change<GroupRecord>(keyOf.group(group.id), (now) =>
        now.state === 'deleting' ? 'unchanged' : { ...now, state: 'deleting' },
      );
    });
    await records.freeName(keyOf.groupName(nameHash(group.name)), group.id);
    await tombstones.tryGroup(group.id);
  }
}

const lockOf = (name: string) => `group snapshot name ${name}`;

function notReached(group: GroupRecord, why: string, cause?: unknown): HoldfastError {
  const code = isUnreachable(cause) ? 'UNAVAILABLE' : 'ABORTED';
  const message = `group snapshot ${printable(group.name)} was given up, none of it is kept: ${why}`;
  return new HoldfastError(code, message, { reason: 'Busy', cause });
}

/** Waits for all, whatever becomes of each, so that nothing is under way any more when one has failed. */
async function allOrThrow<T>(group: GroupRecord, work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  return results.map((result) => {
    if (result.status === 'fulfilled') return result.value;
    throw notReached(group, messageOf(result.reason), result.reason);
  });
}

function refuseOtherVolumes(group: GroupRecord, volumeIds: readonly string[]): void {
  const has = group.members.map((member) => member.volumeId).sort();
  if (has.join() === [...volumeIds].sort().join()) return;
  const message = `group snapshot ${printable(group.name)} exists as ${group.id} of other volumes (${has.join(', ')})`;
  throw new HoldfastError('ALREADY_EXISTS', message);
}

function refuseOtherMembers(group: GroupRecord, snapshotIds: readonly string[]): void {
  if (snapshotIds.length === 0) return;
  const has = new Set<string>(group.members.map((member) => member.snapshotId));
  const asked = new Set(snapshotIds);
  const same = has.size === asked.size && [...asked].every((id) => has.has(id));
  if (!same) throw invalid(`snapshot_ids are not the members of group snapshot ${group.id} (${[...has].join(', ')})`);
}
