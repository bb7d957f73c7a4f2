// Every region of every kind of file of a replica, as stretches of bytes with names: where damage can be done.

import { uuidFromBytes } from '../../../src/base/index.js';
import {
  decodeEntry,
  decodeFrame,
  entryKind,
  FRAME_FLAG_MAC,
  FRAME_FLAG_SEALS,
  FRAME_HEADER_SIZE,
  parseSegmentFileName,
  RECORD_HEADER_SIZE,
  readRecordHeader,
  SEGMENT_HEADER_SIZE,
  TAG_SIZE,
} from '../../../src/format/index.js';
import type { RecordingDisk } from '../recording-disk.js';

export interface Region {
  readonly file: string;
  /** What lies there: the same name for the same field of every structure. */
  readonly name: string;
  readonly at: number;
  readonly length: number;
  /** The frame (or header) that it is a part of: what an error may name. */
  readonly whole: { readonly from: number; readonly to: number };
  /** Of a frame: its seq. */
  readonly seq: number | null;
}

type Field = readonly [name: string, at: number, length: number];

const segmentFields: readonly Field[] = [
  ['magic', 0, 4],
  ['version', 4, 2],
  ['flags', 6, 2],
  ['checksum', 8, 4],
  ['slot', 12, 4],
  ['volume', 16, 16],
  ['lineage', 32, 16],
  ['reign', 48, 16],
  ['epoch', 64, 8],
  ['ordinal', 72, 8],
  ['first seq', 80, 8],
  ['previous digest', 96, 16],
  ['time', 112, 8],
  ['zeroes', 120, SEGMENT_HEADER_SIZE - 120],
];

const frameFields: readonly Field[] = [
  ['magic', 0, 4],
  ['version', 4, 2],
  ['flags', 6, 2],
  ['checksum', 8, 4],
  ['body checksum', 12, 4],
  ['body length', 16, 4],
  ['entries', 20, 4],
  ['epoch', 24, 8],
  ['seq', 32, 8],
  ['committed through', 40, 8],
  ['flushed through', 48, 8],
  ['ordinal', 56, 4],
  ['offset', 60, 4],
  ['volume', 64, 16],
  ['previous digest', 80, 16],
  ['mac', 96, 16],
  ['zeroes', 112, 16],
];

const recordFields: readonly Field[] = [
  ['magic', 0, 4],
  ['checksum', 4, 4],
  ['length', 8, 4],
  ['kind', 12, 1],
  ['run', 13, 1],
  ['compression and cipher', 14, 1],
  ['byte 15', 15, 1],
  ['block', 16, 8],
  ['epoch', 24, 8],
  ['number', 32, 8],
  ['payload length', 40, 4],
  ['zeroes', 44, 4],
];

const superblockFields: readonly Field[] = [
  ['magic', 0, 4],
  ['version', 4, 2],
  ['zeroes', 6, 2],
  ['checksum', 8, 4],
  ['more zeroes', 12, 4],
  ['generation', 16, 8],
  ['payload length', 24, 4],
  ['last zeroes', 28, 4],
];

const kindNames = new Map<number, string>(Object.entries(entryKind).map(([name, kind]) => [kind, name]));

export function regionsOf(disk: RecordingDisk, directory: string, name: string): Region[] {
  const file = `${directory}/${name}`;
  const bytes = disk.contents(file);
  if (parseSegmentFileName(name) !== undefined) return segmentRegions(file, bytes);
  if (name.startsWith('superblock')) {
    const whole = { from: 0, to: bytes.length };
    const fields = superblockFields.map(([field, at, length]) => ({
      file,
      name: `superblock ${field}`,
      at,
      length,
      whole,
      seq: null,
    }));
    return [...fields, { file, name: 'superblock payload', at: 32, length: bytes.length - 32, whole, seq: null }];
  }
  return [
    {
      file,
      name: name.replace(/^.*\//, ''),
      at: 0,
      length: bytes.length,
      whole: { from: 0, to: bytes.length },
      seq: null,
    },
  ];
}

function segmentRegions(file: string, bytes: Buffer): Region[] {
  const header = { from: 0, to: SEGMENT_HEADER_SIZE };
  const regions: Region[] = segmentFields.map(([name, at, length]) => ({
    file,
    name: `segment header ${name}`,
    at,
    length,
    whole: header,
    seq: null,
  }));
  for (let at = SEGMENT_HEADER_SIZE; at < bytes.length; ) {
    const frame = decodeFrame(bytes, at, true);
    if (typeof frame === 'string') break;
    const whole = { from: at, to: at + FRAME_HEADER_SIZE + frame.bodyLength };
    const kind = (frame.flags & FRAME_FLAG_SEALS) !== 0 ? 'sealing frame' : 'frame';
    const add = (name: string, start: number, length: number) => {
      if (length > 0) regions.push({ file, name, at: start, length, whole, seq: frame.seq });
    };
    for (const [name, start, length] of frameFields) {
      if (name === 'mac' && (frame.flags & FRAME_FLAG_MAC) === 0) add(`${kind} header no mac`, at + start, length);
      else add(`${kind} header ${name}`, at + start, length);
    }
    for (let entry = at + FRAME_HEADER_SIZE; entry < whole.to; ) {
      const head = decodeEntry(bytes, entry, whole.to);
      if (typeof head === 'string') throw new Error(`${file} has a bad entry at ${entry}: ${head}`);
      const stored = Math.ceil(head.length / 64) * 64;
      entryRegions(bytes, entry, head.kind, head.length, add);
      add('padding', entry + head.length, stored - head.length);
      entry += stored;
    }
    at = whole.to;
  }
  return regions;
}

function entryRegions(
  bytes: Buffer,
  at: number,
  kind: number,
  length: number,
  add: (name: string, start: number, length: number) => void,
): void {
  if (kind === entryKind.record) {
    const record = readRecordHeader(bytes, at)!;
    const packed = record.compression === 0 ? 'whole' : 'packed';
    for (const [name, start, size] of recordFields) add(`record ${name}`, at + start, size);
    add(`record ${packed} payload`, at + RECORD_HEADER_SIZE, record.payloadLength);
    if (record.cipher !== 0) add('record tag', at + RECORD_HEADER_SIZE + record.payloadLength, TAG_SIZE);
    return;
  }
  const name = kindNames.get(kind)!;
  add(`${name} prefix`, at, 16);
  if (kind === entryKind.index) {
    add('index content', at + 16, length - 16 - 64);
    add('index trailer', at + length - 64, 64);
  } else add(`${name} content`, at + 16, length - 16);
}

/** The volume id that a frame header holds, for tests that look for foreign frames. */
export function volumeAt(bytes: Buffer, frameAt: number): string {
  return uuidFromBytes(bytes, frameAt + 64);
}
