// Power cuts and crashes at random moments of random lives: everything flushed is there, the volume is a prefix of its write
// order, what was acknowledged survives when any in-sync replica kept its power. Segments and checkpoints are made small here,
// so that a short life has many of them; power-cut-full-size.test.ts runs with the real sizes.

import { expect, it, vi } from 'vitest';
import { runLives } from '../lib/crash/lives.js';

vi.mock('../../src/format/constants.js', async (original) => ({
  ...(await original<object>()),
  SEGMENT_SIZE_DEFAULT: 128 * 1024,
}));
// Zeroes are written ahead for every log here, however much it flushes at once.
vi.mock('../../src/segment/limits.js', async (original) => ({
  ...(await original<object>()),
  ZERO_FLUSH_BYTES: 8 * 1024 * 1024,
  ZERO_STEP: { first: 8 * 1024, most: 48 * 1024 },
}));
vi.mock('../../src/engine/limits.js', async (original) => ({
  ...(await original<object>()),
  TAIL_BYTES: 64 * 1024,
  COPY_CHUNK: 128 * 1024,
  CHECKPOINT_LOG_BYTES: 1024 * 1024,
  CHECKPOINT_DIRTY_PAGES: 24,
  CHECKPOINT_FRAME_MAX: 24 * 1024,
  // Space is always scarce: what is partly dead is cleaned at once, a few records a burst.
  CLEAN_LOW_MARK: 0,
  CLEAN_BAND: { least: 9.1e16, most: 9.1e16 },
  CLEAN_STEP_BYTES: 64 * 1024,
  CLEAN_IDLE_MS: 100,
  CLEAN_HELD_MIN: 64 * 1024,
  MOVE_BURST_BYTES: 48 * 1024,
  MOVE_BURST_LEAST: 4 * 1024,
  MOVE_BATCH_BYTES: 256 * 1024,
}));

const cuts = Number(process.env.HOLDFAST_CUTS ?? 240);
const seed = Number(process.env.HOLDFAST_SEED ?? 20);

it('holds every promise after crashes at any moment', async () => {
  const counts = await runLives({ seed, cuts, bytes: 5 * 1024 * 1024 });
  expect(counts.cuts).toBeGreaterThanOrEqual(cuts);
  expect(counts.power).toBeGreaterThanOrEqual(Math.min(20, cuts / 4));
  expect(counts.inRecovery).toBeGreaterThan(0);
  expect(counts.zeroes).toBeGreaterThan(10);
  expect(counts.moves).toBeGreaterThan(10);
});
