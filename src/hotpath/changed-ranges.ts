// What differs between two trees of the map: subtrees that both share are passed over whole, entries are compared only on
// pages that are not the same.

import { NODE_CHILDREN, PAGE_ENTRIES } from '../format/index.js';
import { BLOCKS_PER_NODE, type MapPage, type MapRoot } from './block-map.js';

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

/** Blocks from `fromBlock` on whose entries differ; without a base, those that target has mapped. */
export function changedRanges(
  target: MapRoot,
  base: MapRoot | undefined,
  fromBlock: number,
  limits: ChangedLimits,
): ChangedRanges {
  const ranges: [number, number][] = [];
  let pages = 0;
  const nodes = Math.max(target.nodes.length, base?.nodes.length ?? 0);
  for (let n = Math.floor(fromBlock / BLOCKS_PER_NODE); n < nodes; n++) {
    const node = target.nodes[n];
    const oldNode = base?.nodes[n];
    if (node === oldNode) continue;
    const firstPage = Math.max(0, Math.floor((fromBlock - n * BLOCKS_PER_NODE) / PAGE_ENTRIES));
    for (let p = firstPage; p < NODE_CHILDREN; p++) {
      const page = node?.pages[p];
      const oldPage = oldNode?.pages[p];
      if (page === oldPage) continue;
      const first = n * BLOCKS_PER_NODE + p * PAGE_ENTRIES;
      const from = Math.max(first, fromBlock);
      if (pages++ === limits.pages) return { ranges, nextBlock: from };
      const nextBlock = comparePages(page, oldPage, first, from, ranges, limits.ranges);
      if (nextBlock !== null) return { ranges, nextBlock };
    }
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
