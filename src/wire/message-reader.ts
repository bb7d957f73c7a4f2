// Cuts a byte stream into messages. Small bodies are views of what was read, larger ones are gathered in a buffer of their
// own, and bodies for which the receiver names a place go straight there.

import { crc32c } from '../base/index.js';
import { MESSAGE_HEADER_SIZE, MessageHead, protocolError } from './message.js';

export interface MessageHandler {
  /** The largest body allowed for this header; throws when such a message is not expected at all. */
  bodyMax(head: MessageHead): number;
  /** Where the body goes, in order, or null. The lengths must add up to head.length. */
  sink(head: MessageHead): readonly Uint8Array[] | null;
  /** A whole message. `body` is empty when it went to a sink; a view keeps all of what was read in memory. */
  message(head: MessageHead, body: Buffer): void;
  /** Everything that one read brought was handled. */
  batchEnd(): void;
}

const empty = Buffer.alloc(0);

export class MessageReader {
  readonly #handler: MessageHandler;
  readonly #head = new MessageHead();
  readonly #partialHeader = Buffer.alloc(MESSAGE_HEADER_SIZE);
  #headerBytes = 0;
  /** The body being gathered, or null between messages. */
  #body: Buffer | null = null;
  #sink: readonly Uint8Array[] | null = null;
  #sinkIndex = 0;
  #sinkAt = 0;
  #received = 0;

  constructor(handler: MessageHandler) {
    this.#handler = handler;
  }

  /** Throws FAILED_PRECONDITION/Protocol on malformed input; the connection must then be closed. */
  feed(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#body !== null) at = this.#gather(chunk, at);
      else if (this.#sink !== null) at = this.#pour(chunk, at);
      else at = this.#start(chunk, at);
    }
    this.#handler.batchEnd();
  }

  #start(chunk: Buffer, from: number): number {
    let at = from;
    if (this.#headerBytes > 0 || chunk.length - at < MESSAGE_HEADER_SIZE) {
      const count = Math.min(MESSAGE_HEADER_SIZE - this.#headerBytes, chunk.length - at);
      chunk.copy(this.#partialHeader, this.#headerBytes, at, at + count);
      this.#headerBytes += count;
      at += count;
      if (this.#headerBytes < MESSAGE_HEADER_SIZE) return at;
      this.#headerBytes = 0;
      this.#head.decode(this.#partialHeader, 0);
    } else {
      this.#head.decode(chunk, at);
      at += MESSAGE_HEADER_SIZE;
    }
    return this.#startBody(chunk, at);
  }

  #startBody(chunk: Buffer, at: number): number {
    const head = this.#head;
    const max = this.#handler.bodyMax(head);
    if (head.length > max)
      throw protocolError(`message of type ${head.type} with ${head.length} bytes, at most ${max}`);
    if (head.length === 0) {
      this.#deliver(empty);
      return at;
    }
    this.#sink = this.#handler.sink(head);
    this.#sinkIndex = 0;
    this.#sinkAt = 0;
    this.#received = 0;
    if (this.#sink !== null) return at;
    if (chunk.length - at >= head.length) {
      this.#deliver(chunk.subarray(at, at + head.length));
      return at + head.length;
    }
    this.#body = Buffer.allocUnsafeSlow(head.length);
    return at;
  }

  #gather(chunk: Buffer, at: number): number {
    const body = this.#body!;
    const count = Math.min(body.length - this.#received, chunk.length - at);
    chunk.copy(body, this.#received, at, at + count);
    this.#received += count;
    if (this.#received === body.length) {
      this.#body = null;
      this.#deliver(body);
    }
    return at + count;
  }

  #pour(chunk: Buffer, from: number): number {
    let at = from;
    const sink = this.#sink!;
    while (at < chunk.length && this.#sinkIndex < sink.length) {
      const target = sink[this.#sinkIndex]!;
      const count = Math.min(target.length - this.#sinkAt, chunk.length - at);
      target.set(chunk.subarray(at, at + count), this.#sinkAt);
      at += count;
      this.#sinkAt += count;
      if (this.#sinkAt < target.length) continue;
      this.#sinkIndex++;
      this.#sinkAt = 0;
    }
    if (this.#sinkIndex === sink.length) {
      this.#sink = null;
      this.#handler.message(this.#head, empty);
    }
    return at;
  }

  #deliver(body: Buffer): void {
    const head = this.#head;
    if (head.checksummed && crc32c(body) !== head.bodyChecksum) {
      throw protocolError(`message of type ${head.type} with a wrong body checksum`);
    }
    this.#handler.message(head, body);
  }
}
