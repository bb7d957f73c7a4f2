// What a holder is asked over its unix socket: one JSON object a line, answered by one JSON object a line with the same
// id. Requests of one connection are answered in any order. Whoever can open the socket is root; lines are bounded and
// checked all the same.
//
//   {"id":1,"op":"open","volumeId":"…","key":"<hex>"|null,"readOnly":false}   -> AttachedDevice
//   {"id":2,"op":"status"}                                                    -> AttachStatus
//   {"id":3,"op":"grow","sizeBytes":…}                                        -> AttachedDevice
//   {"id":4,"op":"detach","force":false}                                      -> {}
//   answer: {"id":1,"ok":true,"result":{…}} or {"id":1,"ok":false,"error":{"code":…,"reason":…,"message":…}}

import {
  type ErrorCode,
  type ErrorReason,
  errorCodes,
  errorReasons,
  HoldfastError,
  invalid,
  isUuid,
  KiB,
  printable,
  type VolumeId,
} from '../../base/index.js';

export const lineBytesMax = 16 * KiB;
const keyBytesMax = 1 * KiB;

export type ControlRequest =
  | {
      readonly op: 'open';
      readonly id: number;
      readonly volumeId: VolumeId;
      readonly key: Buffer | null;
      readonly readOnly: boolean;
    }
  | { readonly op: 'status'; readonly id: number }
  | { readonly op: 'grow'; readonly id: number; readonly sizeBytes: number }
  | { readonly op: 'detach'; readonly id: number; readonly force: boolean };

export type ControlReply =
  | { readonly id: number; readonly ok: true; readonly result: object }
  | { readonly id: number; readonly ok: false; readonly error: WireError };

export interface WireError {
  readonly code: ErrorCode;
  readonly reason: ErrorReason;
  readonly message: string;
}

/** Checks one line of a client. Throws INVALID_ARGUMENT; never quotes the line, which may hold a key. */
export function parseRequest(line: string): ControlRequest {
  const fields = parseObject(line);
  const { id, op } = fields;
  if (!isCount(id)) throw invalid('a request needs a numeric id');
  switch (op) {
    case 'open':
      return { op, id, volumeId: volumeOf(fields), key: keyOf(fields), readOnly: flagOf(fields, 'readOnly') };
    case 'status':
      return { op, id };
    case 'grow':
      if (!isCount(fields.sizeBytes)) throw invalid('"sizeBytes" is not a size');
      return { op, id, sizeBytes: fields.sizeBytes };
    case 'detach':
      return { op, id, force: flagOf(fields, 'force') };
    default:
      throw invalid(`unknown request ${printable(op)}`);
  }
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw invalid('a line is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid('a line is not an object');
  return value as Record<string, unknown>;
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function volumeOf(fields: Record<string, unknown>): VolumeId {
  if (typeof fields.volumeId !== 'string' || !isUuid(fields.volumeId)) throw invalid('"volumeId" is not a UUID');
  return fields.volumeId as VolumeId;
}

function keyOf(fields: Record<string, unknown>): Buffer | null {
  const { key } = fields;
  if (key === null || key === undefined) return null;
  if (typeof key !== 'string' || !/^([0-9a-f]{2})+$/.test(key) || key.length > 2 * keyBytesMax) {
    throw invalid('"key" is not a hexadecimal key');
  }
  return Buffer.from(key, 'hex');
}

function flagOf(fields: Record<string, unknown>, name: string): boolean {
  const value = fields[name] ?? false;
  if (typeof value !== 'boolean') throw invalid(`"${name}" is neither true nor false`);
  return value;
}

/** A request as a line. The caller wipes what it can: the key passes through a string here. */
export function encodeRequest(request: ControlRequest): Buffer {
  const fields = request.op === 'open' ? { ...request, key: request.key?.toString('hex') ?? null } : request;
  return Buffer.from(`${JSON.stringify(fields)}\n`);
}

export function encodeReply(reply: ControlReply): string {
  return `${JSON.stringify(reply)}\n`;
}

/** Checks one line of a holder. Throws INTERNAL/Protocol. */
export function parseReply(line: string): ControlReply {
  const broken = (what: string) => new HoldfastError('INTERNAL', `the holder answered ${what}`, { reason: 'Protocol' });
  let fields: Record<string, unknown>;
  try {
    fields = parseObject(line);
  } catch {
    throw broken('something that is not JSON');
  }
  const { id, ok, result, error } = fields;
  if (!isCount(id)) throw broken('without an id');
  if (ok === true && typeof result === 'object' && result !== null) return { id, ok, result };
  if (ok !== false || typeof error !== 'object' || error === null) throw broken('neither a result nor an error');
  const wire = error as Record<string, unknown>;
  return {
    id,
    ok,
    error: {
      code: errorCodes.find((code) => code === wire.code) ?? 'INTERNAL',
      reason: errorReasons.find((reason) => reason === wire.reason) ?? 'Generic',
      message: typeof wire.message === 'string' ? wire.message : 'the holder gave no reason',
    },
  };
}

/** Cuts a byte stream into lines of at most `lineBytesMax`. */
export class LineReader {
  #rest: Buffer = Buffer.alloc(0);

  /**
   * Adds what arrived and calls `onLine` for each whole line. Throws INVALID_ARGUMENT when a line grows past the bound:
   * the stream is then lost. Consumed bytes are wiped, since a line may hold a key.
   */
  push(chunk: Buffer, onLine: (line: string) => void): void {
    let data = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    this.#rest.fill(0);
    for (let end = data.indexOf(10); end >= 0; end = data.indexOf(10)) {
      if (end > lineBytesMax) break;
      const line = data.toString('utf8', 0, end);
      data.fill(0, 0, end);
      data = data.subarray(end + 1);
      onLine(line);
    }
    if (data.length > lineBytesMax) {
      this.#rest = Buffer.alloc(0);
      throw invalid(`a line has more than ${lineBytesMax} bytes`);
    }
    this.#rest = Buffer.from(data);
    chunk.fill(0);
  }
}
