import { randomBytes } from 'node:crypto';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { crc32c, type LineageId, type ReignId, type VolumeId } from '../../../src/base/index.js';
import {
  type Cipher,
  type Compression,
  decodeFrame,
  FRAME_FLAG_MAC,
  FRAME_HEADER_SIZE,
  frameDigest,
} from '../../../src/format/index.js';
import {
  createKernel,
  FramePlan,
  KeyRing,
  nativeBinding,
  OpenBatch,
  type OpenFault,
  recordSizeMax,
  SealBatch,
} from '../../../src/hotpath/index.js';

const volumeId = '99999999-2222-4333-8444-555555555555' as VolumeId;
const lineage = '11111111-2222-4333-8444-555555555555' as LineageId;
const reign = { epoch: 7, reignId: 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee' as ReignId };
const ciphers = ['none', 'aes-256-gcm', 'chacha20-poly1305'] as const;

const native = nativeBinding();
if (native === null) console.warn('the native kernel is not built: only its TypeScript twin is tested');
const twin = { name: 'typescript', binding: null, kernel: createKernel(null) };
const kernels = native === null ? [twin] : [twin, { name: 'native', binding: native, kernel: createKernel(native) }];
type Subject = (typeof kernels)[number];
const pairs = kernels.flatMap((sealer) => kernels.map((opener) => ({ sealer, opener })));

// Rings of a whole file, so that none is left behind in the native kernel's memory.
const rings: KeyRing[] = [];
afterAll(() => {
  for (const keys of rings) keys.destroy();
});

function ring(subject: Subject, cipher: Cipher, key = Buffer.alloc(32, 9), id = lineage): KeyRing {
  const keys = new KeyRing(id, cipher === 'none' ? null : key, subject.binding);
  keys.addReign(reign);
  rings.push(keys);
  return keys;
}

interface Run {
  readonly block: number;
  readonly data: Buffer;
}

const AT = 64;

/** Seals runs as one frame that begins at byte 64 of memory with other content. */
function seal(subject: Subject, cipher: Cipher, compression: Compression, runs: readonly Run[], first = 3) {
  const batch = new SealBatch();
  for (const { block, data } of runs) batch.add(block, data.length / 4096, data);
  const keys = ring(subject, cipher);
  const plan = new FramePlan({ keys, volumeId, epoch: 7, cipher, compression }, Buffer.alloc(16, 0x77));
  plan.header(12, 11, 10, 5, 8192, cipher === 'none' ? 0 : FRAME_FLAG_MAC);
  plan.body(AT, 0, 0, first);
  const out = Buffer.alloc(AT + FRAME_HEADER_SIZE + batch.bytesMax, 0x5a);
  const end = subject.kernel.seal(plan, batch, out);
  return { out, batch, end, keys, plan };
}

function open(
  subject: Subject,
  keys: KeyRing,
  bytes: Buffer,
  at: number,
  length: number,
  block: number,
  into: Buffer,
  intoAt = 0,
  count = (into.length - intoAt) >> 12,
): OpenFault | null {
  const batch = new OpenBatch();
  batch.add(bytes, at, length, block, count, into, intoAt);
  expect(subject.kernel.open(keys, batch)).toBe(batch.fault(0) === null ? 0 : 1);
  return batch.fault(0);
}

/** Blocks of all kinds: random, zeroes, text-like, and mixtures within one. */
function content(kind: number, run: number): Buffer {
  const bytes = Buffer.alloc(run * 4096);
  if (kind === 1) return randomBytes(run * 4096);
  if (kind === 2) for (let at = 0; at < bytes.length; at += 512) randomBytes(200 + (at % 300)).copy(bytes, at);
  if (kind === 3) bytes.write('a line of words, then another line of other words\n'.repeat(700), 'latin1');
  if (kind === 4) bytes.fill(randomBytes(1000));
  return bytes;
}

describe('kernel', () => {
  for (const subject of kernels) {
    it(`${subject.name} takes no plain record where a key is set, however well it is made`, () => {
      const forged = seal(subject, 'none', 'none', [{ block: 5, data: Buffer.alloc(4096, 0x66) }]);
      const into = Buffer.alloc(4096);
      const at = forged.batch.offset(0);
      const length = forged.batch.storedLength(0);
      expect(open(subject, forged.keys, forged.out, at, length, 5, into)).toBe(null);
      expect(open(subject, ring(subject, 'aes-256-gcm'), forged.out, at, length, 5, into)).toBe('tag');
    });
  }

  const shapes = fc.array(fc.record({ kind: fc.nat(4), run: fc.integer({ min: 1, max: 8 }) }), { maxLength: 5 });

  for (const { sealer, opener } of pairs) {
    for (const cipher of ciphers) {
      for (const compression of ['none', 'lz4', 'zstd'] as const) {
        it(`${opener.name} opens what ${sealer.name} sealed: ${cipher}, ${compression}`, (context) => {
          for (const { name, kernel } of [sealer, opener])
            context.skip(
              !kernel.compressions.includes(compression),
              `the ${name} kernel has no zstd before Node 22.15`,
            );
          fc.assert(
            fc.property(shapes, fc.nat(2 ** 40), (kinds, block) => {
              const runs = kinds.map(({ kind, run }, i) => ({ block: block + i * 100, data: content(kind, run) }));
              const { out, batch, end, plan } = seal(sealer, cipher, compression, runs);
              const keys = ring(opener, cipher);
              expect(decodeFrame(out, AT, true)).toMatchObject({ seq: 12, entryCount: runs.length, ordinal: 5 });
              expect(frameDigest(out, AT).equals(plan.digest)).toBe(true);
              if (cipher !== 'none') expect(opener.kernel.macMatches(keys, 7, out.subarray(AT, end))).toBe(true);
              const parts = new OpenBatch();
              const wanted: { into: Buffer; data: Buffer }[] = [];
              runs.forEach(({ block: from, data }, i) => {
                for (let first = 0; first < data.length / 4096; first++) {
                  for (let count = 1; first + count <= data.length / 4096; count++) {
                    const into = Buffer.alloc(count * 4096 + 10, 0xee);
                    parts.add(out, batch.offset(i), batch.storedLength(i), from + first, count, into, 5);
                    wanted.push({ into, data: data.subarray(first * 4096, (first + count) * 4096) });
                  }
                }
                expect(batch.storedLength(i)).toBeLessThanOrEqual(recordSizeMax(data.length / 4096));
              });
              expect(opener.kernel.open(keys, parts)).toBe(0);
              for (const { into, data } of wanted) {
                expect(into.subarray(5, 5 + data.length).equals(data)).toBe(true);
                expect(into[4]! + into[5 + data.length]!).toBe(0xee * 2);
              }
            }),
            { numRuns: 8 },
          );
        });
      }
    }
  }

  it.skipIf(native === null)('both seal the same bytes when nothing is compressed', () => {
    for (const cipher of ciphers) {
      fc.assert(
        fc.property(shapes, fc.nat(2 ** 50), (kinds, number) => {
          const runs = kinds.map(({ kind, run }, i) => ({ block: 2 ** 33 + i * 9, data: content(kind, run) }));
          const [a, b] = kernels.map((subject) => seal(subject, cipher, 'none', runs, number));
          expect(a!.end).toBe(b!.end);
          expect(a!.out.equals(b!.out)).toBe(true);
          expect(a!.plan.digest.equals(b!.plan.digest)).toBe(true);
        }),
        { numRuns: 10 },
      );
    }
  });

  it.each(kernels)('$name keeps to its bounds and shares one source among records', (subject) => {
    const large = Buffer.concat([content(1, 2), content(2, 3), content(3, 1)]);
    const batch = new SealBatch();
    batch.add(10, 2, large, 0);
    batch.add(12, 3, large, 2 * 4096);
    batch.add(90, 1, large, 5 * 4096);
    expect(batch.sourceCount).toBe(1);
    const keys = ring(subject, 'aes-256-gcm');
    const parts = { keys, volumeId, epoch: 7, cipher: 'aes-256-gcm', compression: 'lz4' } as const;
    const plan = new FramePlan(parts, Buffer.alloc(16));
    plan.body(0, 0, 0, 0);
    const out = Buffer.alloc(FRAME_HEADER_SIZE + batch.bytesMax + 1, 0x5a);
    const end = subject.kernel.seal(plan, batch, out);
    expect(out[out.length - 1]).toBe(0x5a);
    const into = Buffer.alloc(3 * 4096);
    expect(open(subject, keys, out, batch.offset(1), batch.storedLength(1), 12, into)).toBeNull();
    expect(into.equals(large.subarray(2 * 4096, 5 * 4096))).toBe(true);
    expect(out.subarray(batch.offset(2) + batch.storedLength(2)).indexOf(0x5a)).toBe(0);
    expect(end).toBe(batch.offset(2) + batch.storedLength(2));
    expect(() => subject.kernel.seal(plan, batch, out.subarray(0, FRAME_HEADER_SIZE + 8192))).toThrow();
    expect(() => batch.add(1, 2, large, 5 * 4096)).toThrow();
    expect(() => new OpenBatch().add(out, 0, 64, 1, 2, into, 8192)).toThrow();
  });

  it.each(kernels)('$name never gives out other bytes: any flipped bit of a record', (subject) => {
    for (const [cipher, compression, data] of [
      ['aes-256-gcm', 'lz4', Buffer.alloc(8192, 'some text that repeats, ')],
      ['none', 'lz4', Buffer.alloc(8192, 'some text that repeats, ')],
      ['none', 'none', content(1, 1)],
    ] as const) {
      const { out, batch, keys } = seal(subject, cipher, compression, [{ block: 40, data }]);
      const at = batch.offset(0);
      const length = batch.storedLength(0);
      const into = Buffer.alloc(data.length);
      // The checksum's own field and everything that it covers; the padding behind is nobody's.
      for (let bit = 0; bit < out.readUInt32LE(at + 8) * 8; bit++) {
        const byte = at + (bit >> 3);
        out[byte] = out[byte]! ^ (1 << (bit & 7));
        const fault = open(subject, keys, out, at, length, 40, into);
        if (fault === null) throw new Error(`bit ${bit} went unnoticed`);
        out[byte] = out[byte]! ^ (1 << (bit & 7));
      }
      expect(open(subject, keys, out, at, length, 40, into)).toBeNull();
    }
  });

  it.each(kernels)('$name names each fault', (subject) => {
    const data = content(2, 2);
    const { out, batch, keys } = seal(subject, 'aes-256-gcm', 'lz4', [{ block: 40, data }]);
    const [at, length] = [batch.offset(0), batch.storedLength(0)];
    const into = Buffer.alloc(8192);
    const by = (other: KeyRing, block = 40, count = 2) => open(subject, other, out, at, length, block, into, 0, count);
    expect(by(ring(subject, 'aes-256-gcm', Buffer.alloc(32, 8)))).toBe('tag');
    expect(by(ring(subject, 'aes-256-gcm', Buffer.alloc(32, 9), volumeId as string as LineageId))).toBe('tag');
    expect(by(keys, 41)).toBe('address');
    expect(by(keys, 39, 1)).toBe('address');
    expect(by(keys, 42, 1)).toBe('address');
    expect(by(new KeyRing(lineage, null, subject.binding))).toBe('no-key');
    const stranger = new KeyRing(lineage, Buffer.alloc(32, 9), subject.binding);
    expect(by(stranger)).toBe('no-key');
    stranger.addReign({ epoch: 7, reignId: 'aaaaaaaa-bbbb-4ccc-8ddd-ffffffffffff' as ReignId });
    expect(by(stranger)).toBe('tag');
    // The right reign after all: nothing derived for the wrong one is used again.
    stranger.addReign(reign);
    expect(by(stranger)).toBeNull();
    stranger.destroy();
    expect(by(stranger)).toBe('no-key');
    expect(open(subject, keys, out, at, 47, 40, into)).toBe('header');
    expect(open(subject, keys, out, at, length - 64, 40, into)).toBe('header');
    expect(open(subject, keys, out, out.length - 64, 128, 40, into)).toBe('header');
  });

  it.each(kernels)('$name keeps the keys of more reigns apart than it has room for at a time', (subject) => {
    const epochs = Array.from({ length: 70 }, (_, i) => i + 1);
    const make = () => {
      const keys = new KeyRing(lineage, Buffer.alloc(32, 9), subject.binding);
      for (const epoch of epochs) {
        const tail = epoch.toString(16).padStart(12, '0');
        keys.addReign({ epoch, reignId: `aaaaaaaa-bbbb-4ccc-8ddd-${tail}` as ReignId });
      }
      rings.push(keys);
      return keys;
    };
    const sealing = make();
    const frames = epochs.map((epoch) => {
      const cipher = epoch % 3 === 0 ? 'chacha20-poly1305' : 'aes-256-gcm';
      const parts = { keys: sealing, volumeId, epoch, cipher, compression: 'none' } as const;
      const plan = new FramePlan(parts, Buffer.alloc(16));
      plan.header(1, 0, 0, 0, 4096, FRAME_FLAG_MAC);
      plan.body(0, 0, 0, 0);
      const batch = new SealBatch();
      batch.add(5, 1, Buffer.alloc(4096, epoch));
      const out = Buffer.alloc(FRAME_HEADER_SIZE + batch.bytesMax);
      return out.subarray(0, subject.kernel.seal(plan, batch, out));
    });
    const keys = make();
    const batch = new OpenBatch();
    const into = Buffer.alloc(2 * 70 * 4096);
    for (let i = 0; i < 140; i++) {
      const frame = frames[(i * 37) % 70]!;
      batch.add(frame, FRAME_HEADER_SIZE, frame.length - FRAME_HEADER_SIZE, 5, 1, into, i * 4096);
    }
    expect(subject.kernel.open(keys, batch)).toBe(0);
    for (let i = 0; i < 140; i++) expect(into[i * 4096 + 4095]).toBe(epochs[(i * 37) % 70]);
    for (const epoch of epochs) {
      expect(subject.kernel.macMatches(keys, epoch, frames[epoch - 1]!)).toBe(true);
      expect(subject.kernel.macMatches(keys, (epoch % 70) + 1, frames[epoch - 1]!)).toBe(false);
    }
  });

  it.each(kernels)('$name binds the address by the tag, not only by the checksum', (subject) => {
    const { out, batch, keys } = seal(subject, 'aes-256-gcm', 'none', [{ block: 40, data: content(2, 1) }]);
    const at = batch.offset(0);
    out.writeUInt32LE(41, at + 16);
    out.writeUInt32LE(crc32c(out.subarray(at + 8, at + out.readUInt32LE(at + 8))), at + 4);
    expect(open(subject, keys, out, at, batch.storedLength(0), 41, Buffer.alloc(4096))).toBe('tag');
  });

  it.each(kernels)('$name answers any record with a right checksum by content or a fault', (subject) => {
    const keys = ring(subject, 'aes-256-gcm');
    fc.assert(
      fc.property(
        fc.record({
          run: fc.integer({ min: 0, max: 9 }),
          how: fc.constantFrom(0, 1, 2, 3, 0x11, 0x21, 0x31),
          payload: fc.uint8Array({ maxLength: 300 }),
          claimed: fc.option(fc.nat(40_000)),
        }),
        ({ run, how, payload, claimed }) => {
          const exact = 48 + payload.length;
          const record = Buffer.alloc(Math.ceil(exact / 64) * 64);
          record.writeUInt32LE(0x31454648, 0);
          record.writeUInt32LE(exact, 8);
          record.set([1, run, how], 12);
          record.writeUInt32LE(7, 24);
          record.writeUInt32LE(claimed ?? Math.max(0, payload.length - (how > 15 ? 16 : 0)), 40);
          record.set(payload, 48);
          record.writeUInt32LE(crc32c(record.subarray(8, exact)), 4);
          const whole = Buffer.alloc(Math.max(1, Math.min(run, 8)) * 4096);
          for (const into of [whole, Buffer.alloc(4096)]) {
            const fault = open(subject, keys, record, 0, record.length, 0, into);
            // So few bytes of LZ4 may make a block; otherwise there is none.
            if (fault === null) expect(how & 15).toBeGreaterThan(0);
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe('a frame', () => {
  it.each(kernels)('$name: its mac tells another key, a changed tag, a changed entry', (subject) => {
    const runs = [1, 2, 3].map((run) => ({ block: run * 10, data: content(2, run) }));
    const { out, batch, end, keys } = seal(subject, 'chacha20-poly1305', 'lz4', runs);
    const frame = out.subarray(AT, end);
    const matches = (by: KeyRing) => subject.kernel.macMatches(by, 7, frame);
    expect(matches(keys)).toBe(true);
    expect(matches(ring(subject, 'aes-256-gcm', Buffer.alloc(32, 1)))).toBe(false);
    const tag = batch.offset(1) + out.readUInt32LE(batch.offset(1) + 8) - 1;
    out[tag] = out[tag]! ^ 1;
    expect(matches(keys)).toBe(false);
    out[tag] = out[tag]! ^ 1;
    frame.writeUInt32LE(9, 48);
    expect(matches(keys)).toBe(false);
  });

  it.each(kernels)('$name refuses to seal without a key', (subject) => {
    const batch = new SealBatch();
    batch.add(1, 1, Buffer.alloc(4096));
    const keys = new KeyRing(lineage, null, subject.binding);
    const parts = { keys, volumeId, epoch: 7, cipher: 'aes-256-gcm', compression: 'none' } as const;
    const plan = new FramePlan(parts, Buffer.alloc(16));
    plan.header(1, 0, 0, 0, 4096, 0);
    plan.body(0, 0, 0, 0);
    expect(() => subject.kernel.seal(plan, batch, Buffer.alloc(9000))).toThrow(/key/);
  });
});

describe('compression', () => {
  let mixed: Buffer;
  beforeAll(() => {
    mixed = Buffer.concat(Array.from({ length: 64 }, (_, i) => content(i % 5, 1)));
  });

  /** Bytes of few or many kinds with repeats of all lengths and distances, from a seed. */
  function repeats(seed: number, length: number): Buffer {
    let state = seed | 1;
    const below = (limit: number) => {
      state = Math.imul(state, 1_103_515_245) + 12_345;
      return ((state >>> 8) & 0xffff) % limit;
    };
    const bytes = Buffer.alloc(length);
    const letters = [1, 2, 4, 256][below(4)]!;
    let at = 0;
    while (at < length) {
      const run = Math.min(length - at, 1 + below([3, 20, 600, 5000][below(4)]!));
      const from = at > 0 && below(2) === 0 ? below(Math.min(at, 0xffff)) : -1;
      for (let i = 0; i < run; i++, at++) bytes[at] = from < 0 ? below(letters) : bytes[from + i]!;
    }
    return bytes;
  }

  it.each(kernels)('$name: every match and literal length, up to the last bytes of a run', (subject) => {
    for (let seed = 1; seed <= 150; seed++) {
      const runs = [1, 2, 8].map((run) => ({ block: run * 10, data: repeats(seed * 7 + run, run * 4096) }));
      const { out, batch } = seal(subject, 'none', 'lz4', runs);
      runs.forEach(({ block, data }, i) => {
        for (const opener of kernels) {
          const into = Buffer.alloc(data.length);
          const keys = ring(opener, 'none');
          expect(open(opener, keys, out, batch.offset(i), batch.storedLength(i), block, into)).toBeNull();
          if (!into.equals(data)) throw new Error(`seed ${seed}, run ${i}: ${opener.name} gave other bytes`);
        }
      });
    }
  });

  it.each(kernels)('$name keeps it only when it saves a sixteenth, and misses little of what there is', (subject) => {
    const sealed = (data: Buffer) =>
      seal(subject, 'none', 'lz4', [{ block: 0, data }]).batch.storedLength(0) / recordSizeMax(data.length / 4096);
    expect(sealed(content(1, 1))).toBe(1 - (recordSizeMax(1) - 4160) / recordSizeMax(1));
    expect(sealed(content(0, 8))).toBeLessThan(0.02);
    expect(sealed(content(3, 1))).toBeLessThan(0.1);
    let stored = 0;
    for (let at = 0; at < mixed.length; at += 4096) stored += sealed(mixed.subarray(at, at + 4096)) / 64;
    // Of five kinds one is random, one is a bit more than half random, one repeats random bytes and is given up.
    expect(stored).toBeLessThan(0.6);
  });
});
