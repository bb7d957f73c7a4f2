// Moving a record: every entry of every version of its page that names the old place gets the new one, in the live volume and all
// snapshots alike. The versions are brought into memory first, and pinned; the change itself is made in one go when the log says so.
// These are the map's own functions, in a file of their own.

import { PAGE_ENTRIES, placeSlot } from '../format/index.js';
import type { BlockMap } from './block-map.js';

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

/** Which of the `run` blocks that are the record whose first block has these words any version still has there: bit i, block i. */
export function liveBlocks(map: BlockMap, block: number, run: number, word0: number, word1: number): number {
  const { table } = map;
  let live = 0;
  for (let from = 0; from < run; ) {
    const number = Math.floor((block + from) / PAGE_ENTRIES);
    const to = Math.min(run, (number + 1) * PAGE_ENTRIES - block);
    for (let id = table.head(number); id !== 0; id = table.older[id]!) {
      if (!table.isPage(id)) continue;
      const { words } = map.resident(id);
      for (let i = from; i < to; i++) if (isAt(words, block + i, word0 + i * INDEX_STEP, word1)) live |= 1 << i;
    }
    from = to;
  }
  return live;
}

export function move(
  map: BlockMap,
  block: number,
  run: number,
  from: readonly [number, number],
  to: readonly [number, number],
): number {
  const { counts, table } = map;
  let moved = 0;
  for (let first = 0; first < run; ) {
    const number = Math.floor((block + first) / PAGE_ENTRIES);
    const end = Math.min(run, (number + 1) * PAGE_ENTRIES - block);
    for (let id = table.head(number); id !== 0; id = table.older[id]!) {
      if (!table.isPage(id)) continue;
      const page = map.resident(id);
      for (let i = first; i < end; i++) {
        if (!isAt(page.words, block + i, from[0] + i * INDEX_STEP, from[1])) continue;
        // What a checkpoint under way has still to write of it keeps its words, and the page goes on with others.
        map.changing(page);
        const index = (block + i) % PAGE_ENTRIES;
        page.words[index * 2] = (to[0] + i * INDEX_STEP) >>> 0;
        page.words[index * 2 + 1] = to[1];
        if (page.based) page.mark(index);
        moved++;
      }
    }
    first = end;
  }
  if (moved > 0) {
    counts.addLive(placeSlot(to[0]), moved);
    counts.addLive(placeSlot(from[0]), -moved);
  }
  return moved;
}

/** Word 0 of the next block of a record. */
const INDEX_STEP = 0x100_0000;

function isAt(words: Uint32Array, block: number, word0: number, word1: number): boolean {
  const at = (block % PAGE_ENTRIES) * 2;
  return words[at + 1] === word1 && words[at] === word0 >>> 0;
}
