// Moves records: finds out which of a victim's records something still needs, reads these from whichever replica has them intact, and
// writes them again in MOVE frames. Owner: the cleaner; one batch at a time.
//
// A record is copied as it is, sealed: the tag binds lineage, epoch and block, not the place, so no key is needed. Of a record some of
// whose blocks are dead, an engine that can open it seals the living ones anew: else a record of four lives as long as its last block,
// and a volume written in large pieces and overwritten at random in small ones would take half as much again.
//
// Moves of a batch go out in bursts, each a segment of its own, coldest first, in one turn: no fresh write gets between, and hot and cold
// share no burst, so what dies together lies together. A move takes effect when it is committed, and only where the map still has the old place: whatever was
// written, trimmed or deleted meanwhile wins.

import { BLOCK_SIZE } from '../base/index.js';
import { moveEntrySize, placeIndex, placeLength, placeSlot, placeWord0, readRecordHeader } from '../format/index.js';
import { type BlockMap, type Kernel, type KeyRing, OpenBatch, recordSizeMax, SealBatch } from '../hotpath/index.js';
import type { BlockHeat } from './block-heat.js';
import { endsBurst } from './cleaning-policy.js';
import { DATA_FRAME_MAX, MOVE_BURST_BYTES, MOVE_READ_MOST } from './limits.js';
import type { LogReader } from './log-reader.js';
import type { LogWriter, Moves } from './log-writer.js';
import { type Damaged, PieceReader } from './piece-reader.js';
import type { Pipeline } from './pipeline.js';
import { NOT_READ, PieceList, type RecordList } from './record-list.js';
import type { SegmentTable } from './segment-table.js';

export interface MoverParts {
  readonly map: BlockMap;
  readonly table: SegmentTable;
  readonly writer: LogWriter;
  readonly pipeline: Pipeline;
  readonly reader: LogReader;
  readonly keys: KeyRing;
  readonly kernel: Kernel;
  readonly heat: BlockHeat;
  /** False for a volume whose records this engine can't open. */
  readonly canReseal: boolean;
  /** No more frames may be written. */
  readonly stopped: () => boolean;
}

/** Before a burst: resolves when it may go out, false when the rest shall not. */
export type MayGo = (bytes: number) => Promise<boolean>;

export class Mover {
  readonly #parts: MoverParts;
  readonly #opening = new OpenBatch();
  readonly #sealing = new SealBatch();
  readonly #stored: PieceReader;
  /** Bytes of MOVE frames so far. */
  movedBytes = 0;

  constructor(parts: MoverParts) {
    this.#parts = parts;
    this.#stored = new PieceReader(parts.reader, parts.table);
  }

  /** What something still needs of records[from..to), but for those of segments to be left alone. Their pages' versions are resident. */
  living(records: RecordList, from: number, to: number, leftAlone: ReadonlySet<number>): PieceList {
    const { map, heat, canReseal } = this.#parts;
    const pieces = new PieceList();
    for (let i = from; i < to; i++) {
      const [block, run, word0, word1] = [records.blocks[i]!, records.runs[i]!, records.word0[i]!, records.word1[i]!];
      // Of those left alone the pages may be what could not be read.
      if (leftAlone.has(placeSlot(word0))) continue;
      const live = map.liveBlocks(block, run, word0, word1);
      if (live === 0) continue;
      if (live === (1 << run) - 1 || !canReseal) {
        pieces.addPiece(block, run, word0, word1, heat.of(block), false);
        continue;
      }
      for (let first = 0; first < run; first++) {
        let end = first;
        while (live & (1 << end)) end++;
        if (end === first) continue;
        const word = placeWord0(placeSlot(word0), first);
        pieces.addPiece(block + first, end - first, word, word1, heat.of(block + first), true);
        first = end;
      }
    }
    return pieces;
  }

  /**
   * The pieces' new copies are committed when it resolves (or dead, or held back by `mayGo`). Versions of their pages are pinned. Of
   * what no replica has intact the segment is told to `damaged`; it stays, and the rest is moved.
   */
  async move(pieces: PieceList, mayGo: MayGo, damaged: Damaged): Promise<void> {
    const order = pieces.byHeat();
    let from = 0;
    while (from < order.length) {
      const { to, bytes } = burstFrom(pieces, order, from);
      if (!(await mayGo(bytes)) || this.#parts.stopped()) return;
      try {
        await this.#stored.read(pieces, order.subarray(from, to), damaged);
        if (this.#parts.stopped()) return;
        await this.#burst(pieces, order.subarray(from, to));
      } finally {
        this.#stored.clear();
      }
      from = to;
    }
  }

  /** One segment of moved records, made and sent in this turn; resolves when it is committed. */
  async #burst(pieces: PieceList, order: Uint32Array): Promise<void> {
    const { writer, pipeline } = this.#parts;
    const living = order.filter((i) => pieces.at[i] !== NOT_READ && this.#isNeeded(pieces, i));
    if (living.length === 0) return;
    const opened = this.#open(pieces, living);
    writer.sealSegment();
    let committed: Promise<void> = Promise.resolve();
    let first = 0;
    let size = 0;
    for (let next = 0; next < living.length; next++) {
      const i = living[next]!;
      const most = opened.at.has(i) ? recordSizeMax(pieces.runs[i]!) : placeLength(pieces.word1[i]!);
      if (size + most + moveEntrySize(next - first + 1) > DATA_FRAME_MAX) {
        committed = this.#frame(pieces, living.subarray(first, next), opened);
        first = next;
        size = 0;
      }
      size += most;
    }
    committed = this.#frame(pieces, living.subarray(first), opened);
    writer.sealSegment();
    pipeline.transmit();
    await committed;
  }

  #isNeeded(pieces: PieceList, i: number): boolean {
    return this.#parts.map.liveBlocks(pieces.blocks[i]!, pieces.runs[i]!, pieces.word0[i]!, pieces.word1[i]!) !== 0;
  }

  /** Opens parts of records. One that can't be opened is copied whole, as a keyless engine would. */
  #open(pieces: PieceList, living: Uint32Array): Opened {
    const { kernel, keys } = this.#parts;
    const parts = living.filter((i) => pieces.isPart(i));
    const size = parts.reduce((sum, i) => sum + pieces.runs[i]! * BLOCK_SIZE, 0);
    const opened = { clear: Buffer.allocUnsafe(size), at: new Map<number, number>() };
    let at = 0;
    for (const i of parts) {
      const [run, length] = [pieces.runs[i]!, placeLength(pieces.word1[i]!)];
      this.#opening.add(this.#stored.bytes, pieces.at[i]!, length, pieces.blocks[i]!, run, opened.clear, at);
      opened.at.set(i, at);
      at += run * BLOCK_SIZE;
    }
    if (parts.length > 0 && kernel.open(keys, this.#opening) > 0)
      for (const [row, i] of parts.entries()) if (this.#opening.fault(row) !== null) opened.at.delete(i);
    this.#opening.clear();
    return opened;
  }

  /** Records that are copied come first, as writeMove() has it. */
  #frame(pieces: PieceList, some: Uint32Array, opened: Opened): Promise<void> {
    const { writer, pipeline, map } = this.#parts;
    const { bytes } = this.#stored;
    const moves: Moves = { blocks: [], runs: [], from: [] };
    const copies = { bytes, at: [] as number[], lengths: [] as number[] };
    for (const i of some) {
      if (opened.at.has(i)) continue;
      const [word0, word1] = [pieces.word0[i]!, pieces.word1[i]!];
      // A part that could not be opened takes its whole record along.
      const run = pieces.isPart(i) ? readRecordHeader(bytes, pieces.at[i]!)!.run : pieces.runs[i]!;
      addMove(moves, pieces.blocks[i]! - placeIndex(word0), run, placeWord0(placeSlot(word0), 0), word1);
      copies.at.push(pieces.at[i]!);
      copies.lengths.push(placeLength(word1));
    }
    for (const i of some) {
      const at = opened.at.get(i);
      if (at === undefined) continue;
      this.#sealing.add(pieces.blocks[i]!, pieces.runs[i]!, opened.clear, at);
      addMove(moves, pieces.blocks[i]!, pieces.runs[i]!, pieces.word0[i]!, pieces.word1[i]!);
    }
    const { frame, to } = writer.writeMove(moves, copies, this.#sealing);
    this.#sealing.clear();
    this.movedBytes += frame.bytes.length;
    const item = pipeline.newest(frame);
    item.apply = () => applyMoves(map, moves, to, frame.segment.slot);
    return new Promise((resolve) => {
      item.committed = resolve;
    });
  }
}

/** The next burst is order[from..to), of so many bytes at most. */
export function burstFrom(pieces: PieceList, order: Uint32Array, from: number): { to: number; bytes: number } {
  let bytes = 0;
  let read = 0;
  let to = from;
  while (to < order.length && bytes < MOVE_BURST_BYTES && read < MOVE_READ_MOST) {
    if (to > from && endsBurst(bytes, pieces.heat(order[to - 1]!), pieces.heat(order[to]!))) break;
    bytes += writtenMost(pieces, order[to]!);
    read += placeLength(pieces.word1[order[to++]!]!);
  }
  return { to, bytes };
}

/** Parts of records in the clear: where in `clear` by piece. */
interface Opened {
  readonly clear: Buffer;
  readonly at: Map<number, number>;
}

function addMove(moves: Moves, block: number, run: number, word0: number, word1: number): void {
  moves.blocks.push(block);
  moves.runs.push(run);
  moves.from.push(word0, word1);
}

function applyMoves(map: BlockMap, { blocks, runs, from }: Moves, to: readonly number[], slot: number): void {
  let stored = 0;
  for (let i = 0; i < blocks.length; i++) {
    map.move(blocks[i]!, runs[i]!, from[2 * i]!, from[2 * i + 1]!, to[2 * i]!, to[2 * i + 1]!);
    stored += runs[i]!;
  }
  map.stored(slot, blocks.length, stored);
}

/** Bytes that a piece takes at most when it is written. */
function writtenMost(pieces: PieceList, i: number): number {
  return pieces.isPart(i) ? recordSizeMax(pieces.runs[i]!) : placeLength(pieces.word1[i]!);
}
