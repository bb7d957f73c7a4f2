// Cuts a byte stream into messages, in place: bodies are views of what was received, and bodies for which the receiver names a
// place go straight there, in the pieces in which they come.

import { crc32c } from '../base/index.js';
import type { ReceiveSlab } from '../transport/index.js';
import { MESSAGE_HEADER_SIZE, MessageHead, protocolError } from './message.js';
import { HELLO_VERSION } from './versions.js';

export interface MessageHandler {
  /** The largest body allowed for this header; throws when such a message is not expected at all. */
  bodyMax(head: MessageHead): number;
  /** Where the body goes, in order, or null. The lengths must add up to head.length. */
  sink(head: MessageHead): readonly Uint8Array[] | null;
  /**
   * A whole message. `body` lies in `slab`: who keeps it beyond the call retains the slab or copies. It is empty when it went to a
   * sink; `head` has no reign then.
   */
  message(head: MessageHead, body: Buffer, slab: ReceiveSlab): void;
}

const empty = Buffer.alloc(0);

export class MessageReader {
  /** Bytes without which nothing can be done; see StreamHandler. */
  wanted = MESSAGE_HEADER_SIZE;
  /** What messages must be of. */
  version: number = HELLO_VERSION;
  readonly #handler: MessageHandler;
  readonly #head = new MessageHead();
  #sink: readonly Uint8Array[] | null = null;
  #sinkIndex = 0;
  #sinkAt = 0;
  #stopped = false;

  constructor(handler: MessageHandler) {
    this.#handler = handler;
  }

  /** Nothing more is delivered, not even of what is being read, until it is read again. */
  stop(): void {
    this.#stopped = true;
  }

  /**
   * Returns how many of slab.bytes[from..to) were used; the rest is to be offered again with what follows it. Throws
   * FAILED_PRECONDITION/Protocol on malformed input; the connection must then be closed.
   */
  read(slab: ReceiveSlab, from: number, to: number): number {
    const { bytes } = slab;
    this.#stopped = false;
    let at = from;
    while (!this.#stopped) {
      if (this.#sink !== null) {
        if (at === to) break;
        at = this.#pour(slab, at, to);
        continue;
      }
      if (to - at < this.wanted) break;
      const head = this.#head;
      head.decode(bytes, at, this.version);
      const end = this.#check() + at;
      if (head.length > 0) {
        this.#sink = this.#handler.sink(head);
        if (this.#sink !== null) {
          at += MESSAGE_HEADER_SIZE;
          this.#sinkIndex = 0;
          this.#sinkAt = 0;
          continue;
        }
      }
      if (end > to) {
        this.wanted = end - at;
        break;
      }
      this.wanted = MESSAGE_HEADER_SIZE;
      this.#deliver(head.length === 0 ? empty : bytes.subarray(at + MESSAGE_HEADER_SIZE, end), slab);
      at = end;
    }
    return at - from;
  }

  /** The whole message's length. */
  #check(): number {
    const { type, length } = this.#head;
    const max = this.#handler.bodyMax(this.#head);
    if (length > max) throw protocolError(`message of type ${type} with ${length} bytes, at most ${max}`);
    return MESSAGE_HEADER_SIZE + length;
  }

  #pour(slab: ReceiveSlab, from: number, to: number): number {
    let at = from;
    const sink = this.#sink!;
    while (at < to && this.#sinkIndex < sink.length) {
      const target = sink[this.#sinkIndex]!;
      const count = Math.min(target.length - this.#sinkAt, to - at);
      slab.bytes.copy(target, this.#sinkAt, at, at + count);
      at += count;
      this.#sinkAt += count;
      if (this.#sinkAt < target.length) continue;
      this.#sinkIndex++;
      this.#sinkAt = 0;
    }
    if (this.#sinkIndex === sink.length) {
      this.#sink = null;
      this.#handler.message(this.#head, empty, slab);
    }
    return at;
  }

  #deliver(body: Buffer, slab: ReceiveSlab): void {
    const head = this.#head;
    if (head.checksummed && crc32c(body) !== head.bodyChecksum) {
      throw protocolError(`message of type ${head.type} with a wrong body checksum`);
    }
    this.#handler.message(head, body, slab);
  }
}
