// With and without, in turns: what something that goes on in the background takes from the foreground.

import { short } from '../statistics.js';

export interface Pair {
  readonly without: number;
  readonly with: number;
}

/** Measures both `pairs` times, the order turned each time. */
export async function measurePairs(
  pairs: number,
  without: () => Promise<number>,
  withIt: () => Promise<number>,
): Promise<Pair[]> {
  const results: Pair[] = [];
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

/** Fractions lost, pair by pair; negative where it was faster with it. */
export function losses(pairs: readonly Pair[]): number[] {
  return pairs.map((pair) => 1 - pair.with / pair.without);
}

/** "41.2k/s : 45.0k/s", the last pair's. */
export function writePair(pair: Pair | undefined): string {
  return pair === undefined ? '' : `${short(pair.with)}/s : ${short(pair.without)}/s`;
}
