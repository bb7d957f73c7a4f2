import { expect, it } from 'vitest';
import type { NodeId } from '../../../src/base/index.js';
import { EngineRig, read, seeded, write } from '../../lib/engine-rig.js';
import { memoryConnector } from '../../lib/memory-replica.js';

const KiB = 1024;

/** Bytes that do not compress. */
function noise(length: number, seed: number): Buffer {
  const chance = seeded(seed);
  const bytes = Buffer.alloc(length);
  for (let i = 0; i < length; i += 4) bytes.writeUInt32LE(Math.floor(chance() * 0x1_0000_0000), i);
  return bytes;
}

it('reads from the local replica alone', async () => {
  const rig = new EngineRig(3);
  const engine = await rig.open();
  const data = noise(768 * KiB, 1);
  await write(engine, 0, data);
  for (const replica of rig.replicas) replica.reads = 0;
  expect((await read(engine, 0, data.length)).equals(data)).toBe(true);
  expect(rig.replicas.map(({ reads }) => reads > 0)).toEqual([true, false, false]);
  await engine.close();
});

it('shares reads out among the replicas where none is local, also the parts of one large read', async () => {
  const rig = new EngineRig(3);
  const engine = await rig.open({ connector: memoryConnector(rig.replicas, 'elsewhere' as NodeId) });
  const data = noise(768 * KiB, 2);
  await write(engine, 4096, data);
  for (const replica of rig.replicas) replica.reads = 0;
  expect((await read(engine, 4096, data.length)).equals(data)).toBe(true);
  for (const { reads } of rig.replicas) expect(reads).toBeGreaterThanOrEqual(2);
  for (let i = 0; i < 30; i++) {
    const at = 4096 + i * 20_000;
    expect((await read(engine, at, 5000)).equals(data.subarray(at - 4096, at + 904))).toBe(true);
  }
  for (const { reads } of rig.replicas) expect(reads).toBeGreaterThanOrEqual(12);
  // One that goes away in the middle is made up for by the others.
  const reading = read(engine, 4096, data.length);
  rig.replicas[1]!.disconnect();
  expect((await reading).equals(data)).toBe(true);
  await engine.close();
});
