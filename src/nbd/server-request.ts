// One request, as the device sees it and as the reply needs it. Plain fields: one is made per request.

import type { BlockError, BlockOp, BlockRequest } from '../engine/index.js';
import type { ReplySlab } from './reply-slabs.js';

/** Whoever took the request from the peer. */
export interface RequestOwner {
  /** True once the answers of its requests are wanted no more. */
  readonly cancelled: boolean;
  completed(request: ServerRequest, error: BlockError | null): void;
}

export class ServerRequest implements BlockRequest {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly owner: RequestOwner;
  /** The client's handle. */
  readonly high: number;
  readonly low: number;
  data: Uint8Array | null;
  dataAt: number;
  /** Where a read's reply is made: its head lies before dataAt. */
  slab: ReplySlab | null = null;
  completed = false;

  constructor(
    owner: RequestOwner,
    op: BlockOp,
    offset: number,
    length: number,
    fua: boolean,
    high: number,
    low: number,
    data: Uint8Array | null,
    dataAt: number,
  ) {
    this.owner = owner;
    this.op = op;
    this.offset = offset;
    this.length = length;
    this.fua = fua;
    this.high = high;
    this.low = low;
    this.data = data;
    this.dataAt = dataAt;
  }

  get cancelled(): boolean {
    return this.owner.cancelled;
  }

  complete(error: BlockError | null): void {
    this.owner.completed(this, error);
  }

  /** The payload lies in memory that is about to be received into again: puts what the device still needs elsewhere. */
  keepPayload(): void {
    if (this.op !== 'write' || this.completed || this.data === null) return;
    const kept = Buffer.allocUnsafeSlow(this.length);
    kept.set(this.data.subarray(this.dataAt, this.dataAt + this.length));
    this.data = kept;
    this.dataAt = 0;
  }
}
