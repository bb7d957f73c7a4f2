// What the map holds of each segment slot: entries of pages that name it (live), places of the map's own pages in it (places),
// and blocks whose records were ever put there (blocks). In chunks, since slots are taken in a circle of 16 million. Live and
// blocks are kept in the checkpoint's segment list, chunk by chunk; places are counted anew from its table.

import { assert } from '../base/index.js';
import { SEGMENTS_PER_CHUNK } from '../format/index.js';

interface Chunk {
  readonly live: Int32Array;
  readonly places: Int32Array;
  readonly blocks: Int32Array;
  dirty: boolean;
}

/** A chunk's counts as they were when a checkpoint began. */
export interface SlotCut {
  readonly chunk: number;
  readonly live: Int32Array;
  readonly blocks: Int32Array;
}

export class SlotCounts {
  readonly #chunks: (Chunk | undefined)[] = [];

  #chunk(slot: number): Chunk {
    const index = Math.floor(slot / SEGMENTS_PER_CHUNK);
    let chunk = this.#chunks[index];
    if (chunk === undefined) {
      const column = () => new Int32Array(SEGMENTS_PER_CHUNK);
      chunk = { live: column(), places: column(), blocks: column(), dirty: true };
      while (this.#chunks.length <= index) this.#chunks.push(undefined);
      this.#chunks[index] = chunk;
    }
    return chunk;
  }

  live(slot: number): number {
    return this.#chunks[Math.floor(slot / SEGMENTS_PER_CHUNK)]?.live[slot % SEGMENTS_PER_CHUNK] ?? 0;
  }
  places(slot: number): number {
    return this.#chunks[Math.floor(slot / SEGMENTS_PER_CHUNK)]?.places[slot % SEGMENTS_PER_CHUNK] ?? 0;
  }
  blocks(slot: number): number {
    return this.#chunks[Math.floor(slot / SEGMENTS_PER_CHUNK)]?.blocks[slot % SEGMENTS_PER_CHUNK] ?? 0;
  }

  addLive(slot: number, delta: number): void {
    const chunk = this.#chunk(slot);
    const next = chunk.live[slot % SEGMENTS_PER_CHUNK]! + delta;
    assert(next >= 0, `live entries of segment slot ${slot} fell below zero`);
    chunk.live[slot % SEGMENTS_PER_CHUNK] = next;
    chunk.dirty = true;
  }
  addPlaces(slot: number, delta: 1 | -1): void {
    const chunk = this.#chunk(slot);
    const next = chunk.places[slot % SEGMENTS_PER_CHUNK]! + delta;
    assert(next >= 0, `places in segment slot ${slot} fell below zero`);
    chunk.places[slot % SEGMENTS_PER_CHUNK] = next;
  }
  addBlocks(slot: number, count: number): void {
    const chunk = this.#chunk(slot);
    chunk.blocks[slot % SEGMENTS_PER_CHUNK] = chunk.blocks[slot % SEGMENTS_PER_CHUNK]! + count;
    chunk.dirty = true;
  }

  /** What a checkpoint said of a slot. */
  install(slot: number, live: number, blocks: number): void {
    const chunk = this.#chunk(slot);
    chunk.live[slot % SEGMENTS_PER_CHUNK] = live;
    chunk.blocks[slot % SEGMENTS_PER_CHUNK] = blocks;
  }
  /** As the checkpoint has it: nothing has changed yet. */
  installed(): void {
    for (const chunk of this.#chunks) if (chunk !== undefined) chunk.dirty = false;
  }
  /** A chunk is to be written anew though nothing in it changed. */
  touchChunk(chunk: number): void {
    const there = this.#chunks[chunk];
    if (there !== undefined) there.dirty = true;
  }
  /** Nothing names the slot any more; it may name another segment later. */
  forget(slot: number): void {
    const chunk = this.#chunk(slot);
    chunk.live[slot % SEGMENTS_PER_CHUNK] = 0;
    chunk.blocks[slot % SEGMENTS_PER_CHUNK] = 0;
    chunk.dirty = true;
  }

  /** Changed chunks as they are now, which count as unchanged from here on. */
  cut(): SlotCut[] {
    const cuts: SlotCut[] = [];
    for (let i = 0; i < this.#chunks.length; i++) {
      const chunk = this.#chunks[i];
      if (chunk?.dirty !== true) continue;
      cuts.push({ chunk: i, live: chunk.live.slice(), blocks: chunk.blocks.slice() });
      chunk.dirty = false;
    }
    return cuts;
  }
}
