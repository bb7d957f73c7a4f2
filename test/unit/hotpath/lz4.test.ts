import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { compressSync, uncompressSync } from 'lz4-napi';
import { describe, expect, it } from 'vitest';
import { compressBlock, decompressBlock } from '../../../src/hotpath/index.js';

function compress(input: Uint8Array, limit = input.length + 64): Buffer {
  const out = Buffer.alloc(limit + 8, 0xee);
  const length = compressBlock(input, 0, input.length, out, 4, limit);
  expect(out.subarray(0, 4).equals(Buffer.alloc(4, 0xee))).toBe(true);
  expect(out.subarray(4 + limit).equals(Buffer.alloc(4, 0xee))).toBe(true);
  return out.subarray(4, 4 + length);
}

function decompress(input: Uint8Array, size: number): Buffer | undefined {
  const out = Buffer.alloc(size + 8, 0xdd);
  const length = decompressBlock(input, 0, input.length, out, 4, size);
  expect(out.subarray(0, 4).equals(Buffer.alloc(4, 0xdd))).toBe(true);
  expect(out.subarray(4 + size).equals(Buffer.alloc(4, 0xdd))).toBe(true);
  return length < 0 ? undefined : out.subarray(4, 4 + length);
}

/** Data with repeats at all distances and lengths. */
const repetitive = fc
  .array(fc.tuple(fc.uint8Array({ minLength: 1, maxLength: 20 }), fc.integer({ min: 1, max: 60 })), { maxLength: 40 })
  .map((parts) =>
    Buffer.concat(parts.flatMap(([piece, times]) => Array.from({ length: times }, () => Buffer.from(piece)))).subarray(
      0,
      32_768,
    ),
  );

describe('lz4 block format', () => {
  it('gives back what it was given', () => {
    fc.assert(
      fc.property(repetitive, (data) => {
        const packed = compress(data);
        expect(decompress(packed, data.length)).toEqual(Buffer.from(data));
      }),
      { numRuns: 300 },
    );
  });

  it('gives at least what is wanted of a block when it may stop early, and never too much', () => {
    fc.assert(
      fc.property(repetitive, fc.double({ min: 0, max: 1, noNaN: true }), (data, share) => {
        const packed = compress(data);
        const wanted = Math.floor(data.length * share);
        const out = Buffer.alloc(data.length + 8, 0xdd);
        const length = decompressBlock(packed, 0, packed.length, out, 0, data.length, wanted);
        expect(length).toBeGreaterThanOrEqual(wanted);
        expect(out.subarray(0, length).equals(Buffer.from(data).subarray(0, length))).toBe(true);
        expect(out.subarray(data.length).equals(Buffer.alloc(8, 0xdd))).toBe(true);
      }),
      { numRuns: 200 },
    );
  });

  it('is read and written by another implementation', () => {
    fc.assert(
      fc.property(repetitive, (data) => {
        const size = Buffer.alloc(4);
        size.writeUInt32LE(data.length);
        expect(uncompressSync(Buffer.concat([size, compress(data)]))).toEqual(Buffer.from(data));
        expect(decompress(compressSync(Buffer.from(data)).subarray(4), data.length)).toEqual(Buffer.from(data));
      }),
      { numRuns: 200 },
    );
  });

  it('answers 0 when the limit is too small, and never writes past it', () => {
    const noise = randomBytes(4096);
    expect(compress(noise, 4096 - 256).length).toBe(0);
    const zeroes = Buffer.alloc(4096);
    expect(compress(zeroes, 32).length).toBeGreaterThan(0);
    expect(compress(zeroes, 4).length).toBe(0);
  });

  it('survives any input when decompressing', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 0, max: 500 }), (data, size) => {
        decompress(data, size);
      }),
      { numRuns: 2000 },
    );
    const packed = Buffer.from(compress(Buffer.alloc(4096, 'abcdefgh')));
    for (let i = 0; i < packed.length; i++) {
      for (const flip of [1, 0x80, 0xff]) {
        const bad = Buffer.from(packed);
        bad[i] = bad[i]! ^ flip;
        decompress(bad, 4096);
      }
    }
  });
});
