// Choices that a seed repeats.

import { seededRandom } from '../lib/load/contents.js';

export class Chance {
  readonly #next: () => number;

  constructor(seed: number) {
    this.#next = seededRandom(seed);
    // The first numbers of neighbouring seeds are alike.
    for (let i = 0; i < 8; i++) this.#next();
  }

  hit(share: number): boolean {
    return this.#next() < share;
  }

  /** From `from` up to `to`, a whole number. */
  between(from: number, to: number): number {
    return Math.floor(from + this.#next() * (to - from));
  }

  pick<T>(list: readonly T[]): T {
    return list[Math.floor(this.#next() * list.length)]!;
  }

  weighted<T extends { readonly weight: number }>(list: readonly T[]): T {
    let at = this.#next() * list.reduce((sum, { weight }) => sum + weight, 0);
    for (const one of list) {
      at -= one.weight;
      if (at < 0) return one;
    }
    return list[0]!;
  }
}
