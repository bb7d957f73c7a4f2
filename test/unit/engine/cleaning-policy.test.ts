// Which segments are cleaned and when; and what that comes to, by simulation of a small volume with many small segments.

import { describe, expect, it } from 'vitest';
import { drawBlocks, type LoadName, loadBound, seededDraw } from '../../../bench/cleaning/loads.js';
import { simulateCleaning } from '../../../bench/cleaning/simulation.js';
import { GiB, MiB } from '../../../src/base/index.js';
import {
  chooseVictims,
  mostLive,
  movesFor,
  type SegmentState,
  uniformBound,
  urgencyOf,
} from '../../../src/engine/cleaning-policy.js';
import { CLEAN_LOW_MARK } from '../../../src/engine/limits.js';

const segment = (slot: number, liveShare: number, age: number, shared = false): SegmentState => ({
  slot,
  bytes: 8 * MiB,
  liveShare,
  age,
  shared,
});
const slots = (chosen: readonly SegmentState[]) => chosen.map(({ slot }) => slot);

describe('the choice of victims', () => {
  const pressed = urgencyOf(CLEAN_LOW_MARK + 32 * MiB, GiB);
  const short = urgencyOf(CLEAN_LOW_MARK - MiB, GiB);

  it('takes the emptier of two that die equally fast, and the slower of two that are equally empty', () => {
    const fast = segment(1, Math.exp(-1), 100 * MiB);
    const faster = segment(2, Math.exp(-1), 50 * MiB);
    const emptier = segment(3, Math.exp(-2), 200 * MiB);
    expect(slots(chooseVictims([faster, fast, emptier], pressed, 0.95, 64 * MiB))).toEqual([3, 1, 2]);
  });

  it('looks only at what is won when space is short, and never at what others hold or what is nearly full', () => {
    const young = segment(1, 0.3, MiB);
    const old = segment(2, 0.5, GiB);
    const held = segment(3, 0.1, GiB, true);
    const full = segment(4, 0.97, 100 * GiB);
    expect(slots(chooseVictims([old, young, held, full], pressed, 0.95, 64 * MiB))).toEqual([2, 1]);
    expect(slots(chooseVictims([old, young, held, full], short, 0.95, 64 * MiB))).toEqual([1, 2]);
  });

  it('stops at the budget, but takes one', () => {
    const all = [segment(1, 0.5, MiB), segment(2, 0.5, MiB), segment(3, 0.5, MiB)];
    expect(chooseVictims(all, pressed, 0.95, 9 * MiB)).toHaveLength(2);
    expect(chooseVictims(all, pressed, 0.95, 1)).toHaveLength(1);
  });

  it('moves nothing while there is room, and more the less there is', () => {
    const ease = urgencyOf(100 * GiB, GiB);
    expect([movesFor(MiB, ease), mostLive(ease, false), mostLive(ease, true)]).toEqual([0, 0, 0.5]);
    const rates = [64, 48, 32, 16, 0, -32].map((left) => movesFor(MiB, urgencyOf(CLEAN_LOW_MARK + left * MiB, 0)));
    expect(rates[0]).toBe(0);
    expect(rates).toEqual([...rates].sort((a, b) => a - b));
    expect(rates.at(-1)).toBeGreaterThan(4 * MiB);
    expect(short.short && !pressed.short).toBe(true);
  });
});

describe('write amplification', () => {
  it('of the bound: 1.25, 2.7 and 5.2 at 50, 80 and 90 %', () => {
    expect([0.5, 0.8, 0.9].map((full) => uniformBound(full).toFixed(2))).toEqual(['1.26', '2.69', '5.18']);
    expect(loadBound('zones 80/20', 0.8)).toBeCloseTo(2, 1);
  });

  // Small: a quarter of a GiB in segments of 128 KiB, reserve and marks in proportion to a pool of 20 GiB. Bounds are those of records alone.
  it.each<[LoadName, number, number, number]>([
    ['uniform', 0.5, 4, 1.4],
    ['uniform', 0.8, 4, 3.2],
    // The cold part takes long to come to its end state, which is the dearest.
    ['zones 80/20', 0.8, 8, 2.9],
  ])('of %s at %d', (load, full, rounds, most) => {
    const gib = 0.25;
    const pick = drawBlocks(load, (gib * GiB) / 4096, seededDraw(3));
    const { amplification, moved, checkpoints } = simulateCleaning({ gib, full, pick, rounds, scale: 64 });
    console.log(
      `${load} at ${full}: ${amplification.toFixed(2)}, moved ${moved.toFixed(2)}, checkpoints ${checkpoints.toFixed(2)}; bound ${loadBound(load, full).toFixed(2)}`,
    );
    expect(amplification).toBeLessThan(most);
    expect(amplification).toBeGreaterThan(loadBound(load, full));
  });
});
