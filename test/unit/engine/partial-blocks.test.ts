import { expect, it } from 'vitest';
import { EngineRig, read, request, write } from '../../lib/engine-rig.js';

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

it('never brings back what a large zero cleared, whenever between its parts a partial write is merged', async () => {
  const GiB = 1024 ** 3;
  for (let turns = 0; turns < 6; turns++) {
    const rig = new EngineRig(2);
    const engine = await rig.open();
    await engine.resize(65 * GiB);
    // A zero that crosses 64 GiB is logged in two parts; the write lies in the second one.
    const at = 64 * GiB + 8192;
    await write(engine, at, Buffer.alloc(4096, 0x11));
    const zero = request(engine, 'zero', 64 * GiB - (1 << 20), 2 << 20);
    for (let i = 0; i < turns; i++) await Promise.resolve();
    const partial = request(engine, 'write', at + 512, 512, Buffer.alloc(512, 0x22));
    expect(await Promise.all([zero, partial])).toEqual([null, null]);
    expect((await read(engine, at, 4096)).includes(0x11), `${turns} turns later`).toBe(false);
    await engine.close();
  }
});
