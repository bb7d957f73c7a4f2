import { expect, it } from 'vitest';
import { FlushHabit } from '../../../src/engine/flush-habit.js';

it('expects a flush after frames once flushes have come so a few times', () => {
  const habit = new FlushHabit();
  expect(habit.expected(1)).toBe(false);
  for (const seq of [1, 2, 3]) habit.flushed(seq);
  // Nothing new in it: that is no further sign.
  habit.flushed(3);
  expect(habit.expected(4)).toBe(false);
  habit.flushed(4);
  expect(habit.expected(5)).toBe(true);
});

it('gives it up when many frames come without one, until flushes come so again', () => {
  const habit = new FlushHabit();
  for (const seq of [1, 2, 3, 4]) habit.flushed(seq);
  expect([5, 12, 13].map((seq) => habit.expected(seq))).toEqual([true, true, false]);
  habit.flushed(14);
  expect(habit.expected(15)).toBe(false);
  for (const seq of [15, 16, 17, 18]) habit.flushed(seq);
  expect(habit.expected(19)).toBe(true);
});
