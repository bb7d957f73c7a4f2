// What lies in a closed segment, entry by entry: from its index, or by walking its frames when no engine lived to write one.

import { corrupt } from '../base/index.js';
import {
  decodeEntry,
  decodeFrame,
  decodeIndexTrailer,
  entryKind,
  FRAME_HEADER_SIZE,
  INDEX_MOVED_RECORD,
  type IndexItem,
  indexItems,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
  segmentFileName,
} from '../format/index.js';
import type { LogReader } from './log-reader.js';
import type { TableEntry } from './segment-table.js';

const TRAILER = 64;

/** In log order; the index itself is left out. Rejects as LogReader does, or with DATA_LOSS when what was read contradicts itself. */
export async function segmentItems(reader: LogReader, segment: TableEntry): Promise<IndexItem[]> {
  return segment.sealed ? indexOf(reader, segment) : walk(reader, segment);
}

async function indexOf(reader: LogReader, segment: TableEntry): Promise<IndexItem[]> {
  const bytes = await reader.read(segment, segment.length - TRAILER, TRAILER, (candidate) =>
    decodeIndexTrailer(candidate) === undefined ? 'index trailer' : null,
  );
  const { frameOffset } = decodeIndexTrailer(bytes)!;
  const frame = await reader.frame(segment, frameOffset, segment.length - frameOffset);
  const entry = decodeEntry(frame.bytes, FRAME_HEADER_SIZE, frame.bytes.length);
  if (typeof entry === 'string' || entry.kind !== entryKind.index)
    throw corrupt(`segment ${segmentFileName(segment)} does not end in an index`);
  return [...indexItems(frame.bytes, FRAME_HEADER_SIZE)];
}

async function walk(reader: LogReader, segment: TableEntry): Promise<IndexItem[]> {
  const items: IndexItem[] = [];
  let at = SEGMENT_HEADER_SIZE;
  while (at < segment.length) {
    const head = await reader.read(segment, at, FRAME_HEADER_SIZE, (bytes) => {
      const header = decodeFrame(bytes, 0, false);
      return typeof header === 'string' ? `frame header: ${header}` : null;
    });
    const header = decodeFrame(head, 0, false);
    if (typeof header === 'string') throw corrupt(`segment ${segmentFileName(segment)}, byte ${at}: ${header}`);
    const length = FRAME_HEADER_SIZE + header.bodyLength;
    const { bytes } = await reader.frame(segment, at, length);
    addEntries(items, bytes, at, header.seq, segment);
    at += length;
  }
  return items;
}

function addEntries(items: IndexItem[], frame: Buffer, frameAt: number, seq: number, segment: TableEntry): void {
  let at = FRAME_HEADER_SIZE;
  let moved = false;
  while (at < frame.length) {
    const head = decodeEntry(frame, at, frame.length);
    if (typeof head === 'string')
      throw corrupt(`segment ${segmentFileName(segment)}, byte ${frameAt + at}: entry: ${head}`);
    if (head.kind === entryKind.move) moved = true;
    const record = head.kind === entryKind.record ? readRecordHeader(frame, at) : undefined;
    const storedLength = Math.ceil(head.length / 64) * 64;
    items.push({
      kind: record !== undefined && moved ? INDEX_MOVED_RECORD : head.kind,
      offset: frameAt + at,
      storedLength,
      block: record?.block ?? seq,
      run: record?.run ?? 0,
    });
    at += storedLength;
  }
}
