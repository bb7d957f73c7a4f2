// The copy-on-write block map: block -> place of the record that holds it, one tree for the live volume and one root for
// each snapshot. Owner: one engine, single-threaded.
//
// Shape: a root lists nodes (2 GiB of address space each), a node lists 512 pages, a page holds 1,024 entries of two uint32.
// Invariants:
// - A page or node may be changed in place only if it was born after the newest snapshot; else it is copied first.
// - Every entry of every distinct page counts once in `references` of the segment slot it names. A slot at zero is dead.
// - Snapshots are ordered by birth; a page is shared by a contiguous range of them (and the live tree), so comparing a
//   snapshot with its two neighbours decides what only it holds.

import { assert, BLOCK_SIZE, type GroupId, type SnapshotId } from '../base/index.js';
import { NODE_CHILDREN, PAGE_ENTRIES, placeSlot } from '../format/index.js';

export class MapPage {
  readonly id: number;
  readonly birth: number;
  readonly words: Uint32Array;
  dirty = true;
  constructor(id: number, birth: number, words: Uint32Array) {
    this.id = id;
    this.birth = birth;
    this.words = words;
  }
}

export class MapNode {
  readonly id: number;
  readonly birth: number;
  readonly pages: (MapPage | undefined)[];
  dirty = true;
  constructor(id: number, birth: number, pages: (MapPage | undefined)[]) {
    this.id = id;
    this.birth = birth;
    this.pages = pages;
  }
}

export class MapRoot {
  readonly id: number;
  readonly birth: number;
  readonly nodes: (MapNode | undefined)[];
  dirty = true;
  constructor(id: number, birth: number, nodes: (MapNode | undefined)[]) {
    this.id = id;
    this.birth = birth;
    this.nodes = nodes;
  }
}

export interface MapSnapshot {
  readonly snapshotId: SnapshotId;
  readonly groupId: GroupId;
  readonly root: MapRoot;
  /** Pages born at or below this are (or may be) shared with it. */
  readonly birth: number;
  readonly seq: number;
  readonly sizeBytes: number;
  readonly wallMs: number;
}

export const BLOCKS_PER_NODE = PAGE_ENTRIES * NODE_CHILDREN;

export class BlockMap {
  sizeBytes: number;
  /** Changes with every freeze; the birth of what is created now. */
  #birth = 1;
  #nextId: number;
  #root: MapRoot;
  readonly #snapshots = new Map<SnapshotId, MapSnapshot>();
  #newestBirth = 0;
  readonly #references = new SlotCounts();
  #allocated = 0;
  /** Ids whose page, node or root is gone since the last take: their table places are to be cleared. */
  #freed: number[] = [];
  #dirtyPages = 0;

  constructor(sizeBytes: number) {
    this.sizeBytes = sizeBytes;
    this.#nextId = 2;
    this.#root = new MapRoot(1, this.#birth, []);
  }

  get root(): MapRoot {
    return this.#root;
  }
  get nextId(): number {
    return this.#nextId;
  }
  get dirtyPages(): number {
    return this.#dirtyPages;
  }
  /** Blocks mapped by the live volume. */
  get allocatedBlocks(): number {
    return this.#allocated;
  }
  /** Oldest first. */
  get snapshots(): IterableIterator<MapSnapshot> {
    return this.#snapshots.values();
  }
  get snapshotCount(): number {
    return this.#snapshots.size;
  }
  snapshot(id: SnapshotId): MapSnapshot | undefined {
    return this.#snapshots.get(id);
  }
  /** Entries of distinct pages that name this slot, plus what checkpoint code added. */
  references(slot: number): number {
    return this.#references.get(slot);
  }
  addReferences(slot: number, count: number): void {
    this.#references.add(slot, count);
  }

  /** Installs what a checkpoint held. Pages are complete and clean; counts are rebuilt by the caller through countPage. */
  install(root: MapRoot, snapshots: readonly MapSnapshot[], nextId: number, birth: number): void {
    this.#root = root;
    this.#nextId = nextId;
    this.#birth = birth;
    this.#snapshots.clear();
    for (const snapshot of snapshots) this.#snapshots.set(snapshot.snapshotId, snapshot);
    this.#newestBirth = snapshots.reduce((most, snapshot) => Math.max(most, snapshot.birth), 0);
    this.#recount();
  }

  /** The page that holds `block` in `root`, if any. */
  page(block: number, root: MapRoot = this.#root): MapPage | undefined {
    return root.nodes[Math.floor(block / BLOCKS_PER_NODE)]?.pages[Math.floor(block / PAGE_ENTRIES) % NODE_CHILDREN];
  }

  /** Points `run` blocks from `block` on at one record: word 0 gets the block's index in the run. */
  setRun(block: number, run: number, word0: number, word1: number): void {
    const slot = placeSlot(word0);
    let page = this.#writablePage(block);
    let left = PAGE_ENTRIES - (block % PAGE_ENTRIES);
    for (let i = 0; i < run; i++) {
      if (left-- === 0) {
        page = this.#writablePage(block + i);
        left = PAGE_ENTRIES - 1;
      }
      const at = ((block + i) % PAGE_ENTRIES) * 2;
      const old1 = page.words[at + 1]!;
      if (old1 === 0) this.#allocated++;
      else this.#references.add(placeSlot(page.words[at]!), -1);
      page.words[at] = (word0 | (i << 24)) >>> 0;
      page.words[at + 1] = word1;
    }
    this.#references.add(slot, run);
  }

  /** Unmaps blocks; whole pages and nodes are dropped without being visited entry by entry unless they must be counted. */
  clearRange(block: number, count: number): void {
    const end = block + count;
    let at = block;
    while (at < end) {
      const nodeIndex = Math.floor(at / BLOCKS_PER_NODE);
      const node = this.#root.nodes[nodeIndex];
      const nodeEnd = (nodeIndex + 1) * BLOCKS_PER_NODE;
      if (node === undefined) {
        at = nodeEnd;
        continue;
      }
      const pageEnd = (Math.floor(at / PAGE_ENTRIES) + 1) * PAGE_ENTRIES;
      const page = this.page(at);
      if (page !== undefined) {
        if (at % PAGE_ENTRIES === 0 && pageEnd <= end) this.#dropPage(at, page);
        else this.#clearEntries(at, Math.min(end, pageEnd));
      }
      at = pageEnd;
    }
  }

  #clearEntries(from: number, to: number): void {
    const page = this.#writablePage(from);
    for (let block = from; block < to; block++) {
      const at = (block % PAGE_ENTRIES) * 2;
      if (page.words[at + 1] === 0) continue;
      this.#references.add(placeSlot(page.words[at]!), -1);
      this.#allocated--;
      page.words[at] = 0;
      page.words[at + 1] = 0;
    }
  }

  #dropPage(block: number, page: MapPage): void {
    const node = this.#writableNode(Math.floor(block / BLOCKS_PER_NODE));
    node.pages[Math.floor(block / PAGE_ENTRIES) % NODE_CHILDREN] = undefined;
    this.#allocated -= countEntries(page);
    if (page.birth > this.#newestBirth) this.#releasePage(page);
  }

  /** Shares the tree as it is with a new snapshot. One pointer, whatever the volume's size. */
  freeze(snapshotId: SnapshotId, groupId: GroupId, seq: number, wallMs: number): MapSnapshot {
    const existing = this.#snapshots.get(snapshotId);
    if (existing) return existing;
    const snapshot = {
      snapshotId,
      groupId,
      root: this.#root,
      birth: this.#birth,
      seq,
      sizeBytes: this.sizeBytes,
      wallMs,
    };
    this.#snapshots.set(snapshotId, snapshot);
    this.#newestBirth = this.#birth;
    this.#birth++;
    return snapshot;
  }

  /** Drops a snapshot and releases what only it held. False when there is no such snapshot. */
  deleteSnapshot(snapshotId: SnapshotId): boolean {
    const gone = this.#snapshots.get(snapshotId);
    if (gone === undefined) return false;
    const ordered = [...this.#snapshots.values()];
    const index = ordered.indexOf(gone);
    const before = ordered[index - 1]?.root;
    const after = ordered[index + 1]?.root ?? this.#root;
    this.#snapshots.delete(snapshotId);
    this.#newestBirth = 0;
    for (const snapshot of this.#snapshots.values()) this.#newestBirth = Math.max(this.#newestBirth, snapshot.birth);
    this.#releaseRoot(gone.root, before, after);
    return true;
  }

  /** Makes a snapshot's tree the live one and forgets everything else: a clone's start. */
  startFrom(snapshotId: SnapshotId): void {
    const source = this.#snapshots.get(snapshotId);
    assert(source !== undefined, 'a clone starts from a snapshot of its log');
    this.#root = source.root;
    this.sizeBytes = source.sizeBytes;
    this.#snapshots.clear();
    this.#newestBirth = 0;
    this.#recount();
    this.#freed = [];
  }

  /** What changed hands since the last call. */
  takeFreedIds(): number[] {
    const freed = this.#freed;
    this.#freed = [];
    return freed;
  }
  /** A checkpoint wrote this page. */
  cleaned(page: MapPage): void {
    if (page.dirty) this.#dirtyPages--;
    page.dirty = false;
  }
  get birth(): number {
    return this.#birth;
  }

  #takeId(): number {
    assert(this.#nextId < 0xffff_fffe, 'ids of map pages are not used up');
    return this.#nextId++;
  }

  #writableRoot(): MapRoot {
    if (this.#root.birth > this.#newestBirth) {
      this.#root.dirty = true;
      return this.#root;
    }
    this.#root = new MapRoot(this.#takeId(), this.#birth, this.#root.nodes.slice());
    return this.#root;
  }

  #writableNode(index: number): MapNode {
    const node = this.#root.nodes[index];
    if (node !== undefined && node.birth > this.#newestBirth) {
      node.dirty = true;
      return node;
    }
    const root = this.#writableRoot();
    const copy = new MapNode(this.#takeId(), this.#birth, node === undefined ? [] : node.pages.slice());
    root.nodes[index] = copy;
    return copy;
  }

  #writablePage(block: number): MapPage {
    const page = this.page(block);
    if (page !== undefined && page.birth > this.#newestBirth) {
      if (!page.dirty) {
        page.dirty = true;
        this.#dirtyPages++;
      }
      return page;
    }
    const node = this.#writableNode(Math.floor(block / BLOCKS_PER_NODE));
    const words = page === undefined ? new Uint32Array(PAGE_ENTRIES * 2) : page.words.slice();
    const copy = new MapPage(this.#takeId(), this.#birth, words);
    this.#dirtyPages++;
    if (page !== undefined) this.#countPage(copy, 1);
    node.pages[Math.floor(block / PAGE_ENTRIES) % NODE_CHILDREN] = copy;
    return copy;
  }

  #countPage(page: MapPage, sign: 1 | -1): void {
    const words = page.words;
    for (let at = 0; at < words.length; at += 2) {
      if (words[at + 1] !== 0) this.#references.add(placeSlot(words[at]!), sign);
    }
  }

  #releasePage(page: MapPage): void {
    this.#countPage(page, -1);
    if (page.dirty) this.#dirtyPages--;
    this.#freed.push(page.id);
  }

  #releaseRoot(root: MapRoot, before: MapRoot | undefined, after: MapRoot): void {
    if (root === before || root === after) return;
    this.#freed.push(root.id);
    for (let n = 0; n < root.nodes.length; n++) {
      const node = root.nodes[n];
      if (node === undefined || node === before?.nodes[n] || node === after.nodes[n]) continue;
      this.#freed.push(node.id);
      const older = before?.nodes[n];
      const newer = after.nodes[n];
      for (let p = 0; p < node.pages.length; p++) {
        const page = node.pages[p];
        if (page !== undefined && page !== older?.pages[p] && page !== newer?.pages[p]) this.#releasePage(page);
      }
    }
  }

  /** Counts references, allocated blocks and dirty pages from nothing. */
  #recount(): void {
    this.#references.clear();
    this.#allocated = 0;
    this.#dirtyPages = 0;
    const seen = new Set<MapPage>();
    for (const page of pagesOf(this.#root)) {
      this.#allocated += countEntries(page);
      seen.add(page);
    }
    for (const snapshot of this.#snapshots.values()) for (const page of pagesOf(snapshot.root)) seen.add(page);
    for (const page of seen) {
      this.#countPage(page, 1);
      if (page.dirty) this.#dirtyPages++;
    }
  }
}

function countEntries(page: MapPage): number {
  let count = 0;
  for (let at = 1; at < page.words.length; at += 2) if (page.words[at] !== 0) count++;
  return count;
}

/** Pages of one tree, in address order. */
export function* pagesOf(root: MapRoot): Generator<MapPage> {
  for (const node of root.nodes) {
    if (node === undefined) continue;
    for (const page of node.pages) if (page !== undefined) yield page;
  }
}

/** Bytes to blocks, rounded up. */
export function blocksOf(bytes: number): number {
  return Math.ceil(bytes / BLOCK_SIZE);
}

/** Counters by slot in one growing typed array. */
class SlotCounts {
  #counts = new Int32Array(1024);
  get(slot: number): number {
    return this.#counts[slot] ?? 0;
  }
  add(slot: number, delta: number): void {
    if (slot >= this.#counts.length) {
      const larger = new Int32Array(Math.max(slot + 1, this.#counts.length * 2));
      larger.set(this.#counts);
      this.#counts = larger;
    }
    const next = this.#counts[slot]! + delta;
    assert(next >= 0, `references of segment slot ${slot} fell below zero`);
    this.#counts[slot] = next;
  }
  clear(): void {
    this.#counts.fill(0);
  }
}
