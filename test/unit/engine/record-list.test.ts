import { describe, expect, it } from 'vitest';
import { NOT_READ, PieceList } from '../../../src/engine/record-list.js';

describe('pieces to be moved', () => {
  it('are ordered by heat, and within one heat as they came, however many there are', () => {
    const pieces = new PieceList();
    const heats = Array.from({ length: 5_000 }, (_, i) => (i * 7) % 16);
    for (const [i, heat] of heats.entries())
      pieces.addPiece(2 ** 34 + i, 1 + (i % 8), 2 ** 27 + i, 2 ** 31 + i, heat, i % 3 === 0);
    const order = [...pieces.byHeat()];
    expect(order).toEqual(heats.map((_, i) => i).sort((a, b) => heats[a]! - heats[b]! || a - b));
    for (const i of [0, 2047, 2048, 4999]) {
      const { blocks, runs, word0, word1, at } = pieces;
      expect([blocks[i], runs[i], word0[i], word1[i], at[i], pieces.isPart(i)]).toEqual([
        2 ** 34 + i,
        1 + (i % 8),
        2 ** 27 + i,
        2 ** 31 + i,
        NOT_READ,
        i % 3 === 0,
      ]);
    }
  });

  it('name every page of the map that they lie in', () => {
    const pieces = new PieceList();
    pieces.addPiece(1023, 1, 1, 1, 0, false);
    pieces.addPiece(1023, 2, 1, 1, 0, false);
    pieces.addPiece(2 ** 33 + 1020, 8, 1, 1, 0, false);
    expect([0, 1, 2].map((i) => [pieces.firstPage(i), pieces.lastPage(i)])).toEqual([
      [0, 0],
      [0, 1],
      [2 ** 23, 2 ** 23 + 1],
    ]);
  });
});
