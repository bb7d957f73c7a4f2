// A log for a block map alone: keeps what checkpoints write in memory, in the real format, reads pages back from it, and opens a
// new map from the last checkpoint that was completed. Every entry gets a place of its own in one of a few slots.

import {
  decodeDelta,
  decodeEntry,
  decodePage,
  decodeTable,
  encodeDelta,
  encodePage,
  encodeTable,
  entryKind,
  placeSlot,
  placeWord0,
  placeWord1,
  type SnapshotRoot,
} from '../../src/format/index.js';
import { BlockMap, deltaPays, type MapCut, type PageCache, type PageRead } from '../../src/hotpath/index.js';

/** Slots in which map entries are put; records of tests use lower ones. */
export const MAP_SLOTS = [100, 101, 102];

interface Image {
  sizeBytes: number;
  nextId: number;
  birth: number;
  readonly table: Map<number, Buffer>;
  readonly snapshots: Map<number, readonly SnapshotRoot[]>;
  readonly slots: Map<number, { slot: number; live: number; blocks: number }[]>;
}

/** A checkpoint under way: the rest of it may be written at any time. */
export interface Running {
  readonly cut: MapCut;
  next: number;
}

export class MapLog {
  readonly entries = new Map<string, Buffer>();
  image: Image | null = null;
  bytes = 0;
  deltas = 0;
  reads = 0;
  #made = 0;
  /** Reads end at once, as those from a local replica, unless this is set: then they end when it is called. */
  held: (() => void)[] | null = null;

  connect(map: BlockMap): void {
    map.connect((reads, done) => {
      this.reads += reads.length;
      const go = () => {
        try {
          for (const read of reads) this.#fill(read);
        } catch (error) {
          return done(error as Error);
        }
        done(null);
      };
      if (this.held !== null) this.held.push(go);
      else go();
    });
  }

  #fill(read: PageRead): void {
    const at = (word0: number, word1: number) => {
      const bytes = this.entries.get(`${placeSlot(word0)}/${word1}`);
      if (bytes === undefined) throw new Error(`nothing lies at slot ${placeSlot(word0)}, ${word1}`);
      return bytes;
    };
    const place = at(read.place0, read.place1);
    const base = read.base1 === 0 ? place : at(read.base0, read.base1);
    const found = decodePage(base, 0, base.readUInt32LE(8), read.words);
    if (found.number !== read.number) throw new Error(`page ${found.number} where ${read.number} was expected`);
    if (read.base1 === 0) return;
    read.changed = new Uint32Array(32);
    const delta = decodeDelta(place, 0, place.readUInt32LE(8), read.words, read.changed);
    if (delta.id !== read.id) throw new Error(`delta of ${delta.id} where that of ${read.id} was expected`);
    read.spent = delta.spent;
  }

  put(bytes: Buffer): [number, number] {
    const number = this.#made++;
    const place: [number, number] = [
      placeWord0(MAP_SLOTS[number % MAP_SLOTS.length]!, 0),
      placeWord1((1 + (Math.floor(number / 3) % 900_000)) * 64, Math.min(bytes.length, 65_536)),
    ];
    this.entries.set(`${placeSlot(place[0])}/${place[1]}`, bytes);
    this.bytes += bytes.length;
    return place;
  }

  begin(map: BlockMap): Running {
    return { cut: map.cut(), next: 0 };
  }

  /** Writes the next page; false when all are written. */
  step(map: BlockMap, running: Running): boolean {
    const cut = running.cut.pages[running.next++];
    if (cut === undefined) return false;
    const spent = deltaPays(cut);
    if (spent > 0) this.deltas++;
    const { id, number } = cut.page;
    const entry =
      spent > 0
        ? encodeDelta(id, number, cut.words, cut.changed ?? new Uint32Array(32), spent)
        : encodePage(id, number, cut.words);
    if (decodeEntry(entry, 0, entry.length) === 'kind') throw new Error(`kind ${entryKind.page}`);
    map.wrote(cut, this.put(entry), spent > 0, spent, running.cut.superseded);
    map.settled();
    return true;
  }

  /** Writes the rest. From here on reopen() begins with it. */
  finish(map: BlockMap, running: Running): void {
    while (this.step(map, running));
    const { cut } = running;
    const table = new Map(this.image?.table);
    for (const chunk of map.table.takeDirtyChunks()) {
      const words = map.table.chunkWords(chunk);
      if (words === undefined) table.delete(chunk);
      else {
        table.set(chunk, encodeTable(chunk, words));
        this.bytes += table.get(chunk)!.length;
      }
    }
    const snapshots = new Map(this.image?.snapshots);
    for (const chunk of cut.snapshots) snapshots.set(chunk.chunk, chunk.snapshots);
    const slots = new Map(this.image?.slots);
    for (const { chunk, live, blocks } of cut.slots)
      slots.set(
        chunk,
        [...live].map((count, i) => ({ slot: chunk * live.length + i, live: count, blocks: blocks[i]! })),
      );
    const { sizeBytes, nextId, birth } = cut;
    this.image = { sizeBytes, nextId, birth, table, snapshots, slots };
    for (const slot of cut.superseded) map.counts.addPlaces(slot, -1);
  }

  checkpoint(map: BlockMap): void {
    this.finish(map, this.begin(map));
  }

  reopen(sizeBytes: number, cache: PageCache): BlockMap {
    const map = new BlockMap(sizeBytes, cache);
    this.connect(map);
    const { image } = this;
    if (image === null) return map;
    map.install({
      ...image,
      table: new Map([...image.table].map(([chunk, b]) => [chunk, decodeTable(b, 0, b.readUInt32LE(8)).words])),
      snapshots: [...image.snapshots.values()].flat(),
      slots: [...image.slots.values()].flat(),
    });
    return map;
  }
}
