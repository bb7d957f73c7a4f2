// The records of a closed segment: from its index, or by walking its frames when no engine lived to write one.

import { corrupt } from '../base/index.js';
import {
  decodeEntry,
  decodeFrame,
  decodeIndexTrailer,
  eachIndexItem,
  entryKind,
  FRAME_HEADER_SIZE,
  INDEX_MOVED_RECORD,
  placeWord0,
  placeWord1,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
  segmentFileName,
} from '../format/index.js';
import type { LogReader } from './log-reader.js';
import type { RecordList } from './record-list.js';
import type { TableEntry } from './segment-table.js';

const TRAILER = 64;

/** Adds them in log order. Rejects as LogReader does, or with DATA_LOSS when what was read contradicts itself. */
export function addRecordsOf(segment: TableEntry, reader: LogReader, records: RecordList): Promise<void> {
  return segment.sealed ? addIndexed(segment, reader, records) : walk(segment, reader, records);
}

async function addIndexed(segment: TableEntry, reader: LogReader, records: RecordList): Promise<void> {
  const bytes = await reader.read(segment, segment.length - TRAILER, TRAILER, (candidate) =>
    decodeIndexTrailer(candidate) === undefined ? 'index trailer' : null,
  );
  const { frameOffset } = decodeIndexTrailer(bytes)!;
  const frame = await reader.frame(segment, frameOffset, segment.length - frameOffset);
  const entry = decodeEntry(frame.bytes, FRAME_HEADER_SIZE, frame.bytes.length);
  if (typeof entry === 'string' || entry.kind !== entryKind.index)
    throw corrupt(`segment ${segmentFileName(segment)} does not end in an index`);
  const word0 = placeWord0(segment.slot, 0);
  eachIndexItem(frame.bytes, FRAME_HEADER_SIZE, (kind, offset, storedLength, block, run) => {
    if (kind === entryKind.record || kind === INDEX_MOVED_RECORD)
      records.add(block, run, word0, placeWord1(offset, storedLength));
  });
}

async function walk(segment: TableEntry, reader: LogReader, records: RecordList): Promise<void> {
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
    addFrame(bytes, at, segment, records);
    at += length;
  }
}

function addFrame(frame: Buffer, frameAt: number, segment: TableEntry, records: RecordList): void {
  let at = FRAME_HEADER_SIZE;
  while (at < frame.length) {
    const head = decodeEntry(frame, at, frame.length);
    if (typeof head === 'string')
      throw corrupt(`segment ${segmentFileName(segment)}, byte ${frameAt + at}: entry: ${head}`);
    const storedLength = Math.ceil(head.length / 64) * 64;
    const record = head.kind === entryKind.record ? readRecordHeader(frame, at) : undefined;
    if (record !== undefined)
      records.add(record.block, record.run, placeWord0(segment.slot, 0), placeWord1(frameAt + at, storedLength));
    at += storedLength;
  }
}
