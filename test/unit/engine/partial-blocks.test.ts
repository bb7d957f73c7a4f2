import { expect, it } from 'vitest';
import { EngineRig, read, request } from '../../lib/engine-rig.js';

it('merges a partial block with what a longer, unaligned write in flight puts under it', async () => {
  const rig = new EngineRig(1);
  const engine = await rig.open();
  const long = Buffer.alloc(3 * 4096 - 512, 1);
  const short = Buffer.alloc(512, 2);
  // Both are in flight at once and the second lies within a whole block of the first.
  const answers = [request(engine, 'write', 0, long.length, long), request(engine, 'write', 4096 + 512, 512, short)];
  expect(await Promise.all(answers)).toEqual([null, null]);
  const got = await read(engine, 0, 3 * 4096);
  const sectors = Array.from({ length: 24 }, (_, i) => got[i * 512]);
  // The sector that both wrote holds either; every other one that of its only writer.
  expect([1, 2]).toContain(sectors[9]);
  sectors[9] = 1;
  expect(sectors).toEqual([...new Array<number>(23).fill(1), 0]);
});
