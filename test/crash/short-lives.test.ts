// Every life of up to three steps with the power cut at every change of the disk, in every way. Here a share of them, drawn anew
// by HOLDFAST_SEED; `npm run power-cuts` takes all. Segments are made small, so that a step can begin several.

import { writeFileSync } from 'node:fs';
import { expect, it, vi } from 'vitest';
import { crashShortLife, livesOf, noStates, steps } from '../lib/crash/short-lives.js';
import { Chance } from '../lib/crash/virtual-time.js';

vi.mock('../../src/format/constants.js', async (original) => ({
  ...(await original<object>()),
  SEGMENT_SIZE_DEFAULT: 128 * 1024,
}));
// Zeroes are written ahead from the first flush on, and every clean close writes a checkpoint and seals.
vi.mock('../../src/segment/limits.js', async (original) => ({
  ...(await original<object>()),
  ZERO_FLUSH_BYTES: 8 * 1024 * 1024,
  ZERO_STEP: { first: 8 * 1024, most: 48 * 1024 },
}));
vi.mock('../../src/engine/limits.js', async (original) => ({ ...(await original<object>()), CLEAN_CLOSE_BYTES: 0 }));

const longest = 3;
const [share, of] = (process.env.HOLDFAST_LIVES ?? '').split('/').map(Number);
const all = share !== undefined && of !== undefined && of > 0;
const chance = new Chance(Number(process.env.HOLDFAST_SEED ?? 20));
const shape = { replicas: 1, sizeBytes: 16 * 1024 * 1024, compression: 'lz4', cipher: 'aes-256-gcm' } as const;

it('nothing flushed is lost by a power cut at any change of a short life', { timeout: 3_600_000 }, async () => {
  const counts = noStates();
  const lives = [...livesOf(longest)];
  const started = performance.now();
  for (const [i, life] of lives.entries()) {
    const chosen = all ? i % of === share : life.length === 1 || chance.hit(0.01);
    if (chosen) await crashShortLife({ ...shape, dataKey: Buffer.alloc(32, 7) }, life, counts);
  }
  if (process.env.HOLDFAST_COUNTS) writeFileSync(process.env.HOLDFAST_COUNTS, JSON.stringify(counts));
  const states = counts.power + counts.kills;
  process.stdout.write(
    `${counts.lives} of ${lives.length} lives of up to ${longest} steps of ${steps.length} kinds, crashed at ${counts.moments} changes: ${states} states recovered and checked ` +
      `(${counts.power} power cuts, ${counts.torn} of them with a torn write, and ${counts.kills} kills; ${counts.again} went on until another power cut; ${counts.same} more left the same disk as another), ` +
      `0 violations, ${((performance.now() - started) / 1000).toFixed(0)} s\n`,
  );
  expect(counts.lives).toBeGreaterThanOrEqual(all ? Math.floor(lives.length / of) : steps.length - 2);
  expect(states).toBeGreaterThan(counts.lives * 10);
});
