// How many requests under way need the pages of a page number, every version of it. Counted in pieces of 2 GiB that go when nothing in
// them is pinned.

import { assert } from '../base/index.js';

/** Empty pieces are kept up to this many: the hot parts of a volume stay the same. */
const PIECES_KEPT = 64;

interface Piece {
  readonly counts: Uint32Array;
  total: number;
}

export class Pins {
  readonly #pieces = new Map<number, Piece>();
  #last: Piece | undefined;
  #lastIndex = -1;

  #piece(number: number): Piece | undefined {
    const index = number >>> 9;
    if (index !== this.#lastIndex) {
      this.#last = this.#pieces.get(index);
      this.#lastIndex = index;
    }
    return this.#last;
  }
  has(number: number): boolean {
    const piece = this.#piece(number);
    return piece !== undefined && piece.counts[number & 511] !== 0;
  }
  add(number: number): void {
    let piece = this.#piece(number);
    if (piece === undefined) {
      if (this.#pieces.size >= PIECES_KEPT)
        for (const [index, old] of this.#pieces) if (old.total === 0) this.#pieces.delete(index);
      piece = { counts: new Uint32Array(512), total: 0 };
      this.#pieces.set(number >>> 9, piece);
      this.#last = piece;
      this.#lastIndex = number >>> 9;
    }
    piece.counts[number & 511] = piece.counts[number & 511]! + 1;
    piece.total++;
  }
  remove(number: number): void {
    const piece = this.#piece(number);
    assert(piece !== undefined && piece.counts[number & 511]! > 0, 'a page is unpinned by who pinned it');
    piece.counts[number & 511] = piece.counts[number & 511]! - 1;
    piece.total--;
  }
}
