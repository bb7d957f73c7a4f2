// Where the chunks of a checkpoint's lists lie: the map's table, the segment list, the snapshot list. A chunk that did not change stays
// where an earlier checkpoint put it, so each place counts as a reference of its segment. Owner: the checkpointer.

import { type Place, placeSlot } from '../format/index.js';
import type { BlockMap } from '../hotpath/index.js';

export class ChunkPlaces {
  readonly #map: BlockMap;
  readonly #places: Place[] = [];

  constructor(map: BlockMap, places: readonly Place[]) {
    this.#map = map;
    for (const place of places) {
      this.#places.push(place);
      if (place[1] !== 0) map.counts.addPlaces(placeSlot(place[0]), 1);
    }
  }

  /** By chunk number; [0, 0] for one with nothing in it. */
  get all(): readonly Place[] {
    return this.#places;
  }

  /** The chunk lies there from now on, or, when null, has nothing in it. The slot of its former place goes to `superseded`. */
  set(chunk: number, place: Place | null, superseded: number[]): void {
    while (this.#places.length <= chunk) this.#places.push([0, 0]);
    const old = this.#places[chunk]!;
    if (old[1] !== 0) superseded.push(placeSlot(old[0]));
    this.#places[chunk] = place ?? [0, 0];
    if (place !== null) this.#map.counts.addPlaces(placeSlot(place[0]), 1);
  }

  /** Chunks that lie in a segment slot. */
  in(slot: number): number[] {
    return this.#places.flatMap((place, chunk) => (place[1] !== 0 && placeSlot(place[0]) === slot ? [chunk] : []));
  }
}
