// The disk format, byte for byte. A change here changes what is on users' disks: raise FORMAT_VERSION, keep reading the old one, and say
// so in FORMAT.md. Records are pinned as decoding (what was once sealed must open) and, uncompressed, as encoding too.

import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type {
  GroupId,
  IncarnationId,
  LineageId,
  NodeId,
  ReignId,
  ReplicaId,
  SnapshotId,
  VolumeId,
} from '../../src/base/index.js';
import * as format from '../../src/format/index.js';
import { createKernel, FramePlan, KeyRing, nativeBinding, OpenBatch, SealBatch } from '../../src/hotpath/index.js';
import { emptySuperblock } from '../lib/memory-replica.js';

const id = <T extends string>(n: number) => `${String(n).repeat(8)}-1111-4222-8333-444444444444` as T;
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex').slice(0, 32);
const volumeId = id<VolumeId>(1);
const lineageId = id<LineageId>(2);
const reignId = id<ReignId>(3);
const digest = Buffer.from('00112233445566778899aabbccddeeff', 'hex');

// Both kernels where the native one was built; it is said loudly when it was not.
const bindings = nativeBinding() === null ? [null] : [null, nativeBinding()];
const kernels = bindings.map((binding) => ({ binding, kernel: createKernel(binding) }));
if (bindings.length === 1) console.warn('the native kernel is not built: only its TypeScript twin is tested');

function ring(binding = nativeBinding()): KeyRing {
  const keys = new KeyRing(lineageId, Buffer.alloc(32, 0x42), binding);
  keys.addReign({ epoch: 5, reignId });
  return keys;
}

const ids = {
  volumeId,
  lineageId,
  replicaId: id<ReplicaId>(6),
  incarnationId: id<IncarnationId>(7),
  nodeId: 'n' as NodeId,
};
const wholeSuperblock = emptySuperblock({ ...ids, sizeBytes: 1 });

describe('format version 1', () => {
  it('is what is written and read', () => {
    expect([format.FORMAT_VERSION, format.FORMATS_READ]).toEqual([1, { min: 1, max: 1 }]);
  });

  it('sizes and limits', () => {
    const numbers = Object.entries(format).filter((entry): entry is [string, number] => typeof entry[1] === 'number');
    expect(Object.fromEntries(numbers.sort(([a], [b]) => (a < b ? -1 : 1)))).toMatchInlineSnapshot(`
      {
        "DIGEST_SIZE": 16,
        "ENTRY_MAGIC": 826623560,
        "ENTRY_PREFIX_SIZE": 16,
        "FORMAT_VERSION": 1,
        "FRAME_FLAG_MAC": 1,
        "FRAME_FLAG_SEALS": 2,
        "FRAME_HEADER_SIZE": 128,
        "FRAME_MAC_AT": 96,
        "FRAME_MAC_SIZE": 16,
        "FRAME_MAGIC": 826689096,
        "FRAME_SIZE_MAX": 4194304,
        "INDEX_MOVED_RECORD": 2,
        "INDEX_TRAILER_MAGIC": 826885704,
        "PAGE_ENTRIES": 1024,
        "RECORD_HEADER_SIZE": 48,
        "SEGMENTS_PER_CHUNK": 256,
        "SEGMENT_HEADER_SIZE": 4096,
        "SEGMENT_MAGIC": 827541064,
        "SEGMENT_SIZE_DEFAULT": 8388608,
        "SEGMENT_SIZE_MAX": 67108864,
        "SLOT_MAX": 16777214,
        "SNAPSHOTS_PER_CHUNK": 64,
        "SUPERBLOCK_MAGIC": 826426952,
        "SUPERBLOCK_SIZE_MAX": 4194304,
        "TABLE_CHUNK_IDS": 512,
        "TABLE_DETACHED": 2147483648,
        "TABLE_HOLE": 1073741824,
        "TABLE_ID_WORDS": 6,
        "TABLE_NUMBER_BITS": 22,
        "TAG_SIZE": 16,
        "VOLUME_SIZE_MAX": 17592186044416,
      }
    `);
    expect(format.entryKind).toMatchInlineSnapshot(`
      {
        "clone": 30,
        "delta": 23,
        "drop": 31,
        "freeze": 18,
        "index": 29,
        "members": 28,
        "move": 21,
        "open": 16,
        "page": 22,
        "range": 17,
        "record": 1,
        "resize": 20,
        "root": 27,
        "segments": 25,
        "snapshotDelete": 19,
        "snapshots": 26,
        "table": 24,
      }
    `);
    expect([format.compressionId, format.cipherId]).toMatchInlineSnapshot(`
      [
        {
          "lz4": 1,
          "none": 0,
          "zstd": 2,
        },
        {
          "aes-256-gcm": 1,
          "chacha20-poly1305": 2,
          "none": 0,
        },
      ]
    `);
  });

  it('segment header and name', () => {
    const header = {
      epoch: 5,
      reignId,
      ordinal: 31,
      slot: 77,
      volumeId,
      lineageId,
      firstSeq: 2 ** 40 + 1,
      previousDigest: digest,
      createdAtMs: 1_700_000_000_000,
    };
    const bytes = format.encodeSegmentHeader(header);
    expect(bytes.subarray(0, 120).toString('hex')).toMatchInlineSnapshot(
      `"4846533101000000303491334d00000011111111111142228333444444444444222222221111422283334444444444443333333311114222833344444444444405000000000000001f000000000000000100000000010000000000000000000000112233445566778899aabbccddeeff0068e5cf8b010000"`,
    );
    expect(sha(bytes)).toMatchInlineSnapshot(`"37bdfd73639938ddd8024d09ccd49118"`);
    expect(format.decodeSegmentHeader(bytes, 'here')).toEqual(header);
    expect(format.segmentFileName({ epoch: 5, ordinal: 31 })).toBe('000000000005-0000001f.seg');
    expect(format.parseSegmentFileName('000000000005-0000001f.seg')).toEqual({ epoch: 5, ordinal: 31 });
    for (const other of ['5-1f.seg', '000000000005-0000001f.seg.tmp', 'superblock.0', '../000000000005-0000001f.seg'])
      expect(format.parseSegmentFileName(other)).toBeUndefined();
  });

  it('control entries', () => {
    const entries: format.ControlEntry[] = [
      { kind: 'open', epoch: 5, reignId, keyed: true, sizeBytes: 1 << 30 },
      { kind: 'range', why: 'zero', block: 2 ** 33, count: 12 },
      { kind: 'freeze', snapshotId: id<SnapshotId>(4), groupId: id<GroupId>(5), wallMs: 1_700_000_000_000 },
      { kind: 'snapshotDelete', snapshotId: id<SnapshotId>(4) },
      { kind: 'resize', sizeBytes: 1 << 30 },
      {
        kind: 'members',
        setVersion: 9,
        members: [{ replicaId: id<ReplicaId>(6), incarnationId: id<IncarnationId>(7) }],
      },
      { kind: 'clone', newVolumeId: id<VolumeId>(8), snapshotId: id<SnapshotId>(4) },
      {
        kind: 'drop',
        segments: [
          { epoch: 1, ordinal: 2 },
          { epoch: 3, ordinal: 4 },
        ],
      },
    ];
    const all = entries.map(format.encodeControl);
    entries.forEach((entry, i) => {
      const head = format.decodeEntry(all[i]!, 0, all[i]!.length);
      if (typeof head === 'string') throw new Error(head);
      expect(format.decodeControl(all[i]!, 0, head.kind, head.length)).toEqual(entry);
    });
    expect(all.map((bytes) => `${bytes.length}:${sha(bytes)}`)).toMatchInlineSnapshot(`
      [
        "64:e77a65ed63f831061c214865e82cb7c8",
        "64:9ba013cb5f3ff370b9dd49e440962c1e",
        "64:015b8fcdf1e0f36c3df7bd0a4f816ad4",
        "64:6bd3a9e4f6771035dbbd398a9d0b61ba",
        "64:8a789bdaed9788f475ca249f1d552877",
        "64:5842b475a011bb75513391b2f3a5c70e",
        "64:0765dba7d72d5a214d0c04ff3ebd70a6",
        "64:e8dfceff2b13084a449e85c0b405b30b",
      ]
    `);
  });

  it('a move entry', () => {
    const from = [0x03_000007, 0x1040_0101, 0x00_000008, 0x1040_0202];
    const entry = format.encodeMove(from);
    const head = format.decodeEntry(entry, 0, entry.length);
    if (typeof head === 'string') throw new Error(head);
    expect(format.decodeMove(entry, 0, head.length)).toEqual(from);
    expect(entry.length).toBe(format.moveEntrySize(2));
    expect([format.INDEX_MOVED_RECORD, entry.toString('base64')]).toMatchInlineSnapshot(`
      [
        2,
        "SEZFMQQ4Sv0wAAAAFQAAAAIAAAAAAAAAAAAAAAAAAAAHAAADAQFAEAgAAAACAkAQAAAAAAAAAAAAAAAAAAAAAA==",
      ]
    `);
    entry.writeUInt32LE(5, 16);
    expect(() => format.decodeMove(entry, 0, head.length)).toThrow(/5 items/);
  });

  it('map, checkpoint and index entries', () => {
    const words = Uint32Array.from({ length: 2048 }, (_, i) => i * 3);
    const changed = new Uint32Array(32);
    changed[0] = 0b1001;
    changed[31] = 0x8000_0000;
    const tableWords = Uint32Array.from({ length: 512 * format.TABLE_ID_WORDS }, (_, i) => i * 5);
    const builder = new format.IndexBuilder();
    for (let i = 0; i < 5; i++) builder.add(1, 4096 + i * 128, 128, 2 ** 34 + i, 8);
    const root = format.encodeRoot({
      coveredThrough: 99,
      sizeBytes: 1 << 30,
      nextId: 12,
      birth: 3,
      nextOrdinal: 4,
      reigns: [{ epoch: 5, reignId }],
      tablePlaces: [
        [1, 2],
        [0, 0],
      ],
      segmentPlaces: [[3, 4]],
      snapshotPlaces: [],
    });
    expect(format.decodeRoot(root, 0, root.readUInt32LE(8))).toEqual({
      coveredThrough: 99,
      sizeBytes: 1 << 30,
      nextId: 12,
      birth: 3,
      nextOrdinal: 4,
      reigns: [{ epoch: 5, reignId }],
      tablePlaces: [
        [1, 2],
        [0, 0],
      ],
      segmentPlaces: [[3, 4]],
      snapshotPlaces: [],
    });
    const index = builder.encode(8192);
    expect([...format.indexItems(index, 0)][4]).toEqual({
      kind: 1,
      offset: 4096 + 512,
      storedLength: 128,
      block: 2 ** 34 + 4,
      run: 8,
    });
    expect(format.decodeIndexTrailer(index.subarray(index.length - 64))).toEqual({ frameOffset: 8192, count: 5 });
    const made = [
      format.encodePage(7, 70, words),
      format.encodeDelta(8, 70, words, changed, 64),
      format.encodeTable(9, tableWords),
      format.encodeSegmentSlots(0, [{ slot: 1, epoch: 2, ordinal: 3, firstSeq: 4, live: 5, blocks: 6 }]),
      format.encodeSnapshotRoots(1, [
        {
          snapshotId: id<SnapshotId>(4),
          groupId: id<GroupId>(5),
          birth: 6,
          position: 65,
          seq: 7,
          sizeBytes: 8,
          wallMs: 9,
        },
      ]),
      root,
      index,
    ];
    expect(made.map((bytes) => `${bytes.length}:${sha(bytes)}`)).toMatchInlineSnapshot(`
      [
        "8256:972307de1576040c779a83ef07e0490d",
        "64:df0fbb50db6d8d67a6242e8262a17461",
        "12352:a67ab81ca37374fecb27e22ef0b01ad1",
        "64:17b208cb9af167296ad411cfa212b419",
        "128:f093475e49ef4fcc9199b8723065162f",
        "192:9f6a3271fda6a235f4b8128a7b461fb7",
        "192:97d20081c9854152e8ef15f8086fe311",
      ]
    `);
    expect([format.placeWord0(0xabcdef, 5), format.placeWord1(63 * 1024 * 1024, 32_896)]).toMatchInlineSnapshot(`
      [
        95145455,
        538951680,
      ]
    `);
  });

  it.each(kernels)('records, sealed without compression: $kernel.name', ({ kernel, binding }) => {
    const batch = new SealBatch();
    batch.add(2 ** 32 + 1, 2, Buffer.alloc(8192, 0x11));
    const out = Buffer.alloc(9000);
    const sealed = (['none', 'aes-256-gcm', 'chacha20-poly1305'] as const).map((cipher) => {
      const plan = new FramePlan({ keys: ring(binding), volumeId, epoch: 5, cipher, compression: 'none' }, digest);
      plan.body(0, 0, 0, 2 ** 33);
      const end = kernel.seal(plan, batch, out);
      return `${end - 128}:${sha(out.subarray(128, end))}`;
    });
    expect(sealed).toMatchInlineSnapshot(`
      [
        "8256:7193114b0e489440ad8d0cab453526ce",
        "8256:5e58613750238d1ff8b916e56ad88c27",
        "8256:4be0752174cf05d2570bb77c8e2b7219",
      ]
    `);
  });

  it.each(kernels)('a compressed, encrypted record of this version opens: $kernel.name', ({ kernel, binding }) => {
    const record = Buffer.from(
      'SEZFMSpTOixiAAAAAQERACwBAAAAAAAABQAAAAAAAAAHAAAAAAAAACIAAAAAAAAARJn/8iKwAW8590VWC/ZXSNkaGinF1c77W+PJqEdgg8OvaFML8an5ixSLVx82w9S3XcYAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=',
      'base64',
    );
    const into = Buffer.alloc(4096);
    const batch = new OpenBatch();
    batch.add(record, 0, record.length, 300, 1, into, 0);
    expect(kernel.open(ring(binding), batch)).toBe(0);
    expect(into.equals(Buffer.alloc(4096, 'holdfast '))).toBe(true);
  });

  it.each(kernels)('a frame with its mac: $kernel.name', ({ kernel, binding }) => {
    const entry = format.encodeControl({ kind: 'resize', sizeBytes: 1 << 30 });
    const bytes = Buffer.alloc(format.FRAME_HEADER_SIZE + entry.length, 0xff);
    entry.copy(bytes, format.FRAME_HEADER_SIZE);
    const keys = ring(binding);
    const plan = new FramePlan({ keys, volumeId, epoch: 5, cipher: 'aes-256-gcm', compression: 'none' }, digest);
    plan.header(6, 5, 4, 31, 4096, 1);
    plan.body(0, entry.length, 1, 0);
    expect(kernel.seal(plan, new SealBatch(), bytes)).toBe(bytes.length);
    expect(bytes.toString('hex')).toMatchInlineSnapshot(
      `"48464631010001009b646f3ad5ccfd94400000000100000005000000000000000600000000000000050000000000000004000000000000001f000000400000001111111111114222833344444444444400112233445566778899aabbccddeeff55aafd9120b807ffb4bc401827c3824200000000000000000000000000000000484645310f7f0c361800000014000000000000400000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"`,
    );
    expect(plan.digest.toString('hex')).toMatchInlineSnapshot(`"1d97c4063374bf8db57a839e16b0b687"`);
    expect(format.frameDigest(bytes, 0).equals(plan.digest)).toBe(true);
    expect(kernel.macMatches(keys, 5, bytes)).toBe(true);
    expect(format.decodeFrame(bytes, 0, true)).toMatchObject({
      flags: 1,
      bodyLength: entry.length,
      entryCount: 1,
      epoch: 5,
      seq: 6,
      committedThrough: 5,
      flushedThrough: 4,
      ordinal: 31,
      offset: 4096,
      volumeId,
    });
    expect(format.followsDigest(bytes, 0, digest)).toBe(true);
  });

  it('superblock envelope', () => {
    const bytes = format.encodeSuperblock({ volumeId, sizeBytes: 1 } as format.Superblock, 3);
    expect(bytes.toString('hex')).toMatchInlineSnapshot(
      `"48464231010000000e60675300000000030000000000000041000000000000007b22766f6c756d654964223a2231313131313131312d313131312d343232322d383333332d343434343434343434343434222c2273697a654279746573223a317d"`,
    );
    expect(format.decodeSuperblock(bytes)).toBe('content');
    // A newer release's field is kept.
    const superblock = { ...wholeSuperblock, later: { a: 1 } };
    const whole = format.encodeSuperblock(superblock, 3);
    expect(format.decodeSuperblock(whole)).toEqual({ superblock, generation: 3 });
  });

  it('every flipped bit of header, frame and superblock is noticed', () => {
    const entry = format.encodeControl({ kind: 'resize', sizeBytes: 1 << 30 });
    const frame = Buffer.alloc(format.FRAME_HEADER_SIZE + entry.length);
    entry.copy(frame, format.FRAME_HEADER_SIZE);
    format.encodeFrameHeader(
      frame,
      0,
      {
        flags: 0,
        bodyLength: entry.length,
        entryCount: 1,
        epoch: 5,
        seq: 6,
        committedThrough: 5,
        flushedThrough: 4,
        ordinal: 31,
        offset: 4096,
        volumeId,
      },
      digest,
    );
    const superblock = format.encodeSuperblock(wholeSuperblock, 3);
    const segment = format.encodeSegmentHeader({
      epoch: 5,
      reignId,
      ordinal: 31,
      slot: 77,
      volumeId,
      lineageId,
      firstSeq: 1,
      previousDigest: digest,
      createdAtMs: 0,
    });
    const each = (bytes: Buffer, unnoticed: (bad: Buffer, bit: number) => boolean) => {
      for (let bit = 0; bit < bytes.length * 8; bit++) {
        const bad = Buffer.from(bytes);
        bad[bit >> 3] = bad[bit >> 3]! ^ (1 << (bit & 7));
        if (unnoticed(bad, bit)) throw new Error(`bit ${bit} went unnoticed`);
      }
    };
    each(frame, (bad) => typeof format.decodeFrame(bad, 0, true) !== 'string');
    // Bytes 6 and 7 are reserved.
    each(superblock, (bad, bit) => typeof format.decodeSuperblock(bad) !== 'string' && bit >> 4 !== 3);
    each(segment, (bad) => {
      try {
        format.decodeSegmentHeader(bad, 'here');
        return true;
      } catch {
        return false;
      }
    });
  });
});
