// Moves records: finds out which of a victim's records something still needs, reads these from whichever replica has them intact, and
// writes them again in MOVE frames. Owner: the cleaner; one batch at a time.
//
// A record is copied as it is, sealed: the tag binds lineage, epoch and block, not the place, so no key is needed. Of a record some of
// whose blocks are dead, an engine that can open it seals the living ones anew: else a record of four lives as long as its last block,
// and a volume written in large pieces and overwritten at random in small ones would take half as much again.
//
// Moves of a batch go out in bursts, each a segment of its own, coldest first, in one turn: no fresh write gets between, so what dies
// together lies together. A move takes effect when it is committed, and only where the map still has the old place: whatever was
// written, trimmed or deleted meanwhile wins.

import { BLOCK_SIZE, HoldfastError } from '../base/index.js';
import { decodeEntry, entryKind, moveEntrySize, placeWord0, placeWord1, readRecordHeader } from '../format/index.js';
import { type BlockMap, type Kernel, type KeyRing, OpenBatch, recordSizeMax, SealBatch } from '../hotpath/index.js';
import type { BlockHeat } from './block-heat.js';
import { DATA_FRAME_MAX, MOVE_BURST_BYTES, MOVE_READ_BYTES, MOVE_READ_GAP } from './limits.js';
import type { LogReader } from './log-reader.js';
import type { LogWriter, MovedRecord } from './log-writer.js';
import type { Pipeline } from './pipeline.js';
import type { TableEntry } from './segment-table.js';

export interface MoverParts {
  readonly map: BlockMap;
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

/** A record of a victim that something needs. */
export interface LiveRecord {
  readonly segment: TableEntry;
  readonly block: number;
  readonly run: number;
  readonly offset: number;
  readonly storedLength: number;
  /** Bit i: block i of the run is needed. */
  readonly live: number;
}

/** What is written: a whole record, or adjacent blocks of one that were opened. */
interface Piece {
  readonly block: number;
  readonly run: number;
  /** The old map entry of its first block. */
  readonly word0: number;
  readonly word1: number;
  readonly heat: number;
  readonly bytes: Buffer;
  readonly at: number;
  /** Stored bytes of a copy; 0 for blocks in the clear, to be sealed. */
  readonly length: number;
}

/** Before a burst: resolves when it may go out, false when the rest shall not. */
export type MayGo = (bytes: number) => Promise<boolean>;

export class Mover {
  readonly #parts: MoverParts;
  readonly #opening = new OpenBatch();
  readonly #sealing = new SealBatch();
  /** Bytes of MOVE frames so far. */
  movedBytes = 0;

  constructor(parts: MoverParts) {
    this.#parts = parts;
  }

  /** Which blocks of the record at that place are needed; its pages' versions are resident. Bit i: block i of the run. */
  liveBlocks(slot: number, block: number, run: number, offset: number, storedLength: number): number {
    const word1 = placeWord1(offset, storedLength);
    let live = 0;
    for (let i = 0; i < run; i++)
      if (this.#parts.map.countAt(block + i, 1, placeWord0(slot, i), word1) > 0) live |= 1 << i;
    return live;
  }

  /**
   * The records' new copies are committed when it resolves (or dead, or held back by `mayGo`). Versions of their pages are pinned. Of
   * what no replica has intact the segment is told to `damaged`; it stays, and the rest is moved.
   */
  async move(
    records: readonly LiveRecord[],
    mayGo: MayGo,
    damaged: (segment: TableEntry, error: HoldfastError) => void,
  ): Promise<void> {
    const pieces: Piece[] = [];
    for (const range of ranges(records)) {
      try {
        const bytes = await this.#read(range);
        if (this.#parts.stopped()) return;
        this.#take(range, bytes, pieces);
      } catch (error) {
        if (!(error instanceof HoldfastError) || error.code !== 'DATA_LOSS') throw error;
        damaged(range[0]!.segment, error);
      }
    }
    // A stable sort: neighbours of equal heat stay neighbours, so that reads ahead go on finding them together.
    pieces.sort((a, b) => a.heat - b.heat);
    let from = 0;
    while (from < pieces.length) {
      let bytes = 0;
      let to = from;
      while (to < pieces.length && bytes < MOVE_BURST_BYTES) bytes += storedMax(pieces[to++]!);
      if (!(await mayGo(bytes)) || this.#parts.stopped()) return;
      await this.#burst(pieces.slice(from, to));
      from = to;
    }
  }

  async #read(range: readonly LiveRecord[]): Promise<Buffer> {
    const first = range[0]!;
    const last = range[range.length - 1]!;
    return this.#parts.reader.read(
      first.segment,
      first.offset,
      last.offset + last.storedLength - first.offset,
      (bytes) => {
        for (const record of range) {
          const fault = recordFault(bytes, record.offset - first.offset, record);
          if (fault !== null) return fault;
        }
        return null;
      },
    );
  }

  /** Turns records that were read into what is to be written. */
  #take(range: readonly LiveRecord[], bytes: Buffer, pieces: Piece[]): void {
    const start = range[0]!.offset;
    for (const record of range) {
      const whole = record.live === (1 << record.run) - 1;
      if (!whole && this.#parts.canReseal && this.#open(record, bytes, record.offset - start, pieces)) continue;
      pieces.push({
        block: record.block,
        run: record.run,
        word0: placeWord0(record.segment.slot, 0),
        word1: placeWord1(record.offset, record.storedLength),
        heat: this.#parts.heat.of(record.block),
        bytes,
        at: record.offset - start,
        length: record.storedLength,
      });
    }
  }

  /** Opens the needed blocks of a record; false when that can't be done: it is copied whole then, as a keyless engine would. */
  #open(record: LiveRecord, bytes: Buffer, at: number, pieces: Piece[]): boolean {
    const { kernel, keys, heat } = this.#parts;
    const batch = this.#opening;
    const clear = Buffer.allocUnsafe(record.run * BLOCK_SIZE);
    const opened: Piece[] = [];
    for (let i = 0; i < record.run; i++) {
      if ((record.live & (1 << i)) === 0) continue;
      let run = 1;
      while (i + run < record.run && record.live & (1 << (i + run))) run++;
      batch.add(bytes, at, record.storedLength, record.block + i, run, clear, i * BLOCK_SIZE);
      opened.push({
        block: record.block + i,
        run,
        word0: placeWord0(record.segment.slot, i),
        word1: placeWord1(record.offset, record.storedLength),
        heat: heat.of(record.block + i),
        bytes: clear,
        at: i * BLOCK_SIZE,
        length: 0,
      });
      i += run;
    }
    const faults = kernel.open(keys, batch);
    batch.clear();
    if (faults > 0) return false;
    pieces.push(...opened);
    return true;
  }

  /** One segment of moved records, made and sent in this turn; resolves when it is committed. */
  async #burst(pieces: readonly Piece[]): Promise<void> {
    const { writer, pipeline } = this.#parts;
    const living = pieces.filter((piece) => this.#isNeeded(piece));
    if (living.length === 0) return;
    writer.sealSegment();
    let committed: Promise<void> = Promise.resolve();
    let frame: Piece[] = [];
    let size = 0;
    for (const piece of living) {
      const worst = storedMax(piece);
      if (size + worst + moveEntrySize(frame.length + 1) > DATA_FRAME_MAX) {
        committed = this.#frame(frame);
        frame = [];
        size = 0;
      }
      frame.push(piece);
      size += worst;
    }
    committed = this.#frame(frame);
    writer.sealSegment();
    pipeline.transmit();
    await committed;
  }

  #isNeeded(piece: Piece): boolean {
    const { map } = this.#parts;
    return map.countAt(piece.block, piece.run, piece.word0, piece.word1) > 0;
  }

  #frame(pieces: readonly Piece[]): Promise<void> {
    const { writer, pipeline, map } = this.#parts;
    const ordered = [...pieces.filter((piece) => piece.length > 0), ...pieces.filter((piece) => piece.length === 0)];
    const copies: MovedRecord[] = [];
    const from: number[] = [];
    for (const piece of ordered) {
      from.push(piece.word0, piece.word1);
      if (piece.length > 0) copies.push(piece);
      else this.#sealing.add(piece.block, piece.run, piece.bytes, piece.at);
    }
    const { frame, to } = writer.writeMove(from, copies, this.#sealing);
    this.#sealing.clear();
    this.movedBytes += frame.bytes.length;
    const item = pipeline.newest(frame);
    const moves = ordered.map(
      ({ block, run, word0, word1 }, i) => [block, run, word0, word1, to[2 * i]!, to[2 * i + 1]!] as const,
    );
    item.apply = () => {
      let blocks = 0;
      for (const [block, run, from0, from1, to0, to1] of moves) {
        map.move(block, run, from0, from1, to0, to1);
        blocks += run;
      }
      map.stored(frame.segment.slot, moves.length, blocks);
    };
    return new Promise((resolve) => {
      item.committed = resolve;
    });
  }
}

function storedMax(piece: Piece): number {
  return piece.length > 0 ? piece.length : recordSizeMax(piece.run);
}

/** Records of a segment that are read together: near each other, in order. */
function* ranges(records: readonly LiveRecord[]): Generator<LiveRecord[]> {
  let range: LiveRecord[] = [];
  for (const record of records) {
    const first = range[0];
    const last = range[range.length - 1];
    const together =
      first !== undefined &&
      last !== undefined &&
      first.segment === record.segment &&
      record.offset - (last.offset + last.storedLength) <= MOVE_READ_GAP &&
      record.offset + record.storedLength - first.offset <= MOVE_READ_BYTES;
    if (!together && range.length > 0) {
      yield range;
      range = [];
    }
    range.push(record);
  }
  if (range.length > 0) yield range;
}

function recordFault(bytes: Buffer, at: number, record: LiveRecord): string | null {
  const head = decodeEntry(bytes, at, at + record.storedLength);
  if (typeof head === 'string') return `record of block ${record.block}: ${head}`;
  if (head.kind !== entryKind.record)
    return `an entry of kind ${head.kind} where a record of block ${record.block} was`;
  const found = readRecordHeader(bytes, at);
  if (found?.block !== record.block || found.run !== record.run)
    return `another record where that of block ${record.block} was`;
  return null;
}
