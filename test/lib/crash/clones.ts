// Clones in a simulated world: ordered from a live volume, checked by opening them as the volumes they are. Also the way to see
// what a snapshot holds.

import type { IncarnationId, ReplicaId, SnapshotId, VolumeId } from '../../../src/base/index.js';
import type { Session, SimWorld, StoreRecord } from './sim-world.js';
import { checkContents, checkPromises, checkReplicasEqual, openAgain } from './verify.js';
import type { Chance } from './virtual-time.js';
import type { VolumeModel, VolumeState } from './volume-model.js';

export interface CloneRecord {
  readonly source: VolumeId;
  readonly newVolumeId: VolumeId;
  readonly snapshotId: SnapshotId;
  readonly members: StoreRecord['members'];
  /** That of the engine that made it: the clone's own reigns come after. */
  readonly epoch: number;
  readonly frozen: VolumeState;
  readonly begun: number;
  /** Null while it was not answered. */
  done: number | null;
}

/** What the snapshot must hold. */
function frozenState(model: VolumeModel, snapshotId: SnapshotId): VolumeState {
  for (const frame of model.frames.values()) {
    if (!frame.effects.some((effect) => effect.kind === 'freeze' && effect.snapshotId === snapshotId)) continue;
    const { sizeBytes, blocks } = model.stateAt(frame.digest).snapshots.get(snapshotId)!;
    return { sizeBytes, blocks: new Map(blocks), snapshots: new Map() };
  }
  throw new Error(`no frame freezes ${snapshotId}`);
}

/** Begins a clone of the snapshot on every in-sync replica; `again` repeats one that was cut short. */
export function beginClone(
  world: SimWorld,
  session: Session,
  source: VolumeId,
  snapshotId: SnapshotId,
  chance: Chance,
  again?: CloneRecord,
): { record: CloneRecord; answer: Promise<void> } {
  const { inSync, members } = world.volumes.get(source)!;
  const sources = members.filter((member) => inSync.includes(member.replicaId));
  const known = new Map(again?.members.map((member) => [member.node, member]));
  const targets = sources.map((member) => ({
    member: known.get(member.node) ?? {
      replicaId: chance.uuid() as ReplicaId,
      incarnationId: chance.uuid() as IncarnationId,
      node: member.node,
      lost: false,
    },
    sourceReplicaId: member.replicaId,
  }));
  const record: CloneRecord = {
    source,
    newVolumeId: again?.newVolumeId ?? (chance.uuid() as VolumeId),
    snapshotId,
    members: targets.map((target) => target.member),
    epoch: session.reign.epoch,
    frozen: frozenState(world.models.get(source)!, snapshotId),
    begun: world.tick(),
    done: null,
  };
  const answer = session.engine
    .clone({
      snapshotId,
      newVolumeId: record.newVolumeId,
      targets: targets.map(({ sourceReplicaId, member }) => ({
        sourceReplicaId,
        member: { replicaId: member.replicaId, incarnationId: member.incarnationId },
      })),
      parameters: { clone: 'yes' },
    })
    .then(() => {
      record.done = world.tick();
    });
  return { record, answer };
}

/** Opens the clone as a volume of its own; it must hold what the snapshot held, and take writes. */
export async function checkClone(world: SimWorld, record: CloneRecord, chance: Chance): Promise<void> {
  const { newVolumeId, members, frozen } = record;
  // It may have been opened before an earlier crash.
  if (!world.volumes.has(newVolumeId))
    world.addVolume(newVolumeId, members, frozen.sizeBytes, {
      epoch: record.epoch,
      base: frozen,
      source: world.models.get(record.source)!,
    });
  const node = world.nodes[chance.pick(members).node]!;
  try {
    const session = await openAgain(world, newVolumeId, node);
    const model = world.models.get(newVolumeId)!;
    for (const block of world.models.get(record.source)!.touched) model.touched.add(block);
    const state = checkPromises(world, newVolumeId, session);
    await checkContents(model, session, state);
    await checkReplicasEqual(world, newVolumeId, session.reign.epoch);
    await session.engine.close();
  } catch (error) {
    if (error instanceof Error) error.message = `clone of snapshot ${record.snapshotId}: ${error.message}`;
    throw error;
  }
}
