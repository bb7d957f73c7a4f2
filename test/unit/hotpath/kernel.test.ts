import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { LineageId, ReignId } from '../../../src/base/index.js';
import type { Cipher, Compression } from '../../../src/format/index.js';
import { KeyRing, kernel, recordSizeMax, SealBatch } from '../../../src/hotpath/index.js';

const lineage = '11111111-2222-4333-8444-555555555555' as LineageId;
const reign = { epoch: 7, reignId: 'aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee' as ReignId };

function ring(cipher: Cipher, key = Buffer.alloc(32, 9), id = lineage): KeyRing {
  const keys = new KeyRing(id, cipher === 'none' ? null : key);
  keys.addReign(reign);
  return keys;
}

function seal(cipher: Cipher, compression: Compression, blocks: { block: number; data: Buffer }[], first = 0) {
  const batch = new SealBatch();
  let worst = 0;
  for (const { block, data } of blocks) {
    batch.add(block, data.length / 4096, data);
    worst += recordSizeMax(data.length / 4096);
  }
  const out = Buffer.alloc(worst + 64, 0x5a);
  const end = kernel.seal({ keys: ring(cipher), epoch: 7, cipher, compression }, batch, first, out, 64);
  return { out, batch, end };
}

const half = (blocks: number) => Buffer.concat([randomBytes(blocks * 2048), Buffer.alloc(blocks * 2048)]);

describe('kernel', () => {
  for (const cipher of ['none', 'aes-256-gcm', 'chacha20-poly1305'] as const) {
    for (const compression of ['none', 'lz4'] as const) {
      it(`opens what it sealed: ${cipher}, ${compression}`, () => {
        const inputs = [1, 8, 3, 1].map((run, i) => ({
          block: i * 100,
          data: i === 3 ? randomBytes(4096) : half(run),
        }));
        const { out, batch, end } = seal(cipher, compression, inputs);
        expect(end % 64).toBe(0);
        inputs.forEach(({ block, data }, i) => {
          const run = data.length / 4096;
          for (let from = 0; from < run; from++) {
            for (let count = 1; from + count <= run; count++) {
              const into = Buffer.alloc(count * 4096 + 10);
              expect(
                kernel.open(ring(cipher), out, batch.offsets[i]!, batch.lengths[i]!, block + from, count, into, 5),
              ).toBeNull();
              expect(into.subarray(5, 5 + count * 4096).equals(data.subarray(from * 4096, (from + count) * 4096))).toBe(
                true,
              );
            }
          }
        });
        if (compression === 'lz4') expect(batch.lengths[1]).toBeLessThan(6 * 4096);
        expect(batch.lengths[3]).toBe(recordSizeMax(1) - (cipher === 'none' ? 0 : 0));
      });
    }
  }

  it('never gives out other bytes: any flipped bit, wrong key, wrong lineage, wrong address, wrong epoch', () => {
    const data = half(2);
    const { out, batch } = seal('aes-256-gcm', 'lz4', [{ block: 40, data }]);
    const length = batch.lengths[0]!;
    const into = Buffer.alloc(8192);
    for (let byte = 0; byte < out.readUInt32LE(64 + 8); byte++) {
      const bad = Buffer.from(out);
      bad[64 + byte] = bad[64 + byte]! ^ (1 << (byte % 8));
      expect(kernel.open(ring('aes-256-gcm'), bad, 64, length, 40, 2, into, 0), `byte ${byte}`).not.toBeNull();
    }
    expect(kernel.open(ring('aes-256-gcm', Buffer.alloc(32, 8)), out, 64, length, 40, 2, into, 0)).toBe('tag');
    const other = 'ffffffff-2222-4333-8444-555555555555' as LineageId;
    expect(kernel.open(ring('aes-256-gcm', Buffer.alloc(32, 9), other), out, 64, length, 40, 2, into, 0)).toBe('tag');
    expect(kernel.open(ring('aes-256-gcm'), out, 64, length, 41, 2, into, 0)).toBe('address');
    expect(kernel.open(ring('aes-256-gcm'), out, 64, length, 39, 1, into, 0)).toBe('address');
    expect(kernel.open(new KeyRing(lineage, null), out, 64, length, 40, 2, into, 0)).toBe('no-key');
  });

  it('binds the address by the tag, not only by the checksum', async () => {
    const { out, batch } = seal('aes-256-gcm', 'none', [{ block: 40, data: half(1) }]);
    const { crc32c } = await import('../../../src/base/index.js');
    out.writeUInt32LE(41, 64 + 16);
    out.writeUInt32LE(crc32c(out.subarray(64 + 8, 64 + out.readUInt32LE(64 + 8))), 64 + 4);
    expect(kernel.open(ring('aes-256-gcm'), out, 64, batch.lengths[0]!, 41, 1, Buffer.alloc(4096), 0)).toBe('tag');
  });

  it('derives other keys for another reign of the same epoch', () => {
    const a = ring('aes-256-gcm').keysOf(7)!.record.export();
    const b = new KeyRing(lineage, Buffer.alloc(32, 9));
    b.addReign({ epoch: 7, reignId: 'aaaaaaaa-bbbb-4ccc-8ddd-ffffffffffff' as ReignId });
    expect(b.keysOf(7)!.record.export().equals(a)).toBe(false);
  });
});
