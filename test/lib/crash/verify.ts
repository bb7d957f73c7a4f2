// What must be true of a world after a crash: the volume opens, holds exactly the frames up to one of those that were sent,
// none that was promised is missing, its bytes and snapshots are those of that point, and all replicas hold the same.

import { BLOCK_SIZE, type SnapshotId, type VolumeId } from '../../../src/base/index.js';
import { parseSegmentFileName } from '../../../src/format/index.js';
import { blockBytes, readAt, runsOf } from './client.js';
import { poolPath, type Session, type SimNode, type SimWorld } from './sim-world.js';
import type { VolumeModel, VolumeState } from './volume-model.js';

/** Opens the volume, trying again as its daemon would. */
export async function openAgain(world: SimWorld, volumeId: VolumeId, node: SimNode, attempts = 8): Promise<Session> {
  let last: unknown;
  for (let i = 0; i < attempts; i++) {
    try {
      return await world.open(volumeId, node);
    } catch (error) {
      last = error;
      if (world.fatal !== undefined) throw world.fatal;
      await new Promise<void>((resolve) => world.time.after(500, resolve));
    }
  }
  throw last;
}

/** Throws unless everything promised up to the crash is in the log that the session took over. Returns the state it must show. */
export function checkPromises(world: SimWorld, volumeId: VolumeId, session: Session): VolumeState {
  const model = world.models.get(volumeId)!;
  const end = model.takenOver.get(session.reign.epoch);
  if (end === undefined) throw new Error('the engine serves without having sent a frame');
  const chain = model.chain(end);
  const there = new Set(chain.map((frame) => frame.digest));
  const last = chain.at(-1)?.seq ?? 0;
  for (const floor of model.floors) {
    // Promises of this very reign are none that a crash could have broken.
    if (floor.frame.epoch === session.reign.epoch || there.has(floor.frame.digest)) continue;
    throw new Error(
      `lost: frame ${floor.frame.seq} of epoch ${floor.frame.epoch} (${floor.kind}: ${floor.why}); the log ends at ${last} of epoch ${chain.at(-1)?.epoch ?? 0}`,
    );
  }
  return model.stateAt(end);
}

export async function checkContents(model: VolumeModel, session: Session, state: VolumeState): Promise<void> {
  const { engine } = session;
  if (engine.sizeBytes !== state.sizeBytes)
    throw new Error(`the volume has ${engine.sizeBytes} bytes, must have ${state.sizeBytes}`);
  const blocks = [...model.touched].filter((block) => (block + 1) * BLOCK_SIZE <= state.sizeBytes);
  for (const [block, count] of runsOf(blocks)) {
    const got = await readAt(session, block * blockBytes, count * blockBytes);
    for (let i = 0; i < count; i++) {
      const want = state.blocks.get(block + i);
      const part = got.subarray(i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE);
      if (want === undefined ? part.some((byte) => byte !== 0) : !part.equals(want))
        throw new Error(
          `block ${block + i} holds ${describe(part)}, must hold ${want === undefined ? 'zeroes' : describe(want)}`,
        );
    }
  }
  const found = new Set<SnapshotId>(engine.status().snapshotIds);
  for (const id of state.snapshots.keys()) if (!found.delete(id)) throw new Error(`snapshot ${id} is missing`);
  if (found.size > 0) throw new Error(`snapshots ${[...found]} should not be there`);
}

/** With every node up and nothing going wrong any more, all replicas come back into the set and hold the same. */
export async function checkConverges(world: SimWorld, volumeId: VolumeId, session: Session): Promise<void> {
  const { members } = world.volumes.get(volumeId)!;
  for (let waited = 0; world.volumes.get(volumeId)!.inSync.length < members.length; waited += 100) {
    if (waited > 60_000) {
      const away = session.engine.status().replicas.filter((replica) => replica.state !== 'in-sync');
      throw new Error(`did not come back in a minute: ${away.map(({ nodeId, message }) => `${nodeId} (${message})`)}`);
    }
    await new Promise<void>((resolve) => world.time.after(100, resolve));
  }
  await checkReplicasEqual(world, volumeId, session.reign.epoch);
}

function describe(block: Buffer): string {
  return block.every((byte) => byte === 0)
    ? 'zeroes'
    : `request ${block.readUInt32LE(0)} for byte ${block.readDoubleLE(8)}`;
}

/** Where nothing but zeroes follows: what was written ahead, or the last frame's own padding. */
export function writtenLength(bytes: Buffer): number {
  let length = bytes.length;
  while (length > 0 && bytes[length - 1] === 0) length--;
  return length;
}

/** The same but for zeroes at the end. */
export function sameWritten(a: Buffer, b: Buffer): boolean {
  const length = Math.max(a.length, b.length);
  return writtenPart(a, length).equals(writtenPart(b, length));
}

/** `length` bytes; zeroes are as good as a file's end. */
function writtenPart(bytes: Buffer, length: number): Buffer {
  return bytes.length >= length ? bytes.subarray(0, length) : Buffer.concat([bytes], length);
}

class NewestMissing extends Error {}

/** How long what an engine writes by itself just then, a burst of its cleaner, may be on its way to a replica. */
const UNDER_WAY_MS = 5_000;

/** All in-sync replicas hold the same bytes; a segment may be missing on some only when no live log needs it (a deletion cut short). */
export async function checkReplicasEqual(world: SimWorld, volumeId: VolumeId, epoch: number): Promise<void> {
  for (let waited = 0; ; waited += 10) {
    try {
      return checkEqualNow(world, volumeId, epoch);
    } catch (error) {
      if (!(error instanceof NewestMissing) || waited >= UNDER_WAY_MS) throw error;
    }
    await new Promise<void>((resolve) => world.time.after(10, resolve));
  }
}

function checkEqualNow(world: SimWorld, volumeId: VolumeId, epoch: number): void {
  const record = world.volumes.get(volumeId)!;
  const logs = record.inSync.map((id) => {
    const { disk } = world.nodes[record.members.find((member) => member.replicaId === id)!.node]!;
    const directory = `${poolPath}/replicas/${volumeId}`;
    const names = disk.list(directory).filter((name) => parseSegmentFileName(name) !== undefined);
    return new Map(names.map((name) => [name, disk.contents(`${directory}/${name}`)]));
  });
  const [first, ...others] = logs;
  others.forEach((log, i) => {
    const names = new Set([...first!.keys(), ...log.keys()]);
    const newest = [...names].sort().at(-1);
    for (const name of names) {
      const mine = first!.get(name);
      const theirs = log.get(name);
      if (mine === undefined || theirs === undefined) {
        if (name === newest) throw new NewestMissing(`the newest segment ${name} is not on every in-sync replica`);
        continue;
      }
      // What this reign writes is still on its way to some; zeroes behind the last frame were written ahead, or are what a power
      // cut left of a longer file.
      const open = parseSegmentFileName(name)!.epoch === epoch;
      const lengths = [writtenLength(mine), writtenLength(theirs)] as const;
      const length = open ? Math.min(...lengths) : Math.max(...lengths);
      const same = writtenPart(mine, length).equals(writtenPart(theirs, length));
      if (!same)
        throw new Error(
          `segment ${name} differs between ${record.inSync[0]} (${mine.length} bytes) and ${record.inSync[i + 1]} (${theirs.length} bytes)`,
        );
    }
  });
}
