// The same crashes as power-cut.test.ts with the sizes of segments, checkpoints and memory that the product has.

import { expect, it } from 'vitest';
import { runLives } from '../lib/crash/lives.js';

const cuts = Math.ceil(Number(process.env.HOLDFAST_CUTS ?? 240) / 12);
const seed = Number(process.env.HOLDFAST_SEED ?? 20) + 1_000_000;

it('holds every promise after crashes at any moment, at full size', async () => {
  const counts = await runLives({ seed, cuts, bytes: 20 * 1024 * 1024 });
  expect(counts.cuts).toBeGreaterThanOrEqual(cuts);
  expect(counts.power).toBeGreaterThan(0);
});
