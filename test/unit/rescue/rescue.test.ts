// Bare pools: volumes and snapshots are read out of them exactly, from whom an open would read, and nothing in them changes.

import { randomBytes } from 'node:crypto';
import {
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { MiB, type SnapshotId } from '../../../src/base/index.js';
import type { Engine } from '../../../src/engine/index.js';
import { BareReplica } from '../../../src/replica/index.js';
import { NodeDisk, ReadOnlyDisk } from '../../../src/segment/index.js';
import { eventually, flush, request, rigVolume, write } from '../../lib/engine-rig.js';
import { PoolRig } from '../../lib/pool-rig.js';
import { type RescueOutcome, rescue, rescueUntil } from '../../lib/rescue-command.js';

const snapshotId = '50000000-0000-4000-8000-000000000001' as SnapshotId;
const BLOCK = 4096;

// Some 50 MB are synced for real.
vi.setConfig({ testTimeout: 60_000 });

let rig: PoolRig;
afterEach(() => rig.remove());

let images = 0;
async function readImage(
  paths: string[],
  ...more: string[]
): Promise<RescueOutcome & { image: Buffer; stored: number }> {
  const image = `${rig.root}-image-${++images}`;
  try {
    const outcome = await rescue('read', '--volume', rigVolume, '--out', image, ...more, ...paths);
    return { ...outcome, image: readFileSync(image), stored: statSync(image).blocks * 512 };
  } finally {
    rmIfThere(image);
  }
}

function rmIfThere(path: string): void {
  if (existsSync(path)) unlinkSync(path);
}

/** The volume's bytes, as they should be. */
class Model {
  bytes = Buffer.alloc(rig.options.sizeBytes);
  async write(engine: Engine, offset: number, data: Buffer): Promise<void> {
    await write(engine, offset, data);
    data.copy(this.bytes, offset);
  }
  async trim(engine: Engine, offset: number, length: number): Promise<void> {
    expect(await request(engine, 'trim', offset, length)).toBe(null);
    this.bytes.fill(0, offset, offset + length);
  }
}

/** Several segments, a snapshot, overwritten and trimmed parts, a checkpoint or not. */
async function fill(engine: Engine): Promise<{ model: Model; frozen: Buffer }> {
  const model = new Model();
  for (let at = 0; at < 20 * MiB; at += MiB) await model.write(engine, at, randomBytes(MiB));
  await model.write(engine, 40 * MiB + 512, Buffer.alloc(3 * BLOCK, 'text that compresses'));
  await model.write(engine, rig.options.sizeBytes - BLOCK, randomBytes(BLOCK));
  await flush(engine);
  await engine.freeze({ snapshotId, groupId: null, holdToken: null });
  const frozen = Buffer.from(model.bytes);
  for (let i = 0; i < 100; i++) await model.write(engine, i * 37 * BLOCK, randomBytes(BLOCK));
  await model.trim(engine, 6 * MiB, 5 * MiB);
  await model.write(engine, 50 * MiB, randomBytes(2 * MiB));
  await flush(engine);
  return { model, frozen };
}

it.each([false, true])(
  'reads a volume and a snapshot exactly and changes nothing (encrypted: %s)',
  async (encrypted) => {
    rig = await PoolRig.make(3, encrypted);
    const engine = await rig.open();
    const { model, frozen } = await fill(engine);
    await engine.close();
    await rig.stopAll();
    const before = rig.digest();
    const keyPath = `${rig.root}-key`;
    const key = encrypted ? ['--key-file', keyPath] : [];
    writeFileSync(keyPath, `${rig.wrappingKey.toString('hex')}\n`);
    try {
      // A directory that is named twice counts once.
      const live = await readImage([rig.directory(0), ...rig.paths(0, 1, 2)], ...key);
      expect(live.code).toBe(0);
      expect(live.image.equals(model.bytes)).toBe(true);
      expect(live.stored).toBeLessThan(24 * MiB);
      const old = await readImage([rig.directory(1), ...rig.paths(0, 2)], ...key, '--snapshot', snapshotId);
      expect(old.code).toBe(0);
      expect(old.image.equals(frozen)).toBe(true);
      await expect(readImage(rig.paths(0, 1, 2), ...key, '--snapshot', rigVolume)).rejects.toThrow(snapshotId);
      if (encrypted) {
        await expect(readImage(rig.paths(0, 1, 2))).rejects.toThrow('--key-file');
        writeFileSync(keyPath, randomBytes(32));
        await expect(readImage(rig.paths(0, 1, 2), ...key)).rejects.toThrow('wrong key');
      }
    } finally {
      rmIfThere(keyPath);
    }
    const listed = (await rescue('list', ...rig.paths(0, 1, 2))).events[0] as unknown as {
      replicas: { state: string }[];
      snapshots: { snapshotId: string }[];
    };
    expect(listed.replicas.map(({ state }) => state)).toEqual(['in set', 'in set', 'in set']);
    expect(listed.snapshots.map((one) => one.snapshotId)).toEqual([snapshotId]);
    expect(rig.digest()).toBe(before);
  },
);

/** Flips a bit of each of `count` records of a segment, in its payload; the offsets of these. */
function flipIn(path: string, every: number): void {
  const fd = openSync(path, 'r+');
  const byte = Buffer.alloc(1);
  for (let at = 20_000; at < statSync(path).size - 20_000; at += every) {
    readSync(fd, byte, 0, 1, at);
    byte[0] = byte[0]! ^ 0x10;
    writeSync(fd, byte, 0, 1, at);
  }
  closeSync(fd);
}

it('takes damaged records from another replica, and names exactly what none has', async () => {
  rig = await PoolRig.make(3);
  const engine = await rig.open();
  const { model } = await fill(engine);
  await engine.close();
  await rig.stopAll();
  for (const path of rig.segments(0).slice(0, 2)) flipIn(path, 100_000);
  const damaged = rig.digest();
  const repaired = await readImage(rig.paths(0, 1, 2));
  expect(rig.digest()).toBe(damaged);
  expect(repaired.code).toBe(0);
  expect(repaired.image.equals(model.bytes)).toBe(true);
  const stoodIn = repaired.events.filter(({ event }) => event === 'damaged');
  expect(stoodIn.length).toBeGreaterThan(100);
  expect(new Set(stoodIn.map(({ directory }) => directory))).toEqual(new Set([rig.directory(0)]));

  // The same places everywhere: what is missing is told, all else is right.
  for (const i of [1, 2]) for (const path of rig.segments(i).slice(0, 2)) flipIn(path, 100_000);
  const before = rig.digest();
  const holed = await readImage(rig.paths(0, 1, 2));
  expect(holed.code).toBe(1);
  const ranges = holed.events.filter(({ event }) => event === 'unreadable') as unknown as {
    offset: number;
    length: number;
  }[];
  expect(ranges.length).toBeGreaterThan(50);
  let bad = 0;
  for (const { offset, length } of ranges) {
    expect(holed.image.subarray(offset, offset + length).equals(Buffer.alloc(length))).toBe(true);
    bad += length;
    model.bytes.fill(0, offset, offset + length);
  }
  // A flipped bit costs its record, 32 KiB at most, and the blocks of it that were overwritten since are there.
  expect(bad).toBeLessThanOrEqual(170 * 8 * BLOCK);
  expect(holed.image.equals(model.bytes)).toBe(true);
  expect(rig.digest()).toBe(before);
});

it('passes over a replica whose end is damaged, or whose disk failed', async () => {
  rig = await PoolRig.make(2);
  const engine = await rig.open();
  const { model, frozen } = await fill(engine);
  await engine.close();
  await rig.stopAll();
  const last = rig.segments(0).at(-1)!;
  const whole = readFileSync(last);
  const fd = openSync(last, 'r+');
  writeSync(fd, Buffer.from('nonsense'), 0, 8, BLOCK);
  closeSync(fd);
  const read = await readImage(rig.paths(0, 1));
  expect(read.image.equals(model.bytes)).toBe(true);
  expect(read.events.find(({ event }) => event === 'source')!.directory).toBe(rig.directory(1));
  const listed = (await rescue('list', ...rig.paths(0, 1))).events[0] as unknown as { replicas: { state: string }[] };
  expect(listed.replicas.map(({ state }) => state)).toEqual(['damaged', 'in set']);

  // The same end, but its disk had failed under it: what can be read now proves nothing.
  writeFileSync(last, whole);
  writeFileSync(join(rig.directory(0), 'failed'), 'EIO\n');
  const second = await readImage(rig.paths(0, 1));
  expect(second.events.find(({ event }) => event === 'source')!.directory).toBe(rig.directory(1));
  await expect(readImage(rig.paths(0))).rejects.toThrow('--force');

  // Alone and by force it gives what stands before the damage: the volume as it was then.
  const early = openSync(rig.segments(0)[1]!, 'r+');
  writeSync(early, Buffer.from('nonsense'), 0, 8, 0);
  closeSync(early);
  const prefix = await readImage(rig.paths(0), '--force');
  expect(prefix.image.subarray(0, 4 * MiB).equals(frozen.subarray(0, 4 * MiB))).toBe(true);
  expect(prefix.warnings).toContain('damaged');
});

it('keeps apart what a fork of the log has under the same slots', async () => {
  rig = await PoolRig.make(3);
  const first = await rig.open();
  const { model } = await fill(first);
  await first.close();
  // Replica 2 alone goes on in another reign, which then never was.
  await rig.stop(0);
  await rig.stop(1);
  rig.inSync = [rig.members()[2]!.replicaId];
  const fork = await rig.open();
  for (let at = 0; at < 20 * MiB; at += MiB) await write(fork, at, randomBytes(MiB));
  await fork.close();
  await rig.stop(2);
  await rig.start(0);
  await rig.start(1);
  rig.inSync = [0, 1].map((i) => rig.members()[i]!.replicaId);
  rig.setVersion += 5;
  rig.flushedPoint = null;
  const engine = await rig.open();
  await model.write(engine, 12 * MiB, randomBytes(MiB));
  await engine.close();
  await rig.stopAll();
  const read = await readImage(rig.paths(0, 1, 2));
  expect(read.code).toBe(0);
  expect(read.image.equals(model.bytes)).toBe(true);
});

it('never takes a replica that left the set for the newest, alone only by force', async () => {
  rig = await PoolRig.make(3);
  const engine = await rig.open();
  const { model } = await fill(engine);
  const old = Buffer.from(model.bytes);
  await rig.stop(2);
  await model.write(engine, 30 * MiB, randomBytes(MiB));
  await eventually(() => rig.inSync.length === 2, 'it left the set');
  await model.write(engine, 0, randomBytes(MiB));
  await flush(engine);
  await engine.close();
  await rig.stopAll();
  for (const order of [
    [2, 0, 1],
    [0, 2, 1],
  ]) {
    const read = await readImage(rig.paths(...order));
    expect(read.code).toBe(0);
    expect(read.image.equals(model.bytes)).toBe(true);
  }
  // Nor when it alone proves that it lost nothing: what it has is old all the same.
  await rig.losePageCache(0);
  await rig.losePageCache(1);
  const suspect = await readImage(rig.paths(2, 0, 1));
  expect(suspect.image.equals(model.bytes)).toBe(true);
  // Both in-sync ones were members of the last set.
  await expect(readImage(rig.paths(0, 2))).rejects.toThrow(rig.members()[1]!.replicaId);
  await expect(readImage(rig.paths(2))).rejects.toThrow('--force');
  const forced = await readImage(rig.paths(2), '--force');
  expect(forced.image.subarray(0, MiB).equals(old.subarray(0, MiB))).toBe(true);
  expect(forced.warnings).toContain('old');
});

it('says when a replica that lost its page cache has more than the one that kept it', async () => {
  rig = await PoolRig.make(2);
  const engine = await rig.open();
  const acknowledged = randomBytes(MiB);
  await write(engine, 0, acknowledged);
  await flush(engine);
  const length = statSync(rig.segments(1).at(-1)!).size;
  await write(engine, 0, randomBytes(MiB));
  engine.depose('the test ends it');
  await rig.stopAll();
  // As if the newest write had reached the first one only, which then lost power.
  truncateSync(rig.segments(1).at(-1)!, length);
  await rig.losePageCache(0);
  const read = await readImage(rig.paths(0, 1));
  expect(read.image.subarray(0, MiB).equals(acknowledged)).toBe(true);
  expect(read.warnings).toContain(`the log in ${rig.directory(0)} goes on`);
});

it('takes a joining replica only by force', async () => {
  rig = await PoolRig.make(1);
  const engine = await rig.open();
  const { model } = await fill(engine);
  await engine.close();
  const port = await rig.nodes[0]!.host!.localPort(rigVolume, rig.members()[0]!.replicaId);
  port.listen({ appended: () => {}, lost: () => {} });
  await port.fence({ epoch: 9, reignId: rig.reignId });
  await port.describe({ joining: true });
  await rig.stopAll();
  await expect(readImage(rig.paths(0))).rejects.toThrow('joining');
  const forced = await readImage(rig.paths(0), '--force');
  expect(forced.image.equals(model.bytes)).toBe(true);
  expect(forced.warnings).toContain('BY FORCE');
});

it('notices that somebody is at work on a replica', async () => {
  rig = await PoolRig.make(1);
  const engine = await rig.open();
  await write(engine, 0, randomBytes(MiB));
  const disk = new ReadOnlyDisk(new NodeDisk());
  const atWork = BareReplica.open(disk, rig.directory(0));
  expect(atWork.changed()).toBe(false);
  await write(engine, 0, randomBytes(8 * MiB));
  expect(atWork.changed()).toBe(true);
  atWork.close();
  await engine.close();
  await rig.stopAll();
  const described = BareReplica.open(disk, rig.directory(0));
  expect(described.changed()).toBe(false);
  await rig.losePageCache(0);
  expect(described.changed()).toBe(true);
  described.close();
});

it('reads a volume that was never opened as zeroes', async () => {
  rig = await PoolRig.make(2);
  await rig.stopAll();
  const read = await readImage(rig.paths(0, 1));
  expect(read.code).toBe(0);
  expect(read.image.equals(Buffer.alloc(rig.options.sizeBytes))).toBe(true);
  expect(read.stored).toBe(0);
});

it('refuses a pool in use, an image that exists or would lie in a pool, and flags that mean nothing; leaves nothing half made', async () => {
  rig = await PoolRig.make(1);
  const engine = await rig.open();
  const { model } = await fill(engine);
  await engine.close();
  await expect(readImage(rig.paths(0))).rejects.toThrow('a running daemon holds pool');
  await expect(readImage([rig.directory(0)])).rejects.toThrow('a running daemon holds pool');
  const forced = await readImage(rig.paths(0), '--force');
  expect(forced.image.equals(model.bytes)).toBe(true);
  await rig.stopAll();
  const before = rig.digest();
  const read = ['read', '--volume', rigVolume];
  await expect(rescue(...read, '--out', join(rig.nodes[0]!.path, 'x'), ...rig.paths(0))).rejects.toThrow('lies in');
  await expect(rescue(...read, '--out', rig.directory(0), ...rig.paths(0))).rejects.toThrow('lies in');
  const present = `${rig.root}-present`;
  writeFileSync(present, 'mine');
  await expect(rescue(...read, '--out', present, ...rig.paths(0))).rejects.toThrow('exists already');
  expect(readFileSync(present, 'utf8')).toBe('mine');
  rmIfThere(present);
  const half = [...read, '--out', present, ...rig.paths(0)];
  await expect(rescueUntil(AbortSignal.abort(), ...half)).rejects.toThrow('interrupted');
  expect(existsSync(present)).toBe(false);
  await expect(rescue('list', '--out', present, ...rig.paths(0))).rejects.toThrow('means nothing');
  await expect(rescue('list', rig.root)).rejects.toThrow('no pool');
  expect(rig.digest()).toBe(before);
});
