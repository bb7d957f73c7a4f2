// CRC-32C (Castagnoli, RFC 3720 appendix B.4), the checksum of every format here. @node-rs/crc32 computes it with the
// CPU's own instruction and ships its binary inside the npm package; where none fits the platform a table does the same.

import { createRequire } from 'node:module';

type Crc = (bytes: Uint8Array, seed?: number) => number;

const table = buildTables();

function buildTables(): Uint32Array {
  const tables = new Uint32Array(8 * 256);
  for (let n = 0; n < 256; n++) {
    let c = n;
    for (let k = 0; k < 8; k++) c = c & 1 ? (c >>> 1) ^ 0x82f63b78 : c >>> 1;
    tables[n] = c >>> 0;
  }
  for (let t = 1; t < 8; t++) {
    for (let n = 0; n < 256; n++) {
      const previous = tables[(t - 1) * 256 + n]!;
      tables[t * 256 + n] = (tables[previous & 0xff]! ^ (previous >>> 8)) >>> 0;
    }
  }
  return tables;
}

/** The same checksum without native code: eight tables, eight bytes a step. */
export function crc32cTable(bytes: Uint8Array, seed = 0): number {
  const t = table;
  let crc = ~seed;
  let i = 0;
  const end8 = bytes.length - 7;
  while (i < end8) {
    crc ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    crc =
      t[1792 + (crc & 0xff)]! ^
      t[1536 + ((crc >>> 8) & 0xff)]! ^
      t[1280 + ((crc >>> 16) & 0xff)]! ^
      t[1024 + (crc >>> 24)]! ^
      t[768 + bytes[i + 4]!]! ^
      t[512 + bytes[i + 5]!]! ^
      t[256 + bytes[i + 6]!]! ^
      t[bytes[i + 7]!]!;
    i += 8;
  }
  for (; i < bytes.length; i++) crc = t[(crc ^ bytes[i]!) & 0xff]! ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The same of bytes[from..to), a multiple of four: for headers, where a call into native code costs more than it saves. */
export function crc32cShort(bytes: Uint8Array, from: number, to: number): number {
  const t = table;
  let crc = ~0;
  for (let i = from; i < to; i += 4) {
    crc ^= bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24);
    crc = t[768 + (crc & 0xff)]! ^ t[512 + ((crc >>> 8) & 0xff)]! ^ t[256 + ((crc >>> 16) & 0xff)]! ^ t[crc >>> 24]!;
  }
  return ~crc >>> 0;
}

function load(): Crc {
  try {
    const native = createRequire(import.meta.url)('@node-rs/crc32') as { crc32c: Crc };
    if (native.crc32c(Buffer.from('123456789')) === 0xe3069283) return native.crc32c;
  } catch {
    // No binary for this platform: the table is the same function, slower.
  }
  return crc32cTable;
}

/** CRC-32C of `bytes`, continuing from `seed` (the checksum of what came before). An unsigned 32-bit number. */
export const crc32c: Crc = load();
