// A disk can't read some sectors of a log: what they hold comes from another replica and is written back, whenever it is met.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { DiskRig } from '../../lib/disk-rig.js';
import { eventually, flush, read, write } from '../../lib/engine-rig.js';

type Node = DiskRig['nodes'][0];
const MiB = 1024 * 1024;

async function filled() {
  const rig = await DiskRig.make(2);
  const engine = await rig.open();
  const data = randomBytes(18 * MiB);
  for (let at = 0; at < data.length; at += MiB) await write(engine, at, data.subarray(at, at + MiB));
  await flush(engine);
  const [first, second] = rig.nodes as [Node, Node];
  const name = first.segmentFiles()[0]!;
  const path = `${first.directory}/${name}`;
  const healthy = () => {
    expect(rig.inSync.length).toBe(2);
    for (const node of rig.nodes) expect(node.disk.stat(`${node.directory}/failed`)).toBeUndefined();
    const whole = second.disk.contents(path);
    expect(first.disk.contents(path).equals(whole)).toBe(true);
    expect(first.disk.badBlocks(path)).toBe(0);
  };
  return { rig, engine, data, first, second, path, healthy };
}

/** A byte in some block of each kind: header, first frame, somewhere, the end. */
const places = (size: number) => [0, 4096, 4096 * 700 + 5, size - 1];

describe('sectors of one replica that can not be read', () => {
  it('are read from the other and mended, and no replica fails for them', async () => {
    const { engine, data, first, path, healthy } = await filled();
    for (let n = 4096; n < first.disk.contents(path).length; n += 4096 * 97) first.disk.breakBlock(path, n);
    for (let at = 0; at < data.length; at += MiB)
      expect((await read(engine, at, MiB)).equals(data.subarray(at, at + MiB))).toBe(true);
    await engine.scrub();
    healthy();
    await engine.close();
  }, 30_000);

  it('are found and mended by a pass over what lies at rest', async () => {
    const { engine, first, second, path, healthy } = await filled();
    for (const byte of places(first.disk.contents(path).length)) first.disk.breakBlock(path, byte);
    second.disk.breakBlock(path, 4096 * 300);
    const report = await engine.scrub();
    expect(report.damage).toEqual([]);
    expect(report.repairs).toBeGreaterThanOrEqual(3);
    healthy();
    await engine.close();
  }, 30_000);

  it('are not written over with bytes that nobody verified', async () => {
    const { engine, first, second, path } = await filled();
    const whole = first.disk.contents(path);
    const byte = 4096 * 300 + 2000;
    first.disk.breakBlock(path, byte);
    second.disk.flipBit(path, byte, 2);
    const report = await engine.scrub();
    expect(report.damage.length).toBeGreaterThan(0);
    // Its sectors may be read again one day.
    expect(first.disk.contents(path).equals(whole)).toBe(true);
    expect(first.disk.badBlocks(path)).toBe(1);
    expect(first.disk.stat(`${first.directory}/failed`)).toBeUndefined();
    await engine.close();
  }, 30_000);

  it.each([0, 1, 2, 3])(
    'do not keep it out at the next open, place %i',
    async (i) => {
      const { rig, engine, data, first, path, healthy } = await filled();
      await engine.close();
      first.disk.breakBlock(path, places(first.disk.contents(path).length)[i]!);
      for (const node of rig.nodes) await node.restart();
      const again = await rig.open();
      await eventually(() => rig.inSync.length === 2, 'it is back');
      for (let at = 0; at < data.length; at += MiB)
        expect((await read(again, at, MiB)).equals(data.subarray(at, at + MiB))).toBe(true);
      await again.scrub();
      healthy();
      await again.close();
    },
    60_000,
  );
});
