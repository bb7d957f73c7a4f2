// With and without, in turns: what something that goes on in the background takes from the foreground.

import { short, spreadOf } from '../statistics.js';

export interface Pair<T = number> {
  readonly without: T;
  readonly with: T;
}

/** Measures both `pairs` times, the order turned each time. */
export async function measurePairs<T>(
  pairs: number,
  without: () => Promise<T>,
  withIt: () => Promise<T>,
): Promise<Pair<T>[]> {
  const results: Pair<T>[] = [];
  for (let i = 0; i < pairs; i++) {
    if (i % 2 === 0) {
      const base = await without();
      results.push({ without: base, with: await withIt() });
    } else {
      const loaded = await withIt();
      results.push({ without: await without(), with: loaded });
    }
  }
  return results;
}

/** One figure of both sides. */
export function pairsOf<T>(pairs: readonly Pair<T>[], pick: (side: T) => number): Pair[] {
  return pairs.map((pair) => ({ without: pick(pair.without), with: pick(pair.with) }));
}

/** Fractions lost, pair by pair; negative where it was faster with it. */
export function losses(pairs: readonly Pair[]): number[] {
  return pairs.map((pair) => 1 - pair.with / pair.without);
}

/** "41.2k : 45.0k", medians with it and without. */
export function writePairs(pairs: readonly Pair[]): string {
  const middle = (values: readonly number[]) => short(spreadOf(values)?.median ?? 0);
  return `${middle(pairs.map((pair) => pair.with))} : ${middle(pairs.map((pair) => pair.without))}`;
}
