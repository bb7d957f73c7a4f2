// Moving a record: every entry of every version of its page that names the old place gets the new one, in the live volume and all
// snapshots alike. The versions are brought into memory first, and pinned; the change itself is made in one go when the log says so.
// These are the map's own functions, in a file of their own.

import { PAGE_ENTRIES, placeSlot } from '../format/index.js';
import type { BlockMap } from './block-map.js';
import type { MapPage } from './page-cache.js';

/** Ids of the pages of a number, newest first. */
export function versionsOf(map: BlockMap, number: number): number[] {
  const { table } = map;
  const ids: number[] = [];
  for (let id = table.head(number); id !== 0; id = table.older[id]!) if (table.isPage(id)) ids.push(id);
  return ids;
}

export function loadVersions(map: BlockMap, numbers: readonly number[], done: (error: Error | null) => void): void {
  map.pinNumbers(numbers);
  const ids: number[] = [];
  for (const number of numbers) for (const id of versionsOf(map, number)) ids.push(id);
  map.loadIds(ids, (error) => {
    if (error !== null) map.unpinNumbers(numbers);
    done(error);
  });
}

export function countAt(map: BlockMap, block: number, run: number, word0: number, word1: number): number {
  let count = 0;
  each(map, block, run, word0, word1, () => count++);
  return count;
}

export function move(
  map: BlockMap,
  block: number,
  run: number,
  from: readonly [number, number],
  to: readonly [number, number],
): number {
  const { counts } = map;
  let moved = 0;
  each(map, block, run, from[0], from[1], (page, index, i) => {
    map.changing(page);
    page.words[index * 2] = (to[0] + i * INDEX_STEP) >>> 0;
    page.words[index * 2 + 1] = to[1];
    if (page.based) page.mark(index);
    moved++;
  });
  if (moved > 0) {
    counts.addLive(placeSlot(to[0]), moved);
    counts.addLive(placeSlot(from[0]), -moved);
  }
  return moved;
}

/** Word 0 of the next block of a record. */
const INDEX_STEP = 0x100_0000;

/** Calls `fn` for each entry, of any version, of `run` blocks that are the record whose first block has these words. */
function each(
  map: BlockMap,
  block: number,
  run: number,
  word0: number,
  word1: number,
  fn: (page: MapPage, index: number, i: number) => void,
): void {
  let at = 0;
  while (at < run) {
    const number = Math.floor((block + at) / PAGE_ENTRIES);
    const to = Math.min(run, (number + 1) * PAGE_ENTRIES - block);
    for (const id of versionsOf(map, number)) {
      const page = map.resident(id);
      for (let i = at; i < to; i++) {
        const index = (block + i) % PAGE_ENTRIES;
        const { words } = page;
        if (words[index * 2 + 1] === word1 && words[index * 2] === (word0 + i * INDEX_STEP) >>> 0) fn(page, index, i);
      }
    }
    at = to;
  }
}
