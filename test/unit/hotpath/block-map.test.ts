import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type GroupId, type SnapshotId, zeroUuid } from '../../../src/base/index.js';
import { placeSlot, placeWord0, placeWord1 } from '../../../src/format/index.js';
import {
  BlockMap,
  type ChangedLimits,
  type ChangedRanges,
  changedRanges,
  type MapPage,
  type MapRoot,
  pagesOf,
} from '../../../src/hotpath/index.js';

// A naive model: an array of places for the live volume and one copy of it for each snapshot.
const BLOCKS = 6000;
const group = zeroUuid as GroupId;

type Op =
  | { op: 'write'; block: number; run: number; slot: number }
  | { op: 'clear'; block: number; count: number }
  | { op: 'freeze'; id: number }
  | { op: 'delete'; id: number };

const opArbitrary: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      block: fc.nat(BLOCKS - 9),
      run: fc.integer({ min: 1, max: 8 }),
      slot: fc.integer({ min: 1, max: 6 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      op: fc.constant('clear' as const),
      block: fc.nat(BLOCKS - 1),
      count: fc.integer({ min: 1, max: 3000 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('freeze' as const), id: fc.nat(5) }) },
  { weight: 2, arbitrary: fc.record({ op: fc.constant('delete' as const), id: fc.nat(5) }) },
);

function read(map: BlockMap, root: MapRoot): string[] {
  return Array.from({ length: BLOCKS }, (_, block) => {
    const page = map.page(block, root);
    const at = (block % 1024) * 2;
    return page === undefined || page.words[at + 1] === 0 ? '' : `${page.words[at]}/${page.words[at + 1]}`;
  });
}

function referencesByCounting(map: BlockMap): Map<number, number> {
  const pages = new Set<MapPage>();
  for (const root of [map.root, ...[...map.snapshots].map((snapshot) => snapshot.root)])
    for (const page of pagesOf(root)) pages.add(page);
  const counts = new Map<number, number>();
  for (const page of pages) {
    for (let at = 0; at < page.words.length; at += 2) {
      if (page.words[at + 1] !== 0)
        counts.set(placeSlot(page.words[at]!), (counts.get(placeSlot(page.words[at]!)) ?? 0) + 1);
    }
  }
  return counts;
}

function run(ops: readonly Op[]): void {
  const map = new BlockMap(BLOCKS * 4096);
  let live: string[] = new Array(BLOCKS).fill('');
  const snapshots = new Map<number, string[]>();
  let offset = 64;
  for (const op of ops) {
    if (op.op === 'write') {
      offset = (offset % 1_000_000) + 64;
      const [word0, word1] = [placeWord0(op.slot, 0), placeWord1(Math.ceil(offset / 64) * 64, 128)];
      map.setRun(op.block, op.run, word0, word1);
      for (let i = 0; i < op.run; i++) live[op.block + i] = `${placeWord0(op.slot, i)}/${word1}`;
    } else if (op.op === 'clear') {
      const count = Math.min(op.count, BLOCKS - op.block);
      map.clearRange(op.block, count);
      live.fill('', op.block, op.block + count);
    } else if (op.op === 'freeze') {
      if (!snapshots.has(op.id)) snapshots.set(op.id, live);
      live = [...live];
      map.freeze(`${op.id}` as SnapshotId, group, 0, 0);
    } else {
      expect(map.deleteSnapshot(`${op.id}` as SnapshotId)).toBe(snapshots.delete(op.id));
    }
  }
  expect(read(map, map.root)).toEqual(live);
  expect(map.allocatedBlocks).toBe(live.filter((place) => place !== '').length);
  for (const [id, expected] of snapshots) {
    const snapshot = map.snapshot(`${id}` as SnapshotId)!;
    expect(read(map, snapshot.root)).toEqual(expected);
    const changed = new Set<number>();
    const found = changedRanges(map.root, snapshot.root, 0, ALL);
    expect(found.nextBlock).toBeNull();
    for (const [block, count] of found.ranges) for (let i = 0; i < count; i++) changed.add(block + i);
    expect(inParts(map.root, snapshot.root, { ranges: 2, pages: 10 })).toEqual(found.ranges);
    expect(inParts(map.root, snapshot.root, { ranges: 10, pages: 1 })).toEqual(found.ranges);
    const differing = live.flatMap((place, block) => (place === expected[block] ? [] : [block]));
    expect([...changed]).toEqual(differing);
  }
  const counts = referencesByCounting(map);
  for (let slot = 1; slot <= 6; slot++) expect(map.references(slot), `slot ${slot}`).toBe(counts.get(slot) ?? 0);
}

const ALL = { ranges: 1_000_000, pages: 1_000_000 };

/** The ranges of answers with tight limits, put together as a caller does. */
function inParts(target: MapRoot, base: MapRoot, limits: ChangedLimits): [number, number][] {
  const all: [number, number][] = [];
  for (let from: number | null = 0; from !== null; ) {
    const { ranges, nextBlock }: ChangedRanges = changedRanges(target, base, from, limits);
    expect(ranges.length).toBeLessThanOrEqual(limits.ranges);
    if (nextBlock !== null) expect(nextBlock).toBeGreaterThan(from);
    for (const [block, count] of ranges) {
      const last = all.at(-1);
      if (last !== undefined && last[0] + last[1] === block) last[1] += count;
      else all.push([block, count]);
    }
    from = nextBlock;
  }
  return all;
}

describe('block map', () => {
  it('agrees with a naive model: contents, snapshots, differences, references', () => {
    fc.assert(fc.property(fc.array(opArbitrary, { maxLength: 60 }), run), { numRuns: 60 });
  });

  it('freezes in the same time whatever is mapped, and copies only what changes', () => {
    const map = new BlockMap(1024 ** 4);
    for (let i = 0; i < 300; i++) map.setRun(i * 1024, 1, placeWord0(1, 0), placeWord1(4096, 64));
    const before = map.nextId;
    map.freeze('a' as SnapshotId, group, 1, 0);
    expect(map.nextId).toBe(before);
    map.setRun(0, 1, placeWord0(2, 0), placeWord1(4096, 64));
    // root, node and page
    expect(map.nextId).toBe(before + 3);
  });

  it('lists changes from a starting block on', () => {
    const map = new BlockMap(1024 ** 3);
    for (const block of [1, 2, 3, 5000, 5002, 9000]) map.setRun(block, 1, placeWord0(1, 0), placeWord1(4096, 64));
    expect(changedRanges(map.root, undefined, 0, ALL).ranges).toEqual([
      [1, 3],
      [5000, 1],
      [5002, 1],
      [9000, 1],
    ]);
    expect(changedRanges(map.root, undefined, 2, ALL).ranges).toEqual([
      [2, 2],
      [5000, 1],
      [5002, 1],
      [9000, 1],
    ]);
    expect(changedRanges(map.root, undefined, 5001, ALL).ranges).toEqual([
      [5002, 1],
      [9000, 1],
    ]);
  });
});
