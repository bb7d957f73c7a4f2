// Lists of allocated and changed blocks in a cluster of real processes, compared with what was written: on an attached volume
// while writes go on, on one that nobody has attached, on one that grew, and on a clone. A backup made from the lists alone equals
// the snapshot. Needs root and /dev/fuse.

import { randomBytes } from 'node:crypto';
import { closeSync, constants, fsyncSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { KiB, MiB, realClock } from '../../src/base/index.js';
import { type Client, createClient, type csi, csiServices } from '../../src/rpc/index.js';
import { blockCapability, DevCluster, leftovers, type TestNode, type TestVolume } from '../lib/dev-cluster.js';
import { missingFor, run } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'blkdiscard']);
if (reason !== '') process.stderr.write(`\nSKIPPED: snapshot metadata system tests cannot run here: ${reason}\n\n`);

const BLOCK = 4 * KiB;
const SIZE = 1280 * MiB;
const GROWN = 1536 * MiB;
const PIECE = 4 * MiB;

type Message = csi.GetMetadataAllocatedResponse__Output;
type Range = readonly [offset: number, bytes: number];

/** What was written: for each block the number of the write that it shows, 0 for none. */
class Model {
  shown: Uint32Array;
  #writes: number;
  constructor(shown: Uint32Array, writes = 0) {
    this.shown = shown;
    this.#writes = writes;
  }
  /** As a snapshot keeps it. */
  copy(): Model {
    return new Model(this.shown.slice(), this.#writes);
  }
  write(fd: number, block: number, count: number): void {
    const bytes = Buffer.alloc(count * BLOCK);
    for (let i = 0; i < count; i++) {
      this.shown[block + i] = ++this.#writes;
      bytes.fill(contents(this.#writes), i * BLOCK, (i + 1) * BLOCK);
    }
    writeSync(fd, bytes, 0, bytes.length, block * BLOCK);
  }
  clear(block: number, count: number): void {
    this.shown.fill(0, block, block + count);
  }
  /** Byte ranges of blocks that differ from those of `base`, or that hold something. */
  ranges(base?: Model): Range[] {
    const found: [number, number][] = [];
    for (let block = 0; block < this.shown.length; block++) {
      if (this.shown[block] === (base?.shown[block] ?? 0)) continue;
      const last = found.at(-1);
      if (last !== undefined && last[0] + last[1] === block * BLOCK) last[1] += BLOCK;
      else found.push([block * BLOCK, BLOCK]);
    }
    return found;
  }
}

const pattern = randomBytes(BLOCK);
function contents(serial: number): Buffer {
  const bytes = Buffer.from(pattern);
  bytes.writeUInt32LE(serial, 0);
  return bytes;
}

const rangesOf = (messages: readonly Message[]): Range[] =>
  messages.flatMap((message) => message.block_metadata.map((one) => [one.byte_offset, one.size_bytes] as const));

async function all(stream: AsyncIterable<Message>): Promise<Message[]> {
  const messages: Message[] = [];
  for await (const message of stream) messages.push(message);
  return messages;
}

describe.skipIf(reason !== '')('snapshot metadata', () => {
  const copyPath = join(tmpdir(), `hfcopy-${randomBytes(4).toString('hex')}`);
  let cluster: DevCluster;
  let metadata: Client<csi.SnapshotMetadataDefinition, csi.SnapshotMetadataHandlers>;
  beforeAll(async () => {
    cluster = await DevCluster.start(['--nodes', '3']);
    const ready = cluster.events.find((event) => event.event === 'ready') as unknown as { controller: { csi: string } };
    metadata = createClient(ready.controller.csi, csiServices.snapshotMetadata(), { clock: realClock });
  });
  afterAll(async () => {
    rmSync(copyPath, { force: true });
    // Undefined when the cluster did not start: beforeAll says why.
    if (cluster === undefined) return;
    metadata.close();
    expect(await cluster.stop()).toBe(0);
    expect(leftovers(cluster.dir)).toEqual([]);
  });

  let names = 0;
  const snapshot = async (volume: TestVolume): Promise<string> => {
    const request = { name: `s${++names}`, source_volume_id: volume.id };
    return (await cluster.controller.CreateSnapshot(request)).snapshot!.snapshot_id;
  };
  const allocated = (snapshot_id: string, more: csi.GetMetadataAllocatedRequest = {}) =>
    all(metadata.GetMetadataAllocated({ snapshot_id, ...more }));
  const delta = (base_snapshot_id: string, target_snapshot_id: string, more: csi.GetMetadataDeltaRequest = {}) =>
    all(metadata.GetMetadataDelta({ base_snapshot_id, target_snapshot_id, ...more }));

  /** Makes a volume of the snapshot and shows it at the node; `work` gets it open for reading. */
  async function onClone(node: TestNode, snapshot_id: string, bytes: number, work: (fd: number) => void) {
    const source = { snapshot: { snapshot_id } };
    const clone = await cluster.createVolume({ bytes, capability: blockCapability, source });
    const fd = openSync(await cluster.use(node, clone), 'r');
    try {
      work(fd);
    } finally {
      closeSync(fd);
      await cluster.release(node, clone);
      await cluster.controller.DeleteVolume({ volume_id: clone.id });
    }
  }

  function copyRanges(from: number, to: number, ranges: readonly Range[]): void {
    const buffer = Buffer.alloc(PIECE);
    for (const [offset, bytes] of ranges) {
      for (let at = offset; at < offset + bytes; at += PIECE) {
        const length = Math.min(PIECE, offset + bytes - at);
        expect(readSync(from, buffer, 0, length, at)).toBe(length);
        writeSync(to, buffer, 0, length, at);
      }
    }
  }

  /** Compares every byte of both, and with what the model says. */
  function expectSame(one: number, other: number, model: Model): void {
    const [a, b, wanted] = [Buffer.alloc(PIECE), Buffer.alloc(PIECE), Buffer.alloc(PIECE)];
    for (let at = 0; at < model.shown.length * BLOCK; at += PIECE) {
      readSync(one, a, 0, PIECE, at);
      readSync(other, b, 0, PIECE, at);
      wanted.fill(0);
      for (let i = 0; i < PIECE / BLOCK; i++) {
        const serial = model.shown[at / BLOCK + i]!;
        if (serial !== 0) contents(serial).copy(wanted, i * BLOCK);
      }
      if (!a.equals(b) || !a.equals(wanted)) throw new Error(`the bytes from ${at} on differ`);
    }
  }

  it('lists equal what was written and trimmed, and a copy made from them equals the snapshot', async () => {
    const volume = await cluster.createVolume({ bytes: SIZE, capability: blockCapability });
    const [node, other] = cluster.nodes as [TestNode, TestNode];
    const target = await cluster.use(node, volume);
    const fd = openSync(target, constants.O_RDWR);
    const model = new Model(new Uint32Array(SIZE / BLOCK));
    // Many small extents, some of several blocks, a long one over several pages of the map, and the last block of all.
    for (let i = 0; i < 9_000; i++) model.write(fd, 26 * i + (i % 5), 1 + (i % 3));
    for (let i = 0; i < 16; i++) model.write(fd, 100_000 + 256 * i, 256);
    model.write(fd, SIZE / BLOCK - 1, 1);
    fsyncSync(fd);
    const one = await snapshot(volume);
    const atOne = model.copy();

    for (let i = 0; i < 3_000; i++) model.write(fd, 97 * i + 5, 1 + (i % 2));
    fsyncSync(fd);
    for (const [block, count] of [
      [0, 1_000],
      [101_000, 517],
      [200_000, 30_000],
    ] as const) {
      run('blkdiscard', '-o', String(block * BLOCK), '-l', String(count * BLOCK), target);
      model.clear(block, count);
    }
    const two = await snapshot(volume);
    const atTwo = model.copy();

    // Lists are asked for while the volume is written and no longer what they show.
    let stop = false;
    const writing = (async () => {
      for (let i = 0; !stop; i++) {
        model.write(fd, (7_919 * i) % (SIZE / BLOCK), 1);
        if (i % 64 === 0) await realClock.sleep(1);
      }
    })();
    try {
      const listed = await allocated(one);
      expect(rangesOf(listed)).toEqual(atOne.ranges());
      expect(listed.length).toBeGreaterThan(1);
      expect(new Set(listed.map((message) => message.volume_capacity_bytes))).toEqual(new Set([SIZE]));
      expect(rangesOf(await allocated(two))).toEqual(atTwo.ranges());
      const changed = await delta(one, two, { max_results: 100 });
      expect(rangesOf(changed)).toEqual(atTwo.ranges(atOne));
      expect(Math.max(...changed.map((message) => message.block_metadata.length))).toBe(100);
      const half = rangesOf(changed).slice(0, 1_500);
      const [offset, bytes] = half.at(-1)!;
      const rest = await delta(one, two, { starting_offset: offset + bytes });
      expect([...half, ...rangesOf(rest)]).toEqual(rangesOf(changed));
    } finally {
      stop = true;
      await writing;
    }
    await expect(delta(two, one)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });

    // A full backup of the first, then an incremental one of the second.
    const copy = openSync(copyPath, 'w+');
    ftruncateSync(copy, SIZE);
    const full = rangesOf(await allocated(one));
    const incremental = rangesOf(await delta(one, two));
    await onClone(other, one, SIZE, (from) => copyRanges(from, copy, full));
    await onClone(other, two, SIZE, (from) => {
      copyRanges(from, copy, incremental);
      expectSame(copy, from, atTwo);
    });
    closeSync(copy);

    await cluster.controller.ControllerExpandVolume({
      volume_id: volume.id,
      capacity_range: { required_bytes: GROWN },
    });
    await node.client.NodeExpandVolume({
      volume_id: volume.id,
      volume_path: target,
      staging_target_path: cluster.staging(node, volume),
      volume_capability: volume.capability,
    });
    const grown = new Model(new Uint32Array(GROWN / BLOCK));
    grown.shown.set(model.shown);
    fsyncSync(fd);
    const three = await snapshot(volume);
    grown.write(fd, SIZE / BLOCK, 3);
    grown.write(fd, GROWN / BLOCK - 2, 2);
    fsyncSync(fd);
    const four = await snapshot(volume);
    const tail = await delta(three, four);
    expect(rangesOf(tail)).toEqual([
      [SIZE, 3 * BLOCK],
      [GROWN - 2 * BLOCK, 2 * BLOCK],
    ]);
    expect(tail[0]!.volume_capacity_bytes).toBe(GROWN);
    expect(rangesOf(await allocated(four))).toEqual(grown.ranges());
    await expect(allocated(two, { starting_offset: SIZE + BLOCK })).rejects.toMatchObject({ code: 'OUT_OF_RANGE' });
    closeSync(fd);
    await cluster.release(node, volume);

    // Nobody has it attached now, and after that not even the volume is left, only its snapshots.
    expect(rangesOf(await allocated(one))).toEqual(atOne.ranges());
    expect(rangesOf(await delta(one, two))).toEqual(atTwo.ranges(atOne));
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
    expect(rangesOf(await delta(two, four))).toEqual(grown.ranges(atTwo));

    const source = { snapshot: { snapshot_id: two } };
    const clone = await cluster.createVolume({ bytes: SIZE, capability: blockCapability, source });
    const cloned = await snapshot(clone);
    expect(rangesOf(await allocated(cloned))).toEqual(atTwo.ranges());
    const cloneFd = openSync(await cluster.use(other, clone), constants.O_RDWR);
    const ofClone = atTwo.copy();
    ofClone.write(cloneFd, 1, 2);
    ofClone.write(cloneFd, 150_001, 700);
    fsyncSync(cloneFd);
    const later = await snapshot(clone);
    expect(rangesOf(await delta(cloned, later))).toEqual([
      [BLOCK, 2 * BLOCK],
      [150_001 * BLOCK, 700 * BLOCK],
    ]);
    expect(rangesOf(await allocated(later))).toEqual(ofClone.ranges());
    await expect(delta(two, later)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    closeSync(cloneFd);
    await cluster.release(other, clone);
    for (const id of [one, two, three, four, cloned, later])
      await cluster.controller.DeleteSnapshot({ snapshot_id: id });
    await expect(allocated(one)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await cluster.controller.DeleteVolume({ volume_id: clone.id });
  }, 400_000);
});
