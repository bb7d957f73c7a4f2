// A volume with a past: every kind of entry in its log, sealed segments, checkpoints, a snapshot, a clone, deleted segments; closed
// cleanly or left by a crash with an open tail. What is done to it is done to copies.

import { BLOCK_SIZE, GiB, MiB, type SnapshotId, type VolumeId } from '../../../src/base/index.js';
import { Client, type Wish } from './client.js';
import { beginClone, type CloneRecord } from './clones.js';
import { type Session, SimWorld } from './sim-world.js';
import { Chance } from './virtual-time.js';
import type { VolumeState } from './volume-model.js';

export interface Specimen {
  readonly world: SimWorld;
  readonly volumeId: VolumeId;
  readonly clone: CloneRecord;
  readonly snapshotId: SnapshotId;
  /** What it must show when nothing is wrong. */
  readonly state: VolumeState;
  /** The last frame that some durable claim covers. */
  readonly claimedSeq: number;
  readonly end: number;
}

export async function makeSpecimen(options: {
  seed: number;
  encrypted: boolean;
  replicas: number;
  ending: 'closed' | 'crashed';
}): Promise<Specimen> {
  const chance = new Chance(options.seed);
  const { world, volumeId } = await SimWorld.fresh(options.seed, {
    replicas: options.replicas,
    sizeBytes: 3 * GiB,
    compression: 'lz4',
    cipher: options.encrypted ? 'aes-256-gcm' : 'none',
    dataKey: options.encrypted ? chance.bytes(32) : null,
  });
  const past = live(world, volumeId, chance, options.ending);
  const { clone, snapshotId } = await world.until(past, 'the specimen', 3_600_000);
  const model = world.models.get(volumeId)!;
  const newest = [...model.frames.values()].at(-1)!;
  return {
    world,
    volumeId,
    clone,
    snapshotId,
    state: model.stateAt(newest.digest),
    claimedSeq: world.volumes.get(volumeId)!.flushedPoint?.seq ?? 0,
    end: newest.seq,
  };
}

async function live(
  world: SimWorld,
  volumeId: VolumeId,
  chance: Chance,
  ending: 'closed' | 'crashed',
): Promise<{ clone: CloneRecord; snapshotId: SnapshotId }> {
  const node = world.nodes[0]!;
  const pause = (ms: number) => new Promise<void>((resolve) => world.time.after(ms, resolve));
  const begin = async (): Promise<{
    session: Session;
    act: (...wishes: Wish[]) => Promise<unknown>;
    fill: (mib: number) => Promise<void>;
  }> => {
    const session = await world.open(volumeId, node);
    const client = new Client(world, session, world.models.get(volumeId)!);
    const act = (...wishes: Wish[]) => Promise.all(client.submit(wishes));
    const fill = async (mib: number) => {
      for (let i = 0; i < mib * 8; i++) await act(write(i * 32, 32));
    };
    return { session, act, fill };
  };
  // Everything is written twice, so that the first segments die and are given back.
  const first = await begin();
  await first.fill(0.6);
  await first.act(flush);
  await first.fill(0.6);
  await first.act({ op: 'trim', offset: 0, length: 4 * MiB, fua: false });
  await pause(10_000);
  await first.act(write(500, 3), write(2 ** 19 - 1, 2), {
    op: 'write',
    offset: 700 * BLOCK_SIZE + 100,
    length: 5000,
    fua: true,
  });
  await pause(10_000);
  await first.session.engine.close();
  const second = await begin();
  await second.fill(0.3);
  const snapshotId = chance.uuid() as SnapshotId;
  const gone = chance.uuid() as SnapshotId;
  await second.session.engine.freeze({ snapshotId, groupId: null, holdToken: null });
  await second.act(write(0, 8), { op: 'zero', offset: 8 * BLOCK_SIZE, length: 3 * BLOCK_SIZE, fua: false });
  await second.session.engine.freeze({ snapshotId: gone, groupId: null, holdToken: null });
  await second.session.engine.deleteSnapshot(gone);
  await second.session.engine.resize(3 * GiB + MiB);
  world.change(volumeId, { sizeBytes: 3 * GiB + MiB });
  const { record: clone, answer } = beginClone(world, second.session, volumeId, snapshotId, chance);
  await answer;
  await second.act(write(40, 5), flush);
  await second.fill(0.3);
  await second.act({ op: 'trim', offset: 20 * BLOCK_SIZE, length: 2 * BLOCK_SIZE, fua: true });
  await pause(5_000);
  if (ending === 'closed') await second.session.engine.close();
  else {
    await second.act(write(100, 2), flush);
    await pause(5_000);
    await second.act(write(101, 1), write(102, 9), flush);
    await second.act(write(103, 1));
  }
  return { clone, snapshotId };
}

const flush: Wish = { op: 'flush', offset: 0, length: 0, fua: false };

function write(block: number, count: number): Wish {
  return { op: 'write', offset: block * BLOCK_SIZE, length: count * BLOCK_SIZE, fua: false };
}
