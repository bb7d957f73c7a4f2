// Crashes a recorded world at chosen moments and checks what comes back, and does so again to what came back.

import { HoldfastError, type VolumeId } from '../../../src/base/index.js';
import { beginClone, type CloneRecord, checkClone } from './clones.js';
import type { Session, SimNode, SimWorld } from './sim-world.js';
import { checkContents, checkConverges, checkPromises, checkReplicasEqual, openAgain } from './verify.js';
import { Chance } from './virtual-time.js';
import type { Floor, VolumeState } from './volume-model.js';
import { type Habits, Workload } from './workload.js';

export interface Crash {
  readonly moment: number;
  readonly seed: number;
  /** Nodes that lose power; the others' processes die. */
  readonly power: readonly number[];
}

export function describeCrash(crash: Crash, world: SimWorld): string {
  const all = crash.power.length === world.nodes.length;
  return `crash at moment ${crash.moment} of ${world.moment}, seed ${crash.seed}, ${all ? 'all nodes lose power' : crash.power.length === 0 ? 'all processes die' : `nodes ${crash.power.join(', ')} lose power, the processes of the others die`}`;
}

/** A moment, often right at a change of some disk or about when the in-sync set changed, and who loses power then. */
export function chooseCrash(
  { world, volumeId }: Pick<Life, 'world' | 'volumeId'>,
  chance: Chance,
  before = world.moment,
): Crash {
  let moment = chance.between(world.origin, Math.max(world.origin, before));
  const kind = chance.next();
  if (kind < 0.5) {
    const { moments } = chance.pick(chance.pick(world.nodes).disks);
    const some = moments.filter((at) => at >= world.origin && at <= before);
    if (some.length > 0) moment = chance.pick(some);
  } else if (kind < 0.7) {
    const some = world.storeMoments(volumeId).filter((at) => at >= world.origin && at < before);
    if (some.length > 0) moment = Math.min(before, Math.max(world.origin, chance.pick(some) + chance.between(-8, 12)));
  }
  const dice = chance.next();
  const power = world.nodes.map((node) => node.index).filter(() => dice < 0.5 || (dice < 0.85 && chance.hit(0.5)));
  return { moment, seed: chance.below(2 ** 31), power };
}

/** Acknowledged writes survive when some in-sync replica kept its power all along. */
export function promisesKept(world: SimWorld, volumeId: VolumeId, crash: Crash): Floor['kind'][] {
  const { inSync, members } = world.recordAt(volumeId, crash.moment);
  const safe = members.some((member) => {
    const node = world.nodes[member.node]!;
    return inSync.includes(member.replicaId) && !crash.power.includes(member.node) && !node.lostPower;
  });
  return safe ? ['durable', 'acked'] : ['durable'];
}

/** A world with what happened in it. */
export interface Life {
  readonly world: SimWorld;
  readonly volumeId: VolumeId;
  readonly clones: readonly CloneRecord[];
}

export interface CutCounts {
  cuts: number;
  /** Crashes of what had come back from a crash, and those of them that fell into its recovery. */
  again: number;
  inRecovery: number;
  power: number;
  alone: number;
  clones: number;
  converged: number;
  /** Writes of zeroes ahead of a log's end, in the lives that were crashed. */
  zeroes: number;
  /** Frames of moved records, in these lives. */
  moves: number;
}

/** Crashes the world and checks what comes back; `depth` more times, before and after it has gone on. */
export async function crashAndCheck(
  life: Life,
  crash: Crash,
  habits: Habits,
  depth: number,
  counts: CutCounts,
): Promise<void> {
  const { world, volumeId } = life;
  const kinds = promisesKept(world, volumeId, crash);
  const chance = new Chance(crash.seed ^ 0xc0ffee);
  counts.cuts++;
  if (crash.power.length === world.nodes.length) counts.power++;
  let after: SimWorld | undefined;
  try {
    after = await world.crashedAt(
      crash.moment,
      crash.seed,
      (node) => (crash.power.includes(node.index) ? 'lost' : 'kept'),
      kinds,
    );
    const node = chance.pick(after.nodes);
    const session = await after.until(openAgain(after, volumeId, node), 'open');
    const opened = after.moment;
    const state = checkPromises(after, volumeId, session);
    await after.until(checkContents(after.models.get(volumeId)!, session, state), 'read');
    await after.until(checkReplicasEqual(after, volumeId, session.reign.epoch), 'the same on all replicas');
    if (world.nodes.length > 1 && chance.hit(0.35)) {
      counts.alone++;
      await checkAlone(world, volumeId, crash, chance);
    }
    if (chance.hit(0.4)) await after.until(checkClones(life, after, crash, session, state, chance, counts), 'clones');
    if (chance.hit(0.3)) {
      counts.converged++;
      await after.until(checkConverges(after, volumeId, session), 'convergence');
    }
    if (depth === 0) return;
    const work = new Workload(after, volumeId, habits);
    await after.until(work.run(), 'workload', 3_600_000);
    const early = chance.hit(0.5);
    const next = chooseCrash({ world: after, volumeId }, chance, early ? opened : after.moment);
    counts.again++;
    if (early) counts.inRecovery++;
    const clones = [
      ...life.clones
        .filter((clone) => clone.begun < crash.moment)
        .map((clone) => ({ ...clone, begun: -1, done: clone.done !== null && clone.done < crash.moment ? -1 : null })),
      ...work.clones,
    ];
    await crashAndCheck({ world: after, volumeId, clones }, next, habits, depth - 1, counts);
  } catch (error) {
    if (error instanceof Error) error.message = `${describeCrash(crash, world)}: ${error.message}${logOf(after)}`;
    throw error;
  }
}

/**
 * Clones that were answered are there and hold their snapshot; one that was cut short is made by a repeat of the order; and
 * the volume's own snapshots hold what they held.
 */
async function checkClones(
  life: Life,
  after: SimWorld,
  crash: Crash,
  session: Session,
  state: VolumeState,
  chance: Chance,
  counts: CutCounts,
): Promise<void> {
  const made = life.clones.filter((clone) => clone.done !== null && clone.done < crash.moment);
  if (made.length > 0) {
    counts.clones++;
    await checkClone(after, chance.pick(made), chance);
  }
  const cutShort = life.clones.find(
    (clone) => clone.begun < crash.moment && !made.includes(clone) && state.snapshots.has(clone.snapshotId),
  );
  const snapshotId = cutShort?.snapshotId ?? [...state.snapshots.keys()].at(-1);
  if (snapshotId === undefined) return;
  counts.clones++;
  // A repeat names the same replicas: what the one before it made on some nodes is theirs.
  let begun = cutShort;
  for (let attempt = 1; ; attempt++) {
    try {
      const { record, answer } = beginClone(after, session, life.volumeId, snapshotId, chance, begun);
      begun = record;
      await answer;
      return await checkClone(after, record, chance);
    } catch (error) {
      // A replica that is just coming back is no source yet.
      if (!(error instanceof HoldfastError && error.reason === 'NotInSync') || attempt === 10) throw error;
      await new Promise<void>((resolve) => after.time.after(500, resolve));
    }
  }
}

/** The newest warnings of a world, for the message of a failure; those of the innermost one only. */
function logOf(world: SimWorld | undefined): string {
  const lines = world?.log.splice(0).slice(-12) ?? [];
  return lines.map((line) => `\n  ${line.message} ${JSON.stringify(line.fields)}`).join('');
}

/**
 * One in-sync replica by itself must hold everything that was durable, and everything acknowledged unless it lost power: a
 * promise is kept by each of them, not by some.
 */
async function checkAlone(world: SimWorld, volumeId: VolumeId, crash: Crash, chance: Chance): Promise<void> {
  const record = world.recordAt(volumeId, crash.moment);
  const members = record.members.filter((one) => record.inSync.includes(one.replicaId));
  // Best one that has just joined or is about to leave.
  const { before, after: later } = world.recordsAround(volumeId, crash.moment);
  const notable = members.filter(
    ({ replicaId }) => before?.inSync.includes(replicaId) === false || later?.inSync.includes(replicaId) === false,
  );
  const member = chance.pick(notable.length > 0 && chance.hit(0.7) ? notable : members);
  const kept = !crash.power.includes(member.node) && !world.nodes[member.node]!.lostPower;
  const after = await world.crashedAt(
    crash.moment,
    crash.seed,
    (node: SimNode) => (crash.power.includes(node.index) ? 'lost' : 'kept'),
    kept ? ['durable', 'acked'] : ['durable'],
  );
  after.change(volumeId, { inSync: [member.replicaId], members: [member], flushedPoint: null });
  try {
    const session = await after.until(openAgain(after, volumeId, after.nodes[member.node]!), 'open');
    const state = checkPromises(after, volumeId, session);
    await after.until(checkContents(after.models.get(volumeId)!, session, state), 'read');
  } catch (error) {
    if (error instanceof Error) error.message = `replica ${member.node} alone: ${error.message}${logOf(after)}`;
    throw error;
  }
}
