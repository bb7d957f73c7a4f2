// Cuts a connection's bytes into requests. Owner: one transmission. Small payloads are views of the chunk they arrived in; a
// payload that spans chunks gets a buffer of its own and is filled in place, so no byte is copied twice and nothing is ever
// concatenated. Invariant: a header the sink can't take now (backpressure) is kept, with all that follows it, until
// continue() is called; nothing of it has taken effect.

import { assert } from '../base/index.js';
import { REQUEST_BYTES } from './constants.js';

/** What the sink made of a header. */
export const HEADER_DONE = 0;
/** The header's payload follows: hand it over. */
export const HEADER_PAYLOAD = 1;
/** The header's payload follows: pass over it, then tell. */
export const HEADER_SKIP = 2;
/** No room now: ask again. */
export const HEADER_BLOCKED = 3;
/** Take nothing more from this connection. */
export const HEADER_STOP = 4;

export interface RequestSink {
  /** A header of 28 bytes at `at`; returns one of HEADER_*. */
  takeHeader(bytes: Buffer, at: number): number;
  /** Bytes of payload that follow the header just taken (for HEADER_PAYLOAD and HEADER_SKIP). */
  readonly payloadBytes: number;
  takePayload(payload: Buffer): void;
  payloadSkipped(): void;
}

export class RequestReader {
  readonly #sink: RequestSink;
  /** A header that arrived in pieces, or that was refused for lack of room. */
  readonly #carry: Buffer = Buffer.alloc(REQUEST_BYTES);
  #carried = 0;
  /** The payload being filled, and how far. */
  #filling: Buffer | undefined;
  #filled = 0;
  #skip = 0;
  /** What stands behind a blocked header. */
  #rest: Buffer[] = [];
  #blocked = false;
  #stopped = false;

  constructor(sink: RequestSink) {
    this.#sink = sink;
  }

  get blocked(): boolean {
    return this.#blocked;
  }

  /** True when the stream may end here without cutting a request in two. */
  get atBoundary(): boolean {
    return this.#carried === 0 && this.#filling === undefined && this.#skip === 0;
  }

  feed(chunk: Buffer): void {
    if (this.#stopped) return;
    if (this.#blocked) this.#rest.push(chunk);
    else this.#consume(chunk);
  }

  /** Offers the blocked header again, then what follows it. */
  continue(): void {
    if (!this.#blocked || this.#stopped) return;
    this.#blocked = false;
    const chunks = this.#rest;
    this.#rest = [];
    if (chunks.length === 0) chunks.push(Buffer.alloc(0));
    for (const chunk of chunks) this.feed(chunk);
  }

  /** Drops everything kept; later bytes are ignored. */
  stop(): void {
    this.#stopped = true;
    this.#blocked = false;
    this.#rest = [];
    this.#filling = undefined;
  }

  #consume(chunk: Buffer): void {
    const end = chunk.length;
    let at = 0;
    if (this.#skip > 0 || this.#filling !== undefined) at = this.#continuePayload(chunk);
    for (;;) {
      // A complete header in the carry comes first: it was blocked, and has nothing in the chunk.
      if (this.#carried > 0 || end - at < REQUEST_BYTES) {
        const taken = Math.min(REQUEST_BYTES - this.#carried, end - at);
        chunk.copy(this.#carry, this.#carried, at, at + taken);
        this.#carried += taken;
        at += taken;
        if (this.#carried < REQUEST_BYTES) return;
        const outcome = this.#sink.takeHeader(this.#carry, 0);
        if (outcome === HEADER_BLOCKED) break;
        this.#carried = 0;
        at = this.#payload(outcome, chunk, at);
      } else {
        const outcome = this.#sink.takeHeader(chunk, at);
        if (outcome === HEADER_BLOCKED) break;
        at = this.#payload(outcome, chunk, at + REQUEST_BYTES);
      }
      if (this.#stopped) return;
    }
    this.#blocked = true;
    if (at < end) this.#rest.push(chunk.subarray(at));
  }

  /** Starts on the payload that follows a header. Returns where the next header starts. */
  #payload(outcome: number, chunk: Buffer, at: number): number {
    if (outcome === HEADER_DONE) return at;
    if (outcome === HEADER_STOP) {
      this.stop();
      return chunk.length;
    }
    const bytes = this.#sink.payloadBytes;
    const here = chunk.length - at;
    if (outcome === HEADER_SKIP) {
      this.#skip = Math.max(0, bytes - here);
      if (this.#skip === 0) this.#sink.payloadSkipped();
      return at + Math.min(bytes, here);
    }
    assert(outcome === HEADER_PAYLOAD, 'a sink returned an unknown outcome');
    if (bytes <= here) {
      this.#sink.takePayload(chunk.subarray(at, at + bytes));
      return at + bytes;
    }
    this.#filling = Buffer.allocUnsafeSlow(bytes);
    this.#filled = chunk.copy(this.#filling, 0, at);
    return chunk.length;
  }

  /** Goes on with a payload that began in an earlier chunk. Returns where the next header starts. */
  #continuePayload(chunk: Buffer): number {
    if (this.#skip > 0) {
      const passed = Math.min(this.#skip, chunk.length);
      this.#skip -= passed;
      if (this.#skip === 0) this.#sink.payloadSkipped();
      return passed;
    }
    const payload = this.#filling!;
    const copied = chunk.copy(payload, this.#filled, 0);
    this.#filled += copied;
    if (this.#filled === payload.length) {
      this.#filling = undefined;
      this.#sink.takePayload(payload);
    }
    return copied;
  }
}
