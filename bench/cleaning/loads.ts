// Which blocks are overwritten, and what the best cleaner could do with that.

import { uniformBound } from '../../src/engine/cleaning-policy.js';

export type LoadName = 'uniform' | 'zones 80/20' | 'self-similar 80/20';

/** Draws from [0, 1). */
export type Draw = () => number;

/** Seeded (mulberry32), so that a run can be repeated. */
export function seededDraw(seed: number): Draw {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A function that draws blocks of a volume of so many. Hot ones lie scattered. */
export function drawBlocks(load: LoadName, blocks: number, draw: Draw): () => number {
  // A permutation, as long as the volume is no multiple of the prime.
  const scattered = (rank: number) => (rank * 1_000_003) % blocks;
  const hot = Math.floor(blocks / 5);
  switch (load) {
    case 'uniform':
      return () => Math.floor(draw() * blocks);
    case 'zones 80/20':
      return () => scattered(draw() < 0.8 ? Math.floor(draw() * hot) : hot + Math.floor(draw() * (blocks - hot)));
    case 'self-similar 80/20': {
      const exponent = Math.log(0.2) / Math.log(0.8);
      return () => scattered(Math.floor(blocks * draw() ** exponent));
    }
  }
}

/**
 * Bytes written per client byte, records alone, by a cleaner that knows each block's rate from the start and keeps blocks of different
 * rates in different segments, the spare room divided among them at best.
 */
export function loadBound(load: LoadName, full: number): number {
  const classes = classesOf(load);
  const spare = classes.map(() => 1e-6);
  const cost = (i: number, room: number) => {
    const size = classes[i]!.size * full;
    return classes[i]!.writes * uniformBound(size / (size + room));
  };
  const step = (1 - full) / 2000;
  for (let given = 0; given < 2000; given++) {
    let best = 0;
    let most = Number.NEGATIVE_INFINITY;
    for (let i = 0; i < classes.length; i++) {
      const gain = cost(i, spare[i]!) - cost(i, spare[i]! + step);
      if (gain > most) {
        most = gain;
        best = i;
      }
    }
    spare[best]! += step;
  }
  return classes.reduce((sum, _, i) => sum + cost(i, spare[i]!), 0);
}

/** Shares of the blocks and of the writes that go to them. */
function classesOf(load: LoadName): { size: number; writes: number }[] {
  if (load === 'uniform') return [{ size: 1, writes: 1 }];
  if (load === 'zones 80/20')
    return [
      { size: 0.2, writes: 0.8 },
      { size: 0.8, writes: 0.2 },
    ];
  const exponent = Math.log(0.8) / Math.log(0.2);
  const edges = Array.from({ length: 31 }, (_, i) => (i === 0 ? 0 : 0.6 ** (30 - i)));
  return edges.slice(1).map((edge, i) => ({
    size: edge - edges[i]!,
    writes: edge ** exponent - edges[i]! ** exponent,
  }));
}
