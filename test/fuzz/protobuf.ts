// Protobuf messages as trees of fields, so that a change keeps the rest of the message readable: numbers at the edge, names that lead
// out of a directory, fields twice, none, of another type, unknown, nested.

import type { Chance } from '../lib/crash/virtual-time.js';

interface Field {
  readonly number: number;
  /** 0 varint, 1 eight bytes, 2 with a length, 5 four bytes. */
  type: number;
  varint: bigint;
  bytes: Buffer;
  /** What is in `bytes`, when that reads as a message. */
  children: Field[] | null;
}

function varint(bytes: Buffer, at: number): { value: bigint; next: number } | null {
  let value = 0n;
  for (let i = 0; i < 10; i++) {
    const byte = bytes[at + i];
    if (byte === undefined) return null;
    value |= BigInt(byte & 0x7f) << BigInt(7 * i);
    if (byte < 0x80) return { value: BigInt.asUintN(64, value), next: at + i + 1 };
  }
  return null;
}

/** Null when the bytes are no message. */
export function parseFields(bytes: Buffer, depth = 0): Field[] | null {
  const fields: Field[] = [];
  for (let at = 0; at < bytes.length; ) {
    const key = varint(bytes, at);
    if (key === null || key.value >> 3n === 0n || key.value >> 3n > 0x1fffffffn) return null;
    const type = Number(key.value & 7n);
    const field: Field = { number: Number(key.value >> 3n), type, varint: 0n, bytes: Buffer.alloc(0), children: null };
    at = key.next;
    if (type === 0) {
      const value = varint(bytes, at);
      if (value === null) return null;
      field.varint = value.value;
      at = value.next;
    } else {
      const length = type === 1 ? { value: 8n, next: at } : type === 5 ? { value: 4n, next: at } : varint(bytes, at);
      if (length === null || (type !== 1 && type !== 2 && type !== 5)) return null;
      const end = length.next + Number(length.value);
      if (end > bytes.length) return null;
      field.bytes = bytes.subarray(length.next, end);
      if (type === 2 && depth < 6 && field.bytes.length > 1) field.children = parseFields(field.bytes, depth + 1);
      at = end;
    }
    fields.push(field);
  }
  return fields;
}

function writeVarint(value: bigint): Buffer {
  const bytes: number[] = [];
  let rest = BigInt.asUintN(64, value);
  do {
    bytes.push(Number(rest & 0x7fn) | (rest > 0x7fn ? 0x80 : 0));
    rest >>= 7n;
  } while (rest > 0n);
  return Buffer.from(bytes);
}

export function writeFields(fields: readonly Field[]): Buffer {
  return Buffer.concat(
    fields.flatMap(({ number, type, varint: value, bytes, children }) => {
      const key = writeVarint((BigInt(number) << 3n) | BigInt(type));
      if (type === 0) return [key, writeVarint(value)];
      const body = children === null ? bytes : writeFields(children);
      if (type === 2) return [key, writeVarint(BigInt(body.length)), body];
      return [key, Buffer.concat([body, Buffer.alloc(8)]).subarray(0, type === 1 ? 8 : 4)];
    }),
  );
}

const numbers = [0n, 1n, 2n, 127n, 128n, 255n, 4095n, 4096n, 1n << 30n, 1n << 31n, (1n << 31n) - 1n, 1n << 32n];
const large = [(1n << 53n) - 1n, 1n << 53n, (1n << 63n) - 1n, 1n << 63n, (1n << 64n) - 1n, -1n, -4096n, 1n << 44n];
const texts = [
  '',
  '.',
  '..',
  '../../etc/passwd',
  '/',
  '/dev/null',
  'a/b',
  '\0',
  'a\nb',
  '\u202e',
  'ü'.repeat(70),
  'A'.repeat(300),
];
const words = [
  '__proto__',
  'constructor',
  'toString',
  'null',
  '-1',
  '1e9',
  '99999999999999999999',
  '0x10',
  '%s%n',
  "'; --",
  '{}',
  '[]',
];
const uuids = [
  '00000000-0000-0000-0000-000000000000',
  'FFFFFFFF-FFFF-4FFF-8FFF-FFFFFFFFFFFF',
  '00000000-0000-4000-8000-00000000000',
  'x',
];
const longest = 'y'.repeat(70_000);

/** Something that a text field might get; `known`: ids and names that mean something to whoever is asked. */
export function nastyText(chance: Chance, known: readonly string[]): Buffer {
  const dice = chance.next();
  if (dice < 0.3 && known.length > 0) return Buffer.from(chance.pick(known));
  if (dice < 0.35) return chance.bytes(chance.between(1, 12));
  if (dice < 0.37) return Buffer.from(longest);
  return Buffer.from(chance.pick([...texts, ...words, ...uuids]));
}

export function mutateMessage(bytes: Buffer, chance: Chance, known: readonly string[]): Buffer {
  const fields = parseFields(bytes);
  if (fields === null) return bytes;
  for (let i = chance.between(1, 3); i > 0; i--) changeOne(fields, chance, known, 0);
  return writeFields(fields);
}

function changeOne(fields: Field[], chance: Chance, known: readonly string[], depth: number): void {
  if (fields.length === 0 || chance.hit(0.08)) {
    fields.push(anything(chance, known, depth));
    return;
  }
  const at = chance.below(fields.length);
  const field = fields[at]!;
  if (field.children !== null && chance.hit(0.7)) return changeOne(field.children, chance, known, depth + 1);
  switch (chance.below(8)) {
    case 0:
      fields.splice(at, 1);
      return;
    case 1:
      for (let i = chance.pick([1, 2, 40]); i > 0; i--) fields.push({ ...field });
      return;
    case 2:
      fields[at] = { ...field, type: chance.pick([0, 1, 2, 5]) };
      return;
    case 3:
      fields[at] = { ...field, number: chance.pick([1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 1000]) };
      return;
    default:
      if (field.type === 0) field.varint = chance.pick([...numbers, ...large]);
      else fields[at] = { ...field, children: null, bytes: nastyText(chance, known) };
  }
}

function anything(chance: Chance, known: readonly string[], depth: number): Field {
  const number = chance.between(1, 12);
  const nested = depth < 4 && chance.hit(0.2) ? [anything(chance, known, depth + 1)] : null;
  const type = nested !== null ? 2 : chance.pick([0, 2, 2]);
  return {
    number,
    type,
    varint: chance.pick([...numbers, ...large]),
    bytes: nastyText(chance, known),
    children: nested,
  };
}
