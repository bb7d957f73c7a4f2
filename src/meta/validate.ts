// What may be a key, a prefix and a value, for all back ends alike. Keys are `kind/id` in a small alphabet of ASCII, so that
// they can be object names elsewhere and their order as text is the order of their bytes.

import { invalid, messageOf, printable } from '../base/index.js';
import { type JsonObject, type Selection, VALUE_BYTES_MAX } from './port.js';

const keyPattern = /^[a-z-]{1,63}\/[A-Za-z0-9._@-]{1,253}$/;
const prefixPattern = /^(?:[a-z-]{1,63}\/[A-Za-z0-9._@-]{0,253})?$/;
const operationPattern = /^[A-Za-z0-9-]{0,64}$/;

/** Sorts after every character a key may have. */
const ABOVE = '{';

export function checkKey(key: string): void {
  if (typeof key !== 'string' || !keyPattern.test(key)) {
    throw invalid(
      `${printable(key)} is no metadata key: it must be kind/id, the kind of a-z and "-", the id of at most 253 letters, digits and "._@-"`,
    );
  }
}

/** A prefix that ends within the kind is refused: "volume" would match "volume-name/..." as well. */
export function checkPrefix(prefix: string): void {
  if (typeof prefix !== 'string' || !prefixPattern.test(prefix)) {
    throw invalid(`${printable(prefix)} is no prefix of metadata keys: it must be empty, "kind/" or "kind/beginning"`);
  }
}

/** All keys k with prefix <= k < upperBound(prefix) begin with it, and no others. */
export function upperBound(prefix: string): string {
  return prefix + ABOVE;
}

export function checkVersion(version: number, what: string): void {
  if (!Number.isSafeInteger(version) || version < 0) {
    throw invalid(`${what} must be an integer from 0, not ${String(version)}`);
  }
}

export function checkOperation(id: string | undefined): void {
  if (id !== undefined && !operationPattern.test(id)) throw invalid(`operation id ${printable(id)} is not fit for one`);
}

export function checkLimit(limit: number | undefined): void {
  if (limit !== undefined && (!Number.isSafeInteger(limit) || limit < 1)) {
    throw invalid(`a list's limit must be an integer from 1, not ${String(limit)}`);
  }
}

export function checkSelection(only: Selection | undefined): void {
  if (only === undefined || 'unfinished' in only) return;
  if (typeof only.volumeId !== 'string' || only.volumeId === '') {
    throw invalid('a list of what belongs to a volume needs the volume’s id');
  }
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** What JSON.stringify would quietly turn into something else is refused. */
function strict(this: unknown, key: string, value: unknown): unknown {
  // A Date or Buffer arrives as what its toJSON made of it; the holder still has the object.
  const original = (this as Record<string, unknown>)[key];
  if (typeof original === 'object' && original !== null && !Array.isArray(original) && !isPlain(original)) {
    throw new TypeError(`${printable(key)} is a ${original.constructor.name}`);
  }
  if (typeof value === 'number' && !Number.isFinite(value)) throw new TypeError(`${printable(key)} is ${value}`);
  if (typeof value === 'function' || typeof value === 'symbol') {
    throw new TypeError(`${printable(key)} is a ${typeof value}`);
  }
  if (value === undefined && Array.isArray(this)) throw new TypeError(`element ${key} is undefined`);
  return value;
}

/** The JSON of `value`, of which it must be an object. Throws INVALID_ARGUMENT for what JSON can't say and for too much. */
export function encodeValue(key: string, value: object): string {
  let text: string | undefined;
  try {
    text = JSON.stringify(value, strict);
  } catch (error) {
    throw invalid(`the value of ${key} is not JSON: ${messageOf(error)}`);
  }
  if (text === undefined || !text.startsWith('{')) throw invalid(`the value of ${key} must be a JSON object`);
  checkSize(key, text);
  return text;
}

/** The object in JSON that came from outside. Throws INVALID_ARGUMENT. */
export function decodeForeignValue(key: string, text: string): JsonObject {
  checkSize(key, text);
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw invalid(`the value of ${key} is not JSON: ${messageOf(error)}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid(`the value of ${key} must be a JSON object`);
  }
  return value as JsonObject;
}

function checkSize(key: string, text: string): void {
  const bytes = Buffer.byteLength(text);
  if (bytes > VALUE_BYTES_MAX) {
    throw invalid(`the value of ${key} is ${bytes} bytes of JSON; at most ${VALUE_BYTES_MAX} are kept`);
  }
}
