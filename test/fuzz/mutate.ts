// Changes of bytes that know nothing of what the bytes mean: bits, numbers at the edge of their range, parts cut, doubled, moved.

import type { Chance } from '../lib/crash/virtual-time.js';

const edges32 = [0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff];
const high32 = [0x80000000, 0xfffffff0, 0xffffffc0, 0xfffffffe, 0xffffffff];
export const edgeNumbers: readonly number[] = [...edges32, ...high32];

/** One change at a time, `times` of them; never longer than `most` bytes. */
export function mutateBytes(input: Buffer, chance: Chance, times = chance.between(1, 4), most = 1 << 20): Buffer {
  let bytes: Buffer = Buffer.from(input);
  for (let i = 0; i < times; i++) bytes = changeOnce(bytes, chance);
  return bytes.length > most ? Buffer.from(bytes.subarray(0, most)) : bytes;
}

function changeOnce(bytes: Buffer, chance: Chance): Buffer {
  const size = bytes.length;
  if (size === 0) return chance.bytes(chance.between(1, 64));
  const at = place(size, chance);
  const length = Math.min(size - at, chance.pick([1, 2, 4, 8, 16, 64, 200]));
  switch (chance.below(10)) {
    case 0:
      bytes[at] = bytes[at]! ^ (1 << chance.below(8));
      return bytes;
    case 1:
      bytes[at] = chance.pick([0, 1, 0x7f, 0x80, 0xff, chance.below(256)]);
      return bytes;
    case 2:
    case 3:
      return putNumber(bytes, at, chance);
    case 4:
      return bytes.subarray(0, at);
    case 5:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
    case 6:
      return Buffer.concat([bytes.subarray(0, at + length), bytes.subarray(at)]);
    case 7: {
      const from = place(size, chance);
      bytes.copy(bytes, at, from, Math.min(size, from + length));
      return bytes;
    }
    case 8:
      bytes.fill(chance.pick([0, 0xff]), at, at + length);
      return bytes;
    default:
      return Buffer.concat([bytes.subarray(0, at), chance.bytes(chance.between(1, 40)), bytes.subarray(at)]);
  }
}

/** Fields lie at multiples of four more often than not, and heads in front. */
function place(size: number, chance: Chance): number {
  const at = chance.hit(0.5) ? chance.below(Math.min(size, 256)) : chance.below(size);
  return chance.hit(0.6) ? at & ~3 : at;
}

function putNumber(bytes: Buffer, at: number, chance: Chance): Buffer {
  const value = chance.hit(0.3) ? near(bytes, at, chance) : chance.pick(edgeNumbers);
  const width = chance.pick([1, 2, 4, 4, 4, 8]);
  if (at + width > bytes.length) return bytes;
  const big = chance.hit(0.3);
  if (width === 1) bytes[at] = value & 0xff;
  else if (width === 2) big ? bytes.writeUInt16BE(value & 0xffff, at) : bytes.writeUInt16LE(value & 0xffff, at);
  else {
    if (width === 8) bytes.writeUInt32LE(chance.pick(edgeNumbers), at + 4);
    big ? bytes.writeUInt32BE(value, at) : bytes.writeUInt32LE(value, at);
  }
  return bytes;
}

/** What is there, a little more or less. */
function near(bytes: Buffer, at: number, chance: Chance): number {
  if (at + 4 > bytes.length) return 0;
  return (bytes.readUInt32LE(at) + chance.pick([-64, -2, -1, 1, 2, 64])) >>> 0;
}
