import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { type GroupId, type SnapshotId, zeroUuid } from '../../../src/base/index.js';
import { placeSlot, placeWord0, placeWord1 } from '../../../src/format/index.js';
import { type BlockMap, changedRanges, type MapSnapshot, PageCache } from '../../../src/hotpath/index.js';
import { MAP_SLOTS, MapLog, type Running } from '../../lib/map-log.js';

// A naive model: an array of places for the live volume and one copy of it for each snapshot. The map under test has memory for
// three pages, is checkpointed a page at a time while it changes, and is opened anew from the last whole checkpoint.
const BLOCKS = 6000;
const SLOTS = 7;
const group = zeroUuid as GroupId;
const everything = { ranges: 1e9, pages: 1e9 };

type Op =
  | { op: 'write'; block: number; run: number; slot: number }
  | { op: 'clear'; block: number; count: number }
  | { op: 'freeze'; id: number }
  | { op: 'delete'; id: number }
  | { op: 'move'; pick: number; slot: number }
  | { op: 'sweep' }
  | { op: 'begin' }
  | { op: 'step' }
  | { op: 'finish' }
  | { op: 'reopen' }
  | { op: 'clone'; id: number };

const slot = fc.integer({ min: 1, max: 6 });
const snapshotNumber = fc.nat(5);
const opArbitrary: fc.Arbitrary<Op> = fc.oneof(
  {
    weight: 24,
    arbitrary: fc.record({
      op: fc.constant('write' as const),
      // Few places are written often, so that pages stay alike and deltas come about.
      block: fc.oneof(fc.nat(BLOCKS - 9), fc.nat(40), fc.constantFrom(1020, 1024, 3000, 5119)),
      run: fc.integer({ min: 1, max: 8 }),
      slot,
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      op: fc.constant('clear' as const),
      block: fc.oneof(fc.nat(BLOCKS - 1), fc.constantFrom(0, 1024, 2048)),
      count: fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.integer({ min: 1, max: 8 }), fc.constantFrom(1024, 2048)),
    }),
  },
  { weight: 9, arbitrary: fc.record({ op: fc.constant('freeze' as const), id: snapshotNumber }) },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('delete' as const), id: snapshotNumber }) },
  { weight: 6, arbitrary: fc.record({ op: fc.constant('move' as const), pick: fc.nat(1000), slot }) },
  { weight: 3, arbitrary: fc.constant({ op: 'sweep' as const }) },
  { weight: 12, arbitrary: fc.constant({ op: 'begin' as const }) },
  { weight: 9, arbitrary: fc.constant({ op: 'step' as const }) },
  { weight: 8, arbitrary: fc.constant({ op: 'finish' as const }) },
  { weight: 6, arbitrary: fc.constant({ op: 'reopen' as const }) },
  { weight: 1, arbitrary: fc.record({ op: fc.constant('clone' as const), id: snapshotNumber }) },
);

interface Written {
  readonly block: number;
  readonly run: number;
  word0: number;
  word1: number;
}

const entry = (word0: number, i: number, word1: number) => `${(word0 | (i << 24)) >>> 0}/${word1}`;
const idOf = (id: number) => `${id}` as SnapshotId;

class Rig {
  readonly cache = new PageCache(3 * 9000);
  readonly log = new MapLog();
  map: BlockMap;
  running: Running | null = null;
  live: string[] = new Array(BLOCKS).fill('');
  snapshots = new Map<number, string[]>();
  /** What a log would replay over the last whole checkpoint, and over the one under way. */
  journal: ((map: BlockMap) => void)[] = [];
  #sinceBegin = 0;
  readonly #written: Written[] = [];
  #offset = 0;

  constructor() {
    this.map = this.log.reopen(BLOCKS * 4096, this.cache);
  }

  apply(change: (map: BlockMap) => void): void {
    this.journal.push(change);
    change(this.map);
  }

  do(op: Op): void {
    switch (op.op) {
      case 'write':
        return this.#write(op.block, op.run, op.slot);
      case 'clear': {
        const count = Math.min(op.count, BLOCKS - op.block);
        this.live.fill('', op.block, op.block + count);
        return this.apply((map) => {
          loaded(
            (done) => map.loadEnds(op.block, count, done),
            () => map.clearRange(op.block, count),
          );
        });
      }
      case 'freeze':
        if (!this.snapshots.has(op.id)) this.snapshots.set(op.id, [...this.live]);
        return this.apply((map) => void map.freeze(idOf(op.id), group, 0, 0));
      case 'delete': {
        const known = this.snapshots.delete(op.id);
        return this.apply((map) => expect(map.deleteSnapshot(idOf(op.id))).toBe(known));
      }
      case 'move':
        return this.#move(op.pick, op.slot);
      case 'sweep':
        return void this.map.sweep(() => {});
      case 'begin':
        if (this.running !== null) return;
        this.running = this.log.begin(this.map);
        this.#sinceBegin = this.journal.length;
        return;
      case 'step':
        if (this.running !== null) this.log.step(this.map, this.running);
        return;
      case 'finish':
        if (this.running === null) return;
        this.log.finish(this.map, this.running);
        this.running = null;
        this.journal = this.journal.slice(this.#sinceBegin);
        return;
      case 'reopen':
        return this.reopen();
      case 'clone': {
        const source = this.snapshots.get(op.id);
        if (source === undefined) return;
        this.live = [...source];
        this.snapshots = new Map();
        return this.apply((map) => map.startFrom(idOf(op.id)));
      }
    }
  }

  #write(block: number, run: number, into: number): void {
    this.#offset = (this.#offset % 1_000_000) + 1;
    const [word0, word1] = [placeWord0(into, 0), placeWord1(this.#offset * 64, 128)];
    for (let i = 0; i < run; i++) this.live[block + i] = entry(word0, i, word1);
    this.#written.push({ block, run, word0, word1 });
    this.apply((map) => {
      loaded(
        (done) => map.load(block, run, done),
        () => map.setRun(block, run, word0, word1),
      );
      map.stored(into, 1, run);
    });
  }

  #move(pick: number, into: number): void {
    const record = this.#written[pick % Math.max(1, this.#written.length)];
    if (record === undefined) return;
    const { block, run, word0, word1 } = record;
    this.#offset = (this.#offset % 1_000_000) + 1;
    const to = [placeWord0(into, 0), placeWord1(this.#offset * 64, 128)] as const;
    const expected = new Set<number>();
    for (const contents of [this.live, ...this.snapshots.values()])
      for (let i = 0; i < run; i++)
        if (contents[block + i] === entry(word0, i, word1)) {
          contents[block + i] = entry(to[0], i, to[1]);
          expected.add(i);
        }
    Object.assign(record, { word0: to[0], word1: to[1] });
    this.apply((map) => {
      const numbers = [...new Set([Math.floor(block / 1024), Math.floor((block + run - 1) / 1024)])];
      loaded((done) => map.loadVersions(numbers, done));
      const live = map.liveBlocks(block, run, word0, word1);
      expect(live).toBe([...expected].reduce((bits, i) => bits | (1 << i), 0));
      expect(map.move(block, run, word0, word1, to[0], to[1])).toBeGreaterThanOrEqual(expected.size);
      expect(map.liveBlocks(block, run, word0, word1)).toBe(0);
      map.unpinVersions(numbers);
    });
  }

  /** A crash: what was not in the last whole checkpoint comes back from the journal. */
  reopen(): void {
    this.map.close();
    this.running = null;
    this.map = this.log.reopen(BLOCKS * 4096, this.cache);
    for (const change of this.journal) change(this.map);
  }
}

/** Pages are sure to be there only in the callback, unless they are pinned. */
function loaded(load: (done: (error: Error | null) => void) => void, then: () => void = () => {}): void {
  let failure: Error | null = new Error('the load did not end at once');
  load((error) => {
    failure = error;
    if (error === null) then();
  });
  if (failure !== null) throw failure;
}

function words(map: BlockMap, id: number): Uint32Array {
  let found = new Uint32Array();
  loaded((done) =>
    map.loadIds([id], (error) => {
      if (error === null) found = map.resident(id).words.slice();
      done(error);
    }),
  );
  return found;
}

function contents(map: BlockMap, seen: (number: number) => number): string[] {
  const result: string[] = new Array(BLOCKS).fill('');
  for (let number = 0; number * 1024 < BLOCKS; number++) {
    const id = seen(number);
    if (id === 0 || !map.table.isPage(id)) continue;
    const page = words(map, id);
    for (let i = 0; i < 1024 && number * 1024 + i < BLOCKS; i++)
      if (page[i * 2 + 1] !== 0) result[number * 1024 + i] = `${page[i * 2]}/${page[i * 2 + 1]}`;
  }
  return result;
}

/** Live entries by slot, from nothing. */
function recount(map: BlockMap): number[] {
  const counts: number[] = new Array(SLOTS + 1).fill(0);
  for (let number = 0; number < map.table.numbers; number++)
    for (let id = map.table.head(number); id !== 0; id = map.table.older[id]!) {
      if (!map.table.isPage(id)) continue;
      const page = words(map, id);
      let entries = 0;
      for (let at = 0; at < page.length; at += 2) {
        if (page[at + 1] === 0) continue;
        counts[placeSlot(page[at]!)]!++;
        entries++;
      }
      expect(entries, 'a page that maps nothing is no page').toBeGreaterThan(0);
    }
  return counts;
}

async function check(rig: Rig): Promise<void> {
  const { map, live, snapshots } = rig;
  expect(contents(map, (number) => map.table.head(number))).toEqual(live);
  expect(map.allocatedBlocks).toBe(live.filter((place) => place !== '').length);
  expect(map.snapshots.map((one) => one.snapshotId)).toEqual([...snapshots.keys()].map(idOf));
  let before: [MapSnapshot, string[]] | undefined;
  for (const [id, expected] of snapshots) {
    const snapshot = map.snapshot(idOf(id))!;
    expect(contents(map, (number) => map.seenBy(snapshot, number))).toEqual(expected);
    const { ranges } = await changedRanges(map, snapshot, before?.[0], 0, everything);
    const changed = ranges.flatMap(([block, count]) => Array.from({ length: count }, (_, i) => block + i));
    const old = before?.[1];
    expect(changed).toEqual(expected.flatMap((place, block) => (place === (old?.[block] ?? '') ? [] : [block])));
    before = [snapshot, expected];
  }
  while (map.sweepsLeft > 0) loaded((done) => map.sweep(done));
  const counts = recount(map);
  for (let of = 1; of <= SLOTS; of++) expect(map.slotLive(of), `slot ${of}`).toBe(counts[of]);
}

function checkPlaces(rig: Rig): void {
  const { map, log } = rig;
  log.checkpoint(map);
  log.checkpoint(map);
  const { table } = map;
  const counts = new Map<number, number>();
  for (let id = 1; id < table.nextId; id++)
    for (const [word0, word1] of [
      [table.place0[id]!, table.place1[id]!],
      [table.base0[id]!, table.base1[id]!],
    ] as const)
      if (word1 !== 0) counts.set(placeSlot(word0), (counts.get(placeSlot(word0)) ?? 0) + 1);
  for (const of of MAP_SLOTS) expect(map.counts.places(of), `places in ${of}`).toBe(counts.get(of) ?? 0);
}

async function run(ops: readonly Op[]): Promise<void> {
  const rig = new Rig();
  for (const op of ops) rig.do(op);
  await check(rig);
  rig.reopen();
  await check(rig);
  if (rig.running !== null) rig.do({ op: 'finish' });
  checkPlaces(rig);
  rig.journal = [];
  rig.reopen();
  await check(rig);
  expect(rig.map.sweepsLeft).toBe(0);
}

describe('block map', () => {
  it('agrees with a naive model: contents, snapshots, differences, counts; evicted, checkpointed, reopened', async () => {
    await fc.assert(fc.asyncProperty(fc.array(opArbitrary, { maxLength: 120, size: 'max' }), run), {
      numRuns: Number(process.env.HOLDFAST_RUNS ?? 100),
    });
  }, 60_000);

  it('takes nothing in that a load brings too late', () => {
    const log = new MapLog();
    const cache = new PageCache(2 * 9000);
    const map = log.reopen(BLOCKS * 4096, cache);
    const put = (block: number, at: number) =>
      loaded(
        (done) => map.load(block, 1, done),
        () => map.setRun(block, 1, placeWord0(1, 0), placeWord1(at * 64, 64)),
      );
    put(0, 1);
    log.checkpoint(map);
    for (const block of [1024, 2048, 3072]) put(block, 2);
    log.checkpoint(map);
    expect(map.absent(0, 1)).toBe(true);
    const id = map.table.head(0);
    const held: (() => void)[] = [];
    log.held = held;
    const outcomes: (Error | null)[] = [];
    map.load(0, 1, (error) => outcomes.push(error));
    expect([held.length, outcomes.length]).toEqual([1, 0]);
    log.held = null;
    // The page goes, its id is given to another, and that one is written and leaves memory.
    map.clearRange(0, 1024);
    loaded((done) => map.sweep(done));
    log.checkpoint(map);
    put(4096, 3);
    expect(map.table.head(4)).toBe(id);
    log.checkpoint(map);
    for (const block of [1024, 2048, 3072]) loaded((done) => map.load(block, 1, done));
    expect(map.absent(4096, 1)).toBe(true);
    held[0]!();
    expect(outcomes).toEqual([null]);
    expect(map.absent(4096, 1)).toBe(true);
    expect(contents(map, (number) => map.table.head(number))[4096]).toBe(
      entry(placeWord0(1, 0), 0, placeWord1(192, 64)),
    );
    expect(map.page(0)).toBeUndefined();
  });

  it('reads no page to freeze, to delete a snapshot, or to drop what is mapped', () => {
    const log = new MapLog();
    let map = log.reopen(1024 ** 4, new PageCache(1 << 20));
    const words = [placeWord0(7, 0), placeWord1(4096, 64)] as const;
    for (let i = 0; i < 600; i++) {
      map.freeze(idOf(i), group, i, 0);
      map.setRun(i * 1024, 1, ...words);
      if (i > 0) map.setRun((i - 1) * 1024 + 5, 1, ...words);
    }
    log.checkpoint(map);
    map = log.reopen(1024 ** 4, new PageCache(1 << 20));
    const before = log.reads;
    const ids = map.table.nextId;
    map.freeze(idOf(1000), group, 0, 0);
    expect(map.table.nextId).toBe(ids);
    for (let i = 100; i < 500; i++) map.deleteSnapshot(idOf(i));
    map.clearRange(0, 600 * 1024);
    map.deleteSnapshot(idOf(1000));
    expect(log.reads).toBe(before);
    expect(map.allocatedBlocks).toBe(0);
    const detached = map.sweepsLeft;
    expect(detached).toBeGreaterThan(400);
    while (map.sweepsLeft > 0) loaded((done) => map.sweep(done));
    expect(log.reads).toBe(before + detached);
    expect(map.slotLive(7)).toBe(recount(map)[7]);
  });

  it('one page that can not be read holds no other up', () => {
    const log = new MapLog();
    let map = log.reopen(BLOCKS * 4096, new PageCache(9000));
    for (let i = 0; i < 5; i++)
      loaded(
        (done) => map.load(i * 1024, 1, done),
        () => map.setRun(i * 1024, 1, placeWord0(1, 0), placeWord1(64, 64)),
      );
    log.checkpoint(map);
    map = log.reopen(BLOCKS * 4096, new PageCache(9000));
    const bad = map.table.head(2);
    const key = `${placeSlot(map.table.place0[bad]!)}/${map.table.place1[bad]}`;
    const lost = log.entries.get(key)!;
    log.entries.delete(key);
    const outcomes: (Error | null)[] = [];
    map.loadLive([0, 1, 2, 3], (error) => outcomes.push(error));
    expect(outcomes[0]).toBeInstanceOf(Error);
    expect(map.pagesLoaded).toBe(3);
    map.clearRange(0, 5 * 1024);
    map.sweep((error) => outcomes.push(error));
    expect(outcomes[1]).toBeInstanceOf(Error);
    expect([map.sweepsLeft, map.slotLive(1)]).toEqual([1, 1]);
    log.entries.set(key, lost);
    loaded((done) => map.sweep(done));
    expect([map.sweepsLeft, map.slotLive(1)]).toEqual([0, 0]);
  });
});
