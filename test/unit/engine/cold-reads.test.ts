// Reads that wait for a disk: nobody else waits with them, and what happens to the log meanwhile does them no harm.

import { expect, it } from 'vitest';
import type { BlockRequest } from '../../../src/engine/index.js';
import { ReadScratch, type Slab } from '../../../src/engine/read-scratch.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { read, request, seeded, write } from '../../lib/engine-rig.js';

const BLOCK = 4096;

/** Holds back rows of reads, by a test's choice. */
class SlowRows {
  readonly #waiting: (() => void)[] = [];
  /** Which of the next rows have to wait, in their order. */
  next: boolean[] = [];
  readonly delay = (): Promise<void> =>
    this.next.shift() === true ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve();
  get waiting(): number {
    return this.#waiting.length;
  }
  release(): void {
    for (const resume of this.#waiting.splice(0)) resume();
  }
}

async function opened() {
  const rig = await DiskRig.make(1);
  const engine = await rig.open();
  // Written apart and far from each other: each a record and a range of its own.
  for (let i = 0; i < 8; i++) await write(engine, i * 64 * BLOCK, Buffer.alloc(BLOCK, i + 1));
  const slow = new SlowRows();
  rig.nodes[0]!.disk.readDelay = slow.delay;
  return { rig, engine, slow };
}

const turns = () => new Promise((resolve) => setImmediate(resolve));

it('answers what is in memory before what came in the same batch and has to be read from disk', async () => {
  const { engine, slow } = await opened();
  const answered: string[] = [];
  const into = Array.from({ length: 4 }, () => Buffer.alloc(2 * BLOCK));
  const one = (i: number, offset: number, length: number): BlockRequest => ({
    ...{ op: 'read', offset, length, fua: false, data: into[i]!, dataAt: 0, cancelled: false },
    complete: (error) => answered.push(`${i} ${error}`),
  });
  slow.next = [false, true, false];
  // The third one wants a part of a block, the last one zeroes.
  engine.submit([
    one(0, 0, BLOCK),
    one(1, 64 * BLOCK, BLOCK),
    one(2, 128 * BLOCK + 512, 1024),
    one(3, 63 * BLOCK, BLOCK),
  ]);
  await turns();
  expect(slow.waiting).toBe(1);
  expect(answered.sort()).toEqual(['0 null', '2 null', '3 null']);
  // The disk is busy, the engine is not.
  await write(engine, 300 * BLOCK, Buffer.alloc(BLOCK, 77));
  expect((await read(engine, 300 * BLOCK, BLOCK))[0]).toBe(77);
  expect(answered.length).toBe(3);
  slow.release();
  await turns();
  expect(answered.at(-1)).toBe('1 null');
  expect([into[0]![0], into[1]![0], into[2]![0], into[2]![1023], into[3]![0]]).toEqual([1, 2, 3, 3, 0]);
  await engine.close();
});

it('keeps the memory of late reads apart from that of later ones', async () => {
  const { engine, slow } = await opened();
  slow.next = new Array(8).fill(true);
  const late = [0, 1, 2, 3].map((i) => read(engine, i * 64 * BLOCK, BLOCK));
  await turns();
  expect(slow.waiting).toBe(4);
  slow.next = [];
  for (let round = 0; round < 20; round++)
    for (let i = 4; i < 8; i++) expect((await read(engine, i * 64 * BLOCK, BLOCK))[7]).toBe(i + 1);
  slow.release();
  expect((await Promise.all(late)).map((bytes) => bytes[9])).toEqual([1, 2, 3, 4]);
  await engine.close();
});

it('gives no memory twice while it is in use, and little of it in all', () => {
  const scratch = new ReadScratch();
  const next = seeded(5);
  const random = (below: number) => Math.floor(next() * below);
  const used: { slab: Slab; from: number; to: number }[] = [];
  const slabs = new Set<Slab>();
  for (let round = 0; round < 5_000; round++) {
    if (used.length > 40 || (used.length > 0 && random(2) === 0)) {
      scratch.release(used.splice(random(used.length), 1)[0]!.slab);
      continue;
    }
    const bytes = 1 + random(60_000);
    const slab = scratch.take(bytes);
    const piece = { slab, from: slab.end - bytes, to: slab.end };
    expect(piece.to).toBeLessThanOrEqual(slab.bytes.length);
    expect(used.some((other) => other.slab === slab && other.from < piece.to && piece.from < other.to)).toBe(false);
    used.push(piece);
    slabs.add(slab);
  }
  expect(slabs.size).toBeLessThan(60);
});

it('fails only the requests whose records the disk can not give', async () => {
  const { rig, engine, slow } = await opened();
  const { disk, segmentFiles } = { disk: rig.nodes[0]!.disk, segmentFiles: rig.nodes[0]!.segmentFiles() };
  slow.next = [true, false];
  const into = [Buffer.alloc(BLOCK), Buffer.alloc(BLOCK)];
  const both = new Promise<unknown[]>((resolve) => {
    const answers: unknown[] = [];
    const one = (i: number): BlockRequest => ({
      ...{ op: 'read', offset: i * 64 * BLOCK, length: BLOCK, fua: false, data: into[i]!, dataAt: 0, cancelled: false },
      complete: (error) => {
        answers[i] = error;
        if (i === 0) resolve(answers);
      },
    });
    engine.submit([one(0), one(1)]);
  });
  await turns();
  disk.failRead = { path: segmentFiles.at(-1)!, errno: 'EIO' };
  slow.release();
  expect(await both).toEqual(['EIO', null]);
  expect(into[1]![5]).toBe(2);
  disk.failRead = null;
  expect((await read(engine, 0, BLOCK))[5]).toBe(1);
  await engine.close();
});

it('a read under way when the engine ends is told so, once, and nothing is written for it later', async () => {
  const { engine, slow } = await opened();
  slow.next = [true];
  const answers: unknown[] = [];
  const pending = request(engine, 'read', 0, BLOCK, Buffer.alloc(BLOCK)).then((answer) => answers.push(answer));
  await turns();
  expect(slow.waiting).toBe(1);
  const closing = engine.close();
  await turns();
  slow.release();
  await Promise.all([closing, pending]);
  expect(answers).toEqual(['ESHUTDOWN']);
});
