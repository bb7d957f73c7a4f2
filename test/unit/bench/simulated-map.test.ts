// The simulation of the cleaner says what the engine's checkpoints would write: the same blocks changed in a real map must come to the same bytes.

import { expect, it } from 'vitest';
import { seededDraw } from '../../../bench/cleaning/loads.js';
import { SimulatedMap } from '../../../bench/cleaning/simulated-map.js';
import { BLOCK_SIZE, MiB } from '../../../src/base/index.js';
import { encodeDelta, encodePage, PAGE_ENTRIES, placeWord0, placeWord1 } from '../../../src/format/index.js';
import { BlockMap, deltaPays, PageCache } from '../../../src/hotpath/index.js';

const BLOCKS = 64 * PAGE_ENTRIES;
const noChanges = new Uint32Array(PAGE_ENTRIES / 32);

/** What a checkpoint of the map writes of pages, as checkpoint-writer.ts does. */
function written(map: BlockMap): { whole: number; deltas: number } {
  const bytes = { whole: 0, deltas: 0 };
  for (const cut of map.cut().pages) {
    const spent = deltaPays(cut);
    const { id, number } = cut.page;
    if (spent > 0) bytes.deltas += encodeDelta(id, number, cut.words, cut.changed ?? noChanges, spent).length;
    else bytes.whole += encodePage(id, number, cut.words).length;
    map.wrote(cut, [placeWord0(9, 0), placeWord1(64, 64)], spent > 0, spent, []);
  }
  map.settled();
  return bytes;
}

it.each([20, 300, 5_000])('writes what the engine does for %d changes between two checkpoints', (changes) => {
  const draw = seededDraw(changes);
  const map = new BlockMap(BLOCKS * BLOCK_SIZE, new PageCache(16 * MiB));
  const simulated = new SimulatedMap(BLOCKS, 16, 1);
  const kinds = { whole: 0, deltas: 0 };
  for (let round = 0; round < 60; round++) {
    for (let i = 0; i < changes; i++) {
      const block = Math.floor(draw() * BLOCKS);
      map.setRun(block, 1, placeWord0(1 + (round % 8), 0), placeWord1(64 * (1 + i), 4160));
      simulated.touch(block);
    }
    const { whole, deltas } = simulated.checkpoint(8, () => 3);
    expect({ round, whole, deltas }).toEqual({ round, ...written(map) });
    kinds.whole += whole;
    kinds.deltas += deltas;
  }
  expect(Math.min(kinds.whole, kinds.deltas)).toBeGreaterThan(0);
});

it('holds a segment until two checkpoints came that no longer name what lies there', () => {
  const simulated = new SimulatedMap(BLOCKS, 16, 1);
  const checkpoint = (segment: number) => simulated.checkpoint(8, () => segment);
  simulated.touch(5);
  checkpoint(1);
  expect(simulated.pieces(1)).toBe(2);
  // The page's base stays there; the lists are named by the checkpoint before the newest, then by none.
  checkpoint(2);
  expect(simulated.pieces(1)).toBe(2);
  checkpoint(3);
  expect(simulated.pieces(1)).toBe(1);
  simulated.evacuate(1);
  checkpoint(4);
  expect(simulated.pieces(1)).toBe(1);
  checkpoint(5);
  expect(simulated.pieces(1)).toBe(0);
});
