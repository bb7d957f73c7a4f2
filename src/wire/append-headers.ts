// Headers of APPEND. All replicas of a volume get the same bytes, header included, so the header is made for the first of them and
// lent to the others. What was made stays as it is: memory that is full is left to those who still send from it.

import { KiB } from '../base/index.js';
import type { SegmentName } from '../format/index.js';
import { encodeHeader, MESSAGE_HEADER_SIZE, messageType, noReign } from './message.js';

const BLOCK_BYTES = 64 * KiB;

export class AppendHeaders {
  bytes: Buffer = Buffer.alloc(0);
  #end = 0;
  /** What the last header says. */
  #body: Uint8Array | null = null;
  #lastSeq = 0;
  #offset = 0;
  #ordinal = 0;
  #epoch = 0;
  #reign: Buffer = noReign;
  #version = 0;

  /** A header for these bytes lies at `this.bytes[...]`, for the caller to send and not to change. */
  encode(
    segment: SegmentName,
    offset: number,
    body: Uint8Array,
    lastSeq: number,
    reign: Buffer,
    version: number,
  ): number {
    const same =
      body === this.#body &&
      lastSeq === this.#lastSeq &&
      offset === this.#offset &&
      segment.ordinal === this.#ordinal &&
      segment.epoch === this.#epoch &&
      version === this.#version &&
      (reign === this.#reign || reign.equals(this.#reign));
    if (same) return this.#end - MESSAGE_HEADER_SIZE;
    if (this.bytes.length - this.#end < MESSAGE_HEADER_SIZE) {
      this.bytes = Buffer.allocUnsafeSlow(BLOCK_BYTES);
      this.#end = 0;
    }
    const at = this.#end;
    this.#end += MESSAGE_HEADER_SIZE;
    this.#body = body;
    this.#lastSeq = lastSeq;
    this.#offset = offset;
    this.#ordinal = segment.ordinal;
    this.#epoch = segment.epoch;
    this.#reign = reign;
    this.#version = version;
    const fields = {
      type: messageType.append,
      requestId: 0,
      a: segment.epoch,
      b: lastSeq,
      c: segment.ordinal,
      d: offset,
    } as const;
    encodeHeader(this.bytes, at, fields, reign, body.length, null, version);
    return at;
  }
}
