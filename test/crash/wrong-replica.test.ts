// Replicas that are not what they should be: wiped, made anew, another volume's, another node's, or an old copy. None may count;
// a volume that has nothing else is refused with a sentence, never served wrong.

import { describe, expect, it, vi } from 'vitest';
import { HoldfastError, type IncarnationId } from '../../src/base/index.js';
import { poolPath, type SimNode, type SimWorld } from '../lib/crash/sim-world.js';
import { makeSpecimen, type Specimen } from '../lib/crash/specimen.js';
import { checkContents, checkReplicasEqual, openAgain } from '../lib/crash/verify.js';
import type { RecordingDisk } from '../lib/recording-disk.js';

vi.mock('../../src/format/constants.js', async (original) => ({
  ...(await original<object>()),
  SEGMENT_SIZE_DEFAULT: 192 * 1024,
}));
vi.mock('../../src/engine/limits.js', async (original) => ({
  ...(await original<object>()),
  CHECKPOINT_DIRTY_PAGES: 1,
}));

const made = makeSpecimen({ seed: 11, encrypted: true, replicas: 3, ending: 'closed' });

const directoryOf = (specimen: Specimen) => `${poolPath}/replicas/${specimen.volumeId}`;

/** Puts the files of one disk's replica in the place of another's. */
function copyReplica(from: RecordingDisk, to: RecordingDisk, source: string, target: string): void {
  to.wipe(target);
  to.mkdir(target);
  for (const name of from.list(source)) {
    to.openFile(`${target}/${name}`, 'create').close();
    to.overwrite(`${target}/${name}`, from.contents(`${source}/${name}`));
  }
}

interface Case {
  readonly name: string;
  /** On how few replicas; the rest are whole. */
  readonly victims: readonly number[];
  meddle(specimen: Specimen, node: SimNode): void;
  /** What becomes of a victim. */
  readonly fate: 'lost' | 'left out' | 'brought up to date';
  /** What is said when it happens to all. */
  readonly refusal: RegExp;
}

const cases: readonly Case[] = [
  {
    name: 'wiped',
    victims: [1],
    meddle: (specimen, node) => node.disk.wipe(directoryOf(specimen)),
    fate: 'lost',
    refusal: /every in-sync replica is lost/,
  },
  {
    name: 'superblocks gone',
    victims: [0],
    meddle: (specimen, node) => {
      for (const slot of [0, 1]) void node.disk.unlink(`${directoryOf(specimen)}/superblock.${slot}`);
    },
    fate: 'lost',
    refusal: /holds no superblock/,
  },
  {
    name: "another volume's directory",
    victims: [2],
    meddle: (specimen, node) => {
      const clone = `${poolPath}/replicas/${specimen.clone.newVolumeId}`;
      copyReplica(node.disk, node.disk, clone, directoryOf(specimen));
    },
    fate: 'left out',
    refusal: /holds a replica of volume .*: it was moved/,
  },
  {
    name: "another node's directory",
    victims: [1],
    meddle: (specimen, node) => {
      const other = specimen.world.nodes[(node.index + 1) % 3]!.disk;
      copyReplica(other, node.disk, directoryOf(specimen), directoryOf(specimen));
    },
    fate: 'left out',
    refusal: /belongs to pool .*: it was copied here/,
  },
  {
    name: 'an older copy',
    victims: [0],
    meddle: (specimen, node) => {
      const { disk, moments } = specimen.world.nodes[node.index]!.disks[0]!;
      const earlier = disk.afterKill(Math.floor(moments.length * 0.6));
      copyReplica(earlier, node.disk, directoryOf(specimen), directoryOf(specimen));
    },
    fate: 'brought up to date',
    refusal: /was rolled back|was cut or rolled back/,
  },
];

async function reopened(specimen: Specimen, one: Case, victims: readonly number[]): Promise<SimWorld> {
  const meddle = (node: SimNode) => {
    if (victims.includes(node.index)) one.meddle(specimen, node);
  };
  return await specimen.world.crashedAt(specimen.world.moment, 3, () => 'kept', ['durable', 'acked'], { meddle });
}

describe.each(cases)('a replica that is not itself: $name', (one) => {
  it('does not count, and the volume shows what was written', async () => {
    const specimen = await made;
    const { volumeId } = specimen;
    const world = await reopened(specimen, one, one.victims);
    // Also when the engine's own node has it.
    const session = await world.until(openAgain(world, volumeId, world.nodes[one.victims[0]!]!), 'open');
    await world.until(checkContents(world.models.get(volumeId)!, session, specimen.state), 'read');
    await world.until(new Promise<void>((resolve) => world.time.after(20_000, resolve)), 'time');
    const record = world.volumes.get(volumeId)!;
    for (const index of one.victims) {
      const member = record.members.find((candidate) => candidate.node === index)!;
      expect(record.inSync.includes(member.replicaId)).toBe(one.fate === 'brought up to date');
      expect(member.lost).toBe(one.fate === 'lost');
    }
    expect(record.inSync.length).toBe(one.fate === 'brought up to date' ? 3 : 2);
    await world.until(checkReplicasEqual(world, volumeId, session.reign.epoch), 'the same on all replicas');
  });

  it('is refused with a sentence when there is nothing else', async () => {
    const specimen = await made;
    const world = await reopened(specimen, one, [0, 1, 2]);
    const opening = world.until(openAgain(world, specimen.volumeId, world.nodes[0]!, 2), 'open');
    const error = await opening.then(
      () => null,
      (caught: unknown) => caught,
    );
    expect(error).toBeInstanceOf(HoldfastError);
    expect((error as HoldfastError).message).toMatch(one.refusal);
    // Nothing was taken out of the set on the strength of it.
    expect(world.volumes.get(specimen.volumeId)!.inSync.length).toBe(3);
  });
});

it('a replica that was formatted anew is another one, and is never taken back', async () => {
  const specimen = await made;
  const { volumeId } = specimen;
  const anew: Case = { ...cases[0]!, name: 'anew' };
  const world = await reopened(specimen, anew, [1]);
  const node = world.nodes[1]!;
  const record = world.volumes.get(volumeId)!;
  const member = record.members.find((candidate) => candidate.node === 1)!;
  const formatted = node.host!.create({
    volumeId,
    lineageId: world.lineageId,
    replicaId: member.replicaId,
    incarnationId: world.chance.uuid() as IncarnationId,
    poolId: node.poolId!,
    sizeBytes: specimen.state.sizeBytes,
    parameters: {},
    members: record.members,
    setVersion: record.setVersion,
  });
  await world.until(formatted, 'format');
  for (let reign = 0; reign < 2; reign++) {
    const session = await world.until(openAgain(world, volumeId, world.nodes[1]!), 'open');
    await world.until(checkContents(world.models.get(volumeId)!, session, specimen.state), 'read');
    await world.until(new Promise<void>((resolve) => world.time.after(10_000, resolve)), 'time');
    await world.until(session.engine.close(), 'close');
    const now = world.volumes.get(volumeId)!;
    expect(now.inSync).not.toContain(member.replicaId);
    expect(now.members.find((candidate) => candidate.node === 1)!.lost).toBe(true);
  }
});
