// Messages to bytes and back, by reflection. Decoded objects have every field (defaults), snake_case names, enum values as
// names and 64-bit integers as numbers. What a number or a known enum name can't say is refused with a sentence that names
// the field, in both directions, instead of being rounded or dropped.

import protobuf from 'protobufjs';
import { HoldfastError, messageOf, printable } from '../base/index.js';

const wide = new Set(['int64', 'uint64', 'sint64', 'fixed64', 'sfixed64']);
const narrow = new Set(['int32', 'uint32', 'sint32', 'fixed32', 'sfixed32']);

type Check = (value: unknown, path: string) => void;
interface FieldPlan {
  readonly name: string;
  readonly shape: 'one' | 'list' | 'map';
  readonly incoming: Check;
  readonly outgoing: Check;
}
type Plan = readonly FieldPlan[];

const plans = new WeakMap<protobuf.Type, FieldPlan[]>();

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function fail(code: 'OUT_OF_RANGE' | 'INVALID_ARGUMENT' | 'INTERNAL', message: string): never {
  throw new HoldfastError(code, message, { reason: 'BadField' });
}

const wideIncoming: Check = (value, path) => {
  // A Long of protobufjs, or a number already.
  const number = isObject(value) && typeof value.toNumber === 'function' ? (value.toNumber() as number) : Number(value);
  // Rounding keeps 2^53 and above at 2^53 or above, so no unsafe value passes as a safe one.
  if (!Number.isSafeInteger(number)) {
    fail(
      'OUT_OF_RANGE',
      `${path} is ${String(value)}; integers here must lie within 2^53-1 (${Number.MAX_SAFE_INTEGER})`,
    );
  }
};

const wideOutgoing: Check = (value, path) => {
  if (!Number.isSafeInteger(value)) fail('INTERNAL', `${path} must be a safe integer, not ${printable(String(value))}`);
};

const narrowOutgoing: Check = (value, path) => {
  if (!Number.isInteger(value) || Math.abs(value as number) >= 2 ** 32) {
    fail('INTERNAL', `${path} must be a 32-bit integer, not ${printable(String(value))}`);
  }
};

function enumChecks(type: protobuf.Enum): { incoming: Check; outgoing: Check } {
  return {
    incoming(value, path) {
      if (type.valuesById[value as number] === undefined) {
        fail('INVALID_ARGUMENT', `${path} is ${String(value)}, which is no value of ${type.name}`);
      }
    },
    outgoing(value, path) {
      if (typeof value !== 'string' || type.values[value] === undefined) {
        fail('INTERNAL', `${path} must name a value of ${type.name}, not ${printable(value)}`);
      }
    },
  };
}

function fieldChecks(field: protobuf.Field): { incoming: Check; outgoing: Check } | undefined {
  const resolved = field.resolvedType;
  if (resolved instanceof protobuf.Enum) return enumChecks(resolved);
  if (resolved instanceof protobuf.Type) {
    const plan = planOf(resolved);
    return {
      incoming: (value, path) => walk(plan, value, path, 'incoming'),
      outgoing: (value, path) => walk(plan, value, path, 'outgoing'),
    };
  }
  if (wide.has(field.type)) return { incoming: wideIncoming, outgoing: wideOutgoing };
  if (narrow.has(field.type)) return { incoming: () => {}, outgoing: narrowOutgoing };
  return undefined;
}

function planOf(type: protobuf.Type): Plan {
  const known = plans.get(type);
  if (known !== undefined) return known;
  const plan: FieldPlan[] = [];
  plans.set(type, plan); // before the fields, for types that contain themselves
  for (const field of type.fieldsArray) {
    const checks = fieldChecks(field.resolve());
    if (checks === undefined) continue;
    plan.push({ name: field.name, shape: field.map ? 'map' : field.repeated ? 'list' : 'one', ...checks });
  }
  return plan;
}

function walk(plan: Plan, message: unknown, path: string, direction: 'incoming' | 'outgoing'): void {
  if (!isObject(message)) return;
  for (const field of plan) {
    // Only what was set: defaults sit on the prototype of a decoded message.
    if (!Object.hasOwn(message, field.name)) continue;
    const value = message[field.name];
    if (value === undefined || value === null) continue;
    const at = path === '' ? field.name : `${path}.${field.name}`;
    if (field.shape === 'one') field[direction](value, at);
    else if (field.shape === 'list' && Array.isArray(value)) {
      for (let i = 0; i < value.length; i++) field[direction](value[i], `${at}[${i}]`);
    } else if (isObject(value)) {
      for (const [key, inner] of Object.entries(value)) field[direction](inner, `${at}[${printable(key)}]`);
    }
  }
}

/** Bytes of `message`. Throws INTERNAL naming the field whose value the type can't carry: a bug of the caller. */
export function encodeMessage(type: protobuf.Type, message: object): Buffer {
  walk(planOf(type), message, '', 'outgoing');
  return Buffer.from(type.encode(type.fromObject(message)).finish());
}

/**
 * The message in `bytes`. Throws INVALID_ARGUMENT for bytes that are none and for unknown enum values, OUT_OF_RANGE for
 * integers beyond 2^53-1.
 */
export function decodeMessage(type: protobuf.Type, bytes: Uint8Array): object {
  let message: protobuf.Message;
  try {
    message = type.decode(bytes);
  } catch (error) {
    throw new HoldfastError('INVALID_ARGUMENT', `these bytes are no ${type.name}: ${messageOf(error)}`, {
      reason: 'Protocol',
      cause: error,
    });
  }
  walk(planOf(type), message, '', 'incoming');
  return type.toObject(message, { longs: Number, enums: String, defaults: true, oneofs: true });
}

/** Text in fields marked csi_secret, and in bytes fields, wherever they are in the message. */
export function secretsIn(type: protobuf.Type, message: object): string[] {
  const found: string[] = [];
  collectSecrets(type, message, found, 0);
  return found;
}

function collectSecrets(type: protobuf.Type, message: unknown, found: string[], depth: number): void {
  if (!isObject(message) || depth > 16) return;
  for (const field of type.fieldsArray) {
    const value = message[field.name];
    if (!isObject(value) && typeof value !== 'string') continue;
    const values = typeof value === 'string' ? [value] : Buffer.isBuffer(value) ? [value] : Object.values(value);
    if (field.options?.['(csi_secret)'] === true) {
      for (const inner of values) if (typeof inner === 'string' && inner !== '') found.push(inner);
    } else if (field.type === 'bytes') {
      for (const inner of values)
        if (Buffer.isBuffer(inner)) found.push(inner.toString('hex'), inner.toString('base64'));
    } else if (field.resolvedType instanceof protobuf.Type) {
      for (const inner of field.map || field.repeated ? values : [value]) {
        collectSecrets(field.resolvedType, inner, found, depth + 1);
      }
    }
  }
}
