// What differs between two snapshots: page numbers of which both see the same version are passed over, entries are compared only
// on versions that are not the same.

import { notFound } from '../base/index.js';
import { PAGE_ENTRIES } from '../format/index.js';
import type { BlockMap } from './block-map.js';
import type { MapPage } from './page-cache.js';
import type { MapSnapshot } from './snapshot-list.js';

/** Bounds of one look, so that it neither holds its thread nor answers at length; each at least 1. */
export interface ChangedLimits {
  readonly ranges: number;
  /** Pairs of pages compared. */
  readonly pages: number;
}

export interface ChangedRanges {
  /** [block, count], ascending, with a gap between any two. */
  readonly ranges: readonly (readonly [number, number])[];
  /** Everything below was looked at, nothing from here on; null when nothing is left. */
  readonly nextBlock: number | null;
}

/** Page numbers looked at for one answer, most of them without reading anything: some milliseconds at most. */
const NUMBERS = 128 * 1024;

/**
 * Blocks from `fromBlock` on whose entries differ; without a base, those that target has mapped. Pages that are not in memory are
 * read; rejects when one can't be, and with NOT_FOUND when a snapshot is deleted meanwhile.
 */
export async function changedRanges(
  map: BlockMap,
  target: MapSnapshot,
  base: MapSnapshot | undefined,
  fromBlock: number,
  limits: ChangedLimits,
): Promise<ChangedRanges> {
  const ranges: [number, number][] = [];
  let pages = 0;
  const first = Math.floor(fromBlock / PAGE_ENTRIES);
  for (let number = first; number < map.table.numbers; number++) {
    const id = map.seenBy(target, number);
    const oldId = base === undefined ? 0 : map.seenBy(base, number);
    const from = Math.max(number * PAGE_ENTRIES, fromBlock);
    if (number - first === NUMBERS) return { ranges, nextBlock: from };
    if (id === oldId) continue;
    if (pages++ === limits.pages) return { ranges, nextBlock: from };
    const nextBlock = await new Promise<number | null>((resolve, reject) => {
      map.loadIds(
        [id, oldId].filter((wanted) => wanted !== 0),
        (error) => {
          const gone = [target, base].find((one) => one !== undefined && map.snapshot(one.snapshotId) !== one);
          if (gone !== undefined) return reject(notFound(`snapshot ${gone.snapshotId} was deleted meanwhile`));
          if (error !== null) return reject(error);
          const page = id === 0 ? undefined : map.resident(id);
          const oldPage = oldId === 0 ? undefined : map.resident(oldId);
          resolve(comparePages(page, oldPage, number * PAGE_ENTRIES, from, ranges, limits.ranges));
        },
      );
    });
    if (nextBlock !== null) return { ranges, nextBlock };
  }
  return { ranges, nextBlock: null };
}

/** Adds to `ranges` what differs from block `from` on; the block of the first range for which there is no room, or null. */
function comparePages(
  page: MapPage | undefined,
  oldPage: MapPage | undefined,
  first: number,
  from: number,
  ranges: [number, number][],
  rangesMax: number,
): number | null {
  const words = page?.words;
  const oldWords = oldPage?.words;
  let last = ranges.at(-1);
  for (let block = from; block < first + PAGE_ENTRIES; block++) {
    const at = (block - first) * 2;
    const same = (words?.[at] ?? 0) === (oldWords?.[at] ?? 0) && (words?.[at + 1] ?? 0) === (oldWords?.[at + 1] ?? 0);
    if (same) continue;
    if (last !== undefined && last[0] + last[1] === block) {
      last[1]++;
      continue;
    }
    if (ranges.length === rangesMax) return block;
    last = [block, 1];
    ranges.push(last);
  }
  return null;
}
