// The contents of entries whose checksum is right: control entries, the map's checkpoint, indexes, segment headers. Each is read
// or refused as damage. What was read is within what the format allows and, written again, says the same.

import { crc32c, HoldfastError } from '../../../src/base/index.js';
import {
  type ControlEntry,
  decodeControl,
  decodeDelta,
  decodeEntry,
  decodeIndexTrailer,
  decodeMove,
  decodePage,
  decodeRoot,
  decodeSegmentHeader,
  decodeSegmentSlots,
  decodeSnapshotRoots,
  decodeTable,
  encodeControl,
  encodeDelta,
  encodeMove,
  encodePage,
  encodeRoot,
  encodeSegmentHeader,
  encodeSegmentSlots,
  encodeSnapshotRoots,
  encodeTable,
  entryKind,
  finishEntry,
  IndexBuilder,
  indexItems,
  PAGE_ENTRIES,
  parseSegmentFileName,
  SEGMENT_HEADER_SIZE,
  segmentFileName,
  TABLE_CHUNK_IDS,
  TABLE_ID_WORDS,
} from '../../../src/format/index.js';
import type { Chance } from '../../lib/crash/virtual-time.js';
import { FrameMaker, reignOf } from '../../lib/frame-maker.js';
import { edgeNumbers, mutateBytes } from '../mutate.js';
import { resealSegmentHeader } from '../reseal.js';
import { type FuzzBench, type FuzzTarget, must } from '../target.js';

const uuid = (n: number) => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}` as never;
const words = (length: number) => Uint32Array.from({ length }, (_, i) => (i % 7 === 0 ? 0 : i * 0x01010101) >>> 0);
const changed = Uint32Array.from({ length: PAGE_ENTRIES / 32 }, (_, i) => (i % 5 === 0 ? 0x80010003 : 0));

const controls: readonly ControlEntry[] = [
  { kind: 'open', epoch: 7, reignId: uuid(1), keyed: true, sizeBytes: 1 << 30 },
  { kind: 'range', why: 'zero', block: 5, count: 2 ** 40 },
  { kind: 'freeze', snapshotId: uuid(2), groupId: uuid(3), wallMs: 1_700_000_000_000 },
  { kind: 'snapshotDelete', snapshotId: uuid(2) },
  { kind: 'resize', sizeBytes: 2 ** 44 },
  {
    kind: 'members',
    setVersion: 9,
    members: [1, 2, 3].map((n) => ({ replicaId: uuid(n), incarnationId: uuid(n + 9) })),
  },
  { kind: 'clone', newVolumeId: uuid(4), snapshotId: uuid(2) },
  { kind: 'drop', segments: [1, 2].map((n) => ({ epoch: n, ordinal: n + 3 })) },
];

function index(): Buffer {
  const builder = new IndexBuilder();
  for (let i = 0; i < 5; i++) builder.add(entryKind.record, 8192 + i * 640, 640, i * 3, 1);
  return builder.encode(65_536);
}

const root = {
  ...{ coveredThrough: 900, sizeBytes: 1 << 30, nextId: 12, birth: 2, nextOrdinal: 30 },
  reigns: [reignOf(1), reignOf(2)],
  tablePlaces: [[1, 0x00100040]],
  segmentPlaces: [
    [1, 0x00100080],
    [0, 0],
  ],
  snapshotPlaces: [[2, 0x00100100]],
} as const;

const seeds = [
  ...controls.map((entry) => encodeControl(entry)),
  encodeMove([1, 0x00100040, 2, 0x00200080]),
  encodePage(3, 4, words(PAGE_ENTRIES * 2)),
  encodeDelta(3, 4, words(PAGE_ENTRIES * 2), changed, 640),
  encodeTable(0, words(TABLE_CHUNK_IDS * TABLE_ID_WORDS)),
  encodeSegmentSlots(
    0,
    [0, 1].map((slot) => ({ slot, ordinal: slot + 1, epoch: 1, firstSeq: slot * 9 + 1, live: 3, blocks: 8 })),
  ),
  encodeSnapshotRoots(0, [
    { snapshotId: uuid(2), groupId: uuid(0), birth: 1, position: 0, seq: 9, sizeBytes: 1 << 30, wallMs: 5 },
  ]),
  encodeRoot(root),
  index(),
  new FrameMaker(reignOf(3), { seq: 4, digest: Buffer.alloc(16, 1), ordinal: 2 })
    .next()
    .bytes.subarray(0, SEGMENT_HEADER_SIZE),
];

/** What it says, and the same written again. */
function read(
  bytes: Buffer,
  kind: number,
  length: number,
): { said: unknown; again: Buffer; reread: (b: Buffer, l: number) => unknown } {
  const wordsOf = () => new Uint32Array(PAGE_ENTRIES * 2);
  const page = (from: Buffer, size: number) => {
    const into = wordsOf();
    return { ...decodePage(from, 0, size, into), words: into };
  };
  const delta = (from: Buffer, size: number) => {
    const [into, bits] = [wordsOf(), new Uint32Array(PAGE_ENTRIES / 32)];
    return { ...decodeDelta(from, 0, size, into, bits), words: into, bits };
  };
  switch (kind) {
    case entryKind.page: {
      const said = page(bytes, length);
      return { said, again: encodePage(said.id, said.number, said.words), reread: page };
    }
    case entryKind.delta: {
      const said = delta(bytes, length);
      return { said, again: encodeDelta(said.id, said.number, said.words, said.bits, said.spent), reread: delta };
    }
    case entryKind.table: {
      const said = decodeTable(bytes, 0, length);
      return { said, again: encodeTable(said.chunk, said.words), reread: (b, l) => decodeTable(b, 0, l) };
    }
    case entryKind.segments: {
      const said = decodeSegmentSlots(bytes, 0, length);
      return { said, again: encodeSegmentSlots(said.chunk, said.slots), reread: (b, l) => decodeSegmentSlots(b, 0, l) };
    }
    case entryKind.snapshots: {
      const said = decodeSnapshotRoots(bytes, 0, length);
      const again = encodeSnapshotRoots(said.chunk, said.snapshots);
      return { said, again, reread: (b, l) => decodeSnapshotRoots(b, 0, l) };
    }
    case entryKind.root: {
      const said = decodeRoot(bytes, 0, length);
      return { said, again: encodeRoot(said), reread: (b, l) => decodeRoot(b, 0, l) };
    }
    case entryKind.move: {
      const said = decodeMove(bytes, 0, length);
      return { said, again: encodeMove(said), reread: (b, l) => decodeMove(b, 0, l) };
    }
    case entryKind.index: {
      const said = indexItems(bytes, 0);
      const builder = new IndexBuilder();
      for (const item of said) builder.add(item.kind, item.offset, item.storedLength, item.block, item.run);
      const at = decodeIndexTrailer(bytes.subarray(length - 64, length))?.frameOffset ?? 0;
      return { said, again: builder.encode(at), reread: (b) => indexItems(b, 0) };
    }
    default: {
      const said = decodeControl(bytes, 0, kind, length);
      return { said, again: encodeControl(said), reread: (b, l) => decodeControl(b, 0, kind, l) };
    }
  }
}

class EntryBench implements FuzzBench {
  readonly seeds = seeds;

  mutate(input: Buffer, chance: Chance): Buffer {
    const bytes = mutateBytes(input, chance, chance.between(1, 3), 64 * 1024);
    if (bytes.length === SEGMENT_HEADER_SIZE && chance.hit(0.9)) resealSegmentHeader(bytes);
    if (bytes.length < 16 || chance.hit(0.05)) return bytes;
    // Counts and numbers lie in front.
    const field = 16 + 4 * chance.below(16);
    if (chance.hit(0.3) && field + 4 <= bytes.length)
      bytes.writeUInt32LE(chance.pick([...edgeNumbers, 3, 4, 5, 100]), field);
    if (chance.hit(0.1)) bytes[12] = chance.pick(Object.values(entryKind));
    if (chance.hit(0.3)) bytes.writeUInt32LE(Math.max(16, bytes.length - chance.below(64)), 8);
    const length = bytes.readUInt32LE(8);
    if (length >= 16 && length <= bytes.length) finishEntry(bytes, 0, length);
    return bytes;
  }

  run(bytes: Buffer): string {
    try {
      return bytes.length === SEGMENT_HEADER_SIZE ? segmentHeader(bytes) : entry(bytes);
    } catch (error) {
      if (error instanceof HoldfastError && (error.reason === 'Corrupt' || error.reason === 'UnknownVersion'))
        return `refused: ${error.message.replaceAll(/\d+/g, '#').slice(0, 60)}`;
      throw error;
    }
  }

  async close(): Promise<void> {}
}

function entry(bytes: Buffer): string {
  const head = decodeEntry(bytes, 0, bytes.length);
  if (typeof head === 'string') return head;
  must(crc32c(bytes.subarray(8, head.length)) === bytes.readUInt32LE(4), 'an entry with a wrong checksum was taken');
  if (head.kind === entryKind.record) return 'record';
  const { said, again, reread } = read(bytes, head.kind, head.length);
  checkNumbers(said, `entry of kind ${head.kind}`);
  const headAgain = decodeEntry(again, 0, again.length);
  must(typeof headAgain !== 'string', () => `written again it is ${headAgain}`);
  const twice = JSON.stringify(reread(again, (headAgain as { length: number }).length));
  must(twice === JSON.stringify(said), () => `kind ${head.kind} written again says ${twice.slice(0, 200)}`);
  return `kind ${head.kind}`;
}

function segmentHeader(bytes: Buffer): string {
  const header = decodeSegmentHeader(bytes, 'a segment');
  checkNumbers(header, 'segment header');
  const again = decodeSegmentHeader(encodeSegmentHeader(header), 'a segment');
  must(JSON.stringify(again) === JSON.stringify(header), 'written again it differs');
  const name = segmentFileName(header);
  const parsed = parseSegmentFileName(name);
  must(parsed?.epoch === header.epoch && parsed.ordinal === header.ordinal, `${name} does not name its segment`);
  return 'segment header';
}

/** Every number is one that the rest of the program can count with. */
function checkNumbers(value: unknown, where: string): void {
  if (typeof value === 'number') must(Number.isSafeInteger(value) && value >= 0, `${where}: the number ${value}`);
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) return;
  for (const [key, item] of Object.entries(value)) checkNumbers(item, `${where}, ${key}`);
}

export const entries: FuzzTarget = {
  name: 'entries',
  sources: ['format/'],
  open: async () => new EntryBench(),
};
