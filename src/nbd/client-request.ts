// A request as the callers of ReconnectingNbdClient submit it, and as the client keeps it until it is answered.

import { invalid } from '../base/index.js';
import type { BlockError, BlockOp } from '../engine/index.js';
import type { LinkRequest } from './client-link.js';
import { PAYLOAD_BYTES_MAX } from './constants.js';

export interface ClientRequest {
  readonly op: BlockOp;
  /** Bytes; 0 for flush. */
  readonly offset: number;
  /** Bytes; 0 for flush. At most the export's payloadBytesMax (32 MiB) for read and write, 2^32-1 for trim and zero. */
  readonly length: number;
  readonly fua: boolean;
  /** write: the payload; read: the destination; `length` bytes, untouched by the caller until done(). Else null. */
  readonly data: Uint8Array | null;
}

export type ClientCallback = (error: BlockError | null) => void;

/** Throws INVALID_ARGUMENT for what no server could be asked. */
export function checkRequest(request: ClientRequest): void {
  const { op, offset, length, data } = request;
  const most = op === 'read' || op === 'write' ? PAYLOAD_BYTES_MAX : 2 ** 32 - 1;
  const range =
    op === 'flush'
      ? offset === 0 && length === 0
      : Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(length) && length > 0 && length <= most;
  if (!range) throw invalid(`${op} at ${offset}, length ${length}: not a range one request can have`);
  const carries = op === 'read' || op === 'write';
  if (carries ? data?.length !== length : data !== null) {
    throw invalid(`${op} of ${length} bytes comes with ${data === null ? 'no' : data.length} bytes of buffer`);
  }
}

/** One submitted request. Plain fields: one is made per request. */
export class PendingRequest implements LinkRequest {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly data: Uint8Array | null;
  /** Order of submission. */
  readonly serial: number;
  readonly callback: ClientCallback;
  readonly #answered: (request: PendingRequest, error: BlockError | null) => void;

  constructor(
    request: ClientRequest,
    serial: number,
    callback: ClientCallback,
    answered: (request: PendingRequest, error: BlockError | null) => void,
  ) {
    this.op = request.op;
    this.offset = request.offset;
    this.length = request.length;
    this.fua = request.fua;
    this.data = request.data;
    this.serial = serial;
    this.callback = callback;
    this.#answered = answered;
  }

  done(error: BlockError | null): void {
    this.#answered(this, error);
  }
}
