// The block map: block -> place of the record that holds it, for the live volume and each snapshot. Owner: one engine,
// single-threaded. Pages (1,024 entries, 4 MiB) are in memory only while something needs them; page-table.ts knows every version.
//
// Invariants:
// - A page may be changed in place only if it was born after the newest snapshot; else a new version is put above it.
// - Every entry of every version counts once as live in the segment slot it names. A version that nobody sees any more but that is not
//   in memory is detached: its entries count until sweep() has read it, so that nothing waits for that reading.
// - A page that is not in memory is never taken for an empty one: page() throws. Who looks up or changes blocks first asks absent().

import { assert, BLOCK_SIZE, type GroupId, type SnapshotId } from '../base/index.js';
import { PAGE_ENTRIES, placeSlot } from '../format/index.js';
import { DirtyPages } from './dirty-pages.js';
import { MapPage, type PageCache, type PageCut, type PageOwner, pageCache } from './page-cache.js';
import { PageLoads, type ReadPages } from './page-loads.js';
import { PageSweep } from './page-sweep.js';
import { PageTable } from './page-table.js';
import { Pins } from './pins.js';
import { liveBlocks, loadVersions, move, versionsOf } from './record-moves.js';
import { SlotCounts, type SlotCut } from './slot-counts.js';
import { type MapSnapshot, SnapshotList } from './snapshot-list.js';

type Done = (error: Error | null) => void;

/** What a checkpoint begins with. */
export interface MapInstall {
  readonly sizeBytes: number;
  readonly nextId: number;
  readonly birth: number;
  /** Chunks of the table by number. */
  readonly table: ReadonlyMap<number, Uint32Array>;
  readonly snapshots: readonly MapSnapshot[];
  readonly slots: readonly { readonly slot: number; readonly live: number; readonly blocks: number }[];
}

/** The map as it was when a checkpoint began; pages are written from it while the map goes on. */
export interface MapCut {
  readonly sizeBytes: number;
  readonly nextId: number;
  readonly birth: number;
  readonly pages: readonly PageCut[];
  readonly slots: readonly SlotCut[];
  readonly snapshots: readonly { readonly chunk: number; readonly snapshots: readonly MapSnapshot[] }[];
  /** Slots of places that nothing needs once this checkpoint counts. */
  readonly superseded: number[];
}

export class BlockMap implements PageOwner {
  sizeBytes: number;
  readonly counts = new SlotCounts();
  readonly table = new PageTable(this.counts);
  readonly snapshotList = new SnapshotList();
  readonly #cache: PageCache;
  readonly #loads: PageLoads;
  readonly #pins = new Pins();
  /** Changes with every freeze; the birth of what is created now. */
  #birth = 1;
  /** Birth of the newest snapshot. */
  #floor = 0;
  #allocated = 0;
  readonly #dirty: DirtyPages;
  readonly #sweep: PageSweep;
  #closed = false;
  #recordsStored = 0;

  constructor(sizeBytes: number, cache: PageCache = pageCache) {
    this.sizeBytes = sizeBytes;
    this.#cache = cache;
    this.#dirty = new DirtyPages(cache);
    this.#loads = new PageLoads(this.table, cache, this);
    this.#sweep = new PageSweep(this.table, this.#loads, (words) => this.#countEntries(words, -1));
  }

  /** Where pages are read from; given again when that changes. */
  connect(read: ReadPages): void {
    this.#loads.read = read;
  }
  /** The volume is closed: its pages leave the memory that others share. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#loads.closed = true;
    this.#dirty.close();
    this.#cache.drop(this);
  }

  get birth(): number {
    return this.#birth;
  }
  /** Pages that stay in memory until a checkpoint has written them. */
  get dirtyPages(): number {
    return this.#dirty.count;
  }
  /** How much of the memory for pages is taken up by such ones, of all volumes of this thread: 0 to 1 and above. */
  get dirtyShare(): number {
    return this.#cache.dirty / this.#cache.most;
  }
  get pagesLoaded(): number {
    return this.#loads.loaded;
  }
  /** Blocks mapped by the live volume. */
  get allocatedBlocks(): number {
    return this.#allocated;
  }
  /** Oldest first. */
  get snapshots(): readonly MapSnapshot[] {
    return this.snapshotList.all;
  }
  get snapshotCount(): number {
    return this.snapshotList.size;
  }
  snapshot(id: SnapshotId): MapSnapshot | undefined {
    return this.snapshotList.get(id);
  }
  /** Live entries in a slot and places of the map itself; a slot at zero is dead. */
  references(slot: number): number {
    return this.counts.live(slot) + this.counts.places(slot);
  }
  slotLive(slot: number): number {
    return this.counts.live(slot);
  }
  slotBlocks(slot: number): number {
    return this.counts.blocks(slot);
  }
  /** Records of so many blocks were put into a slot. Called when their frame is committed. */
  stored(slot: number, records: number, blocks: number): void {
    this.#recordsStored += records;
    this.counts.addBlocks(slot, blocks);
  }
  /** Sum of what stored() was told. */
  get recordsStored(): number {
    return this.#recordsStored;
  }

  install(from: MapInstall): void {
    this.sizeBytes = from.sizeBytes;
    this.#birth = from.birth;
    for (const { slot, live, blocks } of from.slots) this.counts.install(slot, live, blocks);
    this.counts.installed();
    this.table.install(from.table, from.nextId);
    this.snapshotList.install(from.snapshots);
    this.#floor = this.snapshotList.newestBirth;
    this.#recountAllocated();
  }

  #recountAllocated(): void {
    this.#allocated = 0;
    for (let number = 0; number < this.table.numbers; number++) {
      const id = this.table.head(number);
      if (id !== 0 && this.table.isPage(id)) this.#allocated += this.#entriesOf(id);
    }
  }
  #entriesOf(id: number): number {
    const frame = this.table.frame[id]!;
    return frame === 0 ? this.table.entries[id]! : this.#cache.page(frame - 1).entries;
  }

  // --- residency

  /** True when load() must bring a page before these blocks of the live volume are looked up or changed. */
  absent(block: number, count: number): boolean {
    const last = Math.floor((block + count - 1) / PAGE_ENTRIES);
    for (let number = Math.floor(block / PAGE_ENTRIES); number <= last; number++) {
      const id = this.table.head(number);
      if (id !== 0 && this.table.frame[id] === 0 && this.table.isPage(id)) return true;
    }
    return false;
  }

  /** Makes the pages of these blocks resident; they are so when `done(null)` is called, and stay so for as long as they are pinned. */
  load(block: number, count: number, done: Done): void {
    const first = Math.floor(block / PAGE_ENTRIES);
    const last = Math.floor((block + count - 1) / PAGE_ENTRIES);
    const numbers: number[] = [];
    for (let number = first; number <= last; number++) numbers.push(number);
    this.loadLive(numbers, done);
  }

  /** The same for page numbers. */
  loadLive(numbers: readonly number[], done: Done): void {
    this.#loadPinned(numbers, () => numbers.map((number) => this.table.head(number)), done);
  }

  #loadPinned(numbers: readonly number[], ids: () => number[], done: Done): void {
    for (const number of numbers) this.#pins.add(number);
    this.#loads.load(ids(), (error) => {
      // What could not be read may have been given up meanwhile; what replaced it is in memory.
      const missing = ids().some((id) => this.table.isPage(id) && this.table.frame[id] === 0);
      try {
        done(missing ? (error ?? new Error('a page of the map changed while it was read')) : null);
      } finally {
        for (const number of numbers) this.#pins.remove(number);
      }
    });
  }

  /** Pages under these blocks stay in memory until unpin() with the same blocks. They must be resident. */
  pin(block: number, count: number): void {
    const last = Math.floor((block + count - 1) / PAGE_ENTRIES);
    for (let number = Math.floor(block / PAGE_ENTRIES); number <= last; number++) this.#pins.add(number);
  }
  unpin(block: number, count: number): void {
    const last = Math.floor((block + count - 1) / PAGE_ENTRIES);
    for (let number = Math.floor(block / PAGE_ENTRIES); number <= last; number++) this.#pins.remove(number);
  }
  holds(page: MapPage): boolean {
    return this.#pins.has(page.number);
  }
  evicted(page: MapPage): void {
    this.table.frame[page.id] = 0;
  }

  /** Brings versions, of snapshots too, into memory for the time of `done`. */
  loadIds(ids: readonly number[], done: Done): void {
    this.#loadPinned([...new Set(ids.map((id) => this.table.number[id]!))], () => [...ids], done);
  }
  /** Pages of these numbers, of snapshots too, stay in memory until unpinNumbers(). */
  pinNumbers(numbers: readonly number[]): void {
    for (const number of numbers) this.#pins.add(number);
  }
  unpinNumbers(numbers: readonly number[]): void {
    for (const number of numbers) this.#pins.remove(number);
  }
  resident(id: number): MapPage {
    const frame = this.table.frame[id]!;
    assert(frame !== 0, `page ${id} of the map is in memory when it is looked at`);
    return this.#cache.page(frame - 1);
  }

  // --- the live volume

  /** The live page that maps `block`; undefined when nothing around it is mapped. It must be resident. */
  page(block: number): MapPage | undefined {
    const id = this.table.head(Math.floor(block / PAGE_ENTRIES));
    return id === 0 || !this.table.isPage(id) ? undefined : this.resident(id);
  }

  /** Points `run` blocks from `block` on at one record: word 0 gets the block's index in the run. */
  setRun(block: number, run: number, word0: number, word1: number): void {
    const { counts } = this;
    let number = Math.floor(block / PAGE_ENTRIES);
    let page = this.#writable(number);
    let index = block % PAGE_ENTRIES;
    for (let i = 0; i < run; i++) {
      if (index === PAGE_ENTRIES) {
        page = this.#writable(++number);
        index = 0;
      }
      const at = index * 2;
      if (page.words[at + 1] === 0) {
        page.entries++;
        this.#allocated++;
      } else counts.addLive(placeSlot(page.words[at]!), -1);
      page.words[at] = (word0 | (i << 24)) >>> 0;
      page.words[at + 1] = word1;
      if (page.based) page.mark(index);
      index++;
    }
    counts.addLive(placeSlot(word0), run);
  }

  /** Makes the pages resident that clearRange() looks into: at most the two at its ends. */
  loadEnds(block: number, count: number, done: Done): void {
    this.loadLive(this.#partialEnds(block, count), done);
  }
  pinEnds(block: number, count: number): void {
    this.pinNumbers(this.#partialEnds(block, count));
  }
  unpinEnds(block: number, count: number): void {
    this.unpinNumbers(this.#partialEnds(block, count));
  }
  #partialEnds(block: number, count: number): number[] {
    const end = block + count;
    const first = Math.floor(block / PAGE_ENTRIES);
    const last = Math.floor((end - 1) / PAGE_ENTRIES);
    const numbers: number[] = [];
    if (block % PAGE_ENTRIES !== 0 || end < (first + 1) * PAGE_ENTRIES) numbers.push(first);
    if (last !== first && end % PAGE_ENTRIES !== 0) numbers.push(last);
    return numbers;
  }

  /** Unmaps blocks. Whole pages are dropped without being looked into. */
  clearRange(block: number, count: number): void {
    const end = block + count;
    let at = block;
    while (at < end) {
      const number = Math.floor(at / PAGE_ENTRIES);
      if (this.table.pieceEmpty(number)) {
        at = (Math.floor(number / 512) + 1) * 512 * PAGE_ENTRIES;
        continue;
      }
      const pageEnd = (number + 1) * PAGE_ENTRIES;
      const id = this.table.head(number);
      if (id !== 0 && this.table.isPage(id)) {
        if (at % PAGE_ENTRIES === 0 && pageEnd <= end) this.#dropPage(number, id);
        else this.#clearEntries(number, at % PAGE_ENTRIES, Math.min(end, pageEnd) - number * PAGE_ENTRIES);
      }
      at = pageEnd;
    }
  }

  #clearEntries(number: number, from: number, to: number): void {
    const now = this.resident(this.table.head(number));
    let mapped = 0;
    for (let index = from; index < to; index++) if (now.words[index * 2 + 1] !== 0) mapped++;
    if (mapped === 0) return;
    if (mapped === now.entries) return this.#dropPage(number, now.id);
    const page = this.#writable(number);
    for (let index = from; index < to; index++) {
      const at = index * 2;
      if (page.words[at + 1] === 0) continue;
      this.counts.addLive(placeSlot(page.words[at]!), -1);
      page.words[at] = 0;
      page.words[at + 1] = 0;
      if (page.based) page.mark(index);
    }
    page.entries -= mapped;
    this.#allocated -= mapped;
  }

  #dropPage(number: number, id: number): void {
    this.#allocated -= this.#entriesOf(id);
    if (this.table.birth[id]! > this.#floor) {
      this.table.unlink(id);
      this.#giveUp(id);
    }
    this.table.pushHole(number, this.#birth);
  }

  /** The page to be changed for the live volume. */
  #writable(number: number): MapPage {
    const { table } = this;
    const head = table.head(number);
    if (head !== 0 && table.isPage(head)) {
      const page = this.resident(head);
      if (table.birth[head]! <= this.#floor) return this.#copyOf(page);
      this.changing(page);
      return page;
    }
    if (head !== 0 && table.birth[head]! > this.#floor) {
      table.unlink(head);
      table.release(head);
    }
    return this.#newPage(number, this.#cache.words());
  }

  #newPage(number: number, words: Uint32Array): MapPage {
    const id = this.table.push(number, this.#birth);
    const page = new MapPage(this, id, number, words);
    this.table.frame[id] = this.#cache.insert(page) + 1;
    this.changing(page);
    return page;
  }

  /** A new version above one that a snapshot sees. In the log it needs only what makes it differ from what that one is based on. */
  #copyOf(page: MapPage): MapPage {
    const words = this.#cache.words();
    words.set(page.words);
    const copy = this.#newPage(page.number, words);
    copy.entries = page.entries;
    if (page.based) {
      this.table.inheritBase(copy.id, page.id);
      copy.based = true;
      copy.spent = page.spent;
      this.#dirty.copyBits(page, copy);
    }
    this.#countEntries(copy.words, 1);
    return copy;
  }

  /** The page is about to differ from what the log holds. What a checkpoint under way has still to write of it is kept as it was. */
  changing(page: MapPage): void {
    this.#dirty.add(page);
  }

  #countEntries(words: Uint32Array, sign: 1 | -1): void {
    for (let at = 0; at < words.length; at += 2)
      if (words[at + 1] !== 0) this.counts.addLive(placeSlot(words[at]!), sign);
  }

  /** Nobody sees this version any more; it is in no chain. */
  #giveUp(id: number): void {
    const { table } = this;
    if (!table.isPage(id)) return table.release(id);
    const frame = table.frame[id]!;
    if (frame === 0) return table.detach(id);
    const page = this.#cache.page(frame - 1);
    this.#countEntries(page.words, -1);
    this.#dirty.remove(page);
    table.frame[id] = 0;
    this.#cache.remove(page);
    table.release(id);
  }

  // --- snapshots

  /** Whatever is live now is the snapshot's. Costs the same whatever the volume holds. */
  freeze(snapshotId: SnapshotId, groupId: GroupId, seq: number, wallMs: number): MapSnapshot {
    const existing = this.snapshotList.get(snapshotId);
    if (existing) return existing;
    const birth = this.#birth++;
    this.#floor = birth;
    return this.snapshotList.add(snapshotId, groupId, { birth, seq, sizeBytes: this.sizeBytes, wallMs });
  }

  /** Drops a snapshot and gives up what only it saw. False when there is no such snapshot. */
  deleteSnapshot(snapshotId: SnapshotId): boolean {
    const gone = this.snapshotList.get(snapshotId);
    if (gone === undefined) return false;
    const { before, after } = this.snapshotList.remove(gone);
    this.#floor = this.snapshotList.newestBirth;
    this.table.betweenOnly(before, gone.birth, after, (id) => {
      this.table.unlink(id);
      this.#giveUp(id);
    });
    return true;
  }

  /** Makes a snapshot's state the live one and forgets everything else: a clone's start. */
  startFrom(snapshotId: SnapshotId): void {
    const source = this.snapshotList.get(snapshotId);
    assert(source !== undefined, 'a clone starts from a snapshot of its log');
    this.sizeBytes = source.sizeBytes;
    this.snapshotList.clear();
    this.#floor = 0;
    this.table.keepOnly(source.birth, (id) => this.#giveUp(id));
    this.#recountAllocated();
  }

  /** Page that a snapshot maps a page number by: an id, or 0. */
  seenBy(snapshot: MapSnapshot, number: number): number {
    return this.table.seenAt(number, snapshot.birth);
  }

  // --- moving records

  /** Pages that loadVersions() would need for a page number: 8 KiB of memory each. */
  versionCount(number: number): number {
    return versionsOf(this, number).length;
  }
  /**
   * Makes every version of these page numbers resident. After `done(null)` they stay so, with copies made since, until unpinVersions()
   * with the same numbers; after an error nothing is pinned.
   */
  loadVersions(numbers: readonly number[], done: Done): void {
    loadVersions(this, numbers, done);
  }
  unpinVersions(numbers: readonly number[]): void {
    this.unpinNumbers(numbers);
  }
  /** Which of the blocks of this record (words as of the first one) some version names; bit i: block i. 0: nobody needs it. */
  liveBlocks(block: number, run: number, word0: number, word1: number): number {
    return liveBlocks(this, block, run, word0, word1);
  }
  /** Replaces one place by another wherever it stands. Answers how many entries were changed. */
  move(block: number, run: number, from0: number, from1: number, to0: number, to1: number): number {
    return move(this, block, run, [from0, from1], [to0, to1]);
  }

  // --- what nobody sees any more

  /** Page versions whose entries still count though nobody sees them. */
  get sweepsLeft(): number {
    return this.#sweep.left;
  }
  /** Reads some of them and takes their entries off the counts; `done` gets an error when one could not be read. */
  sweep(done: Done): void {
    this.#sweep.sweep(done);
  }

  // --- checkpoints

  /** Begins one: everything that changed, as it is now. `slotsSuperseded` receives places given up since the last. */
  cut(): MapCut {
    const superseded: number[] = [];
    this.table.begin(superseded);
    return {
      sizeBytes: this.sizeBytes,
      nextId: this.table.nextId,
      birth: this.#birth,
      pages: this.#dirty.cut(),
      slots: this.counts.cut(),
      snapshots: this.snapshotList.takeDirtyChunks(),
      superseded,
    };
  }

  /** A page of the cut was written there, whole or as a delta of which `spent` is the sum so far. */
  wrote(cut: PageCut, place: readonly [number, number], delta: boolean, spent: number, superseded: number[]): void {
    this.table.written(cut.page.id, place, delta, cut.entries, superseded);
    this.#dirty.wrote(cut, delta, spent);
  }

  /** Everything written so far can be read back. */
  settled(): void {
    this.#dirty.settled();
  }
}

/** Bytes to blocks, rounded up. */
export function blocksOf(bytes: number): number {
  return Math.ceil(bytes / BLOCK_SIZE);
}
