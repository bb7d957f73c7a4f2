// One framed connection: sends messages, hands received ones on, ends once. Shared by client and server.
//
// What is sent in a turn leaves together at its end, or with flush(). Received bodies are views; see MessageHandler.

import { asHoldfastError, type Clock, crc32c, HoldfastError, type TimerHandle } from '../base/index.js';
import type { ByteStream, ReceiveSlab, StreamHandler } from '../transport/index.js';
import { BUFFERED_BYTES_MAX } from './limits.js';
import { encodeHeader, MESSAGE_HEADER_SIZE, type MessageFields, messageType, noReign } from './message.js';
import { type MessageHandler, MessageReader } from './message-reader.js';
import { Outbox } from './outbox.js';

export interface ConnectionHandler extends MessageHandler {
  /** Everything that one read brought was handled. */
  batchEnd(): void;
  /** The peer sent what it may not send. The connection is ended after this call. */
  malformed(error: HoldfastError): void;
  /** Once. Nothing was or will be delivered after it. */
  closed(error: HoldfastError): void;
}

const LINGER_MS = 5_000;

export class WireConnection implements StreamHandler {
  /** What the headers of this connection say of the reign. */
  reign: Buffer = noReign;
  /** When a ping was sent that nothing was received after, in monotonic milliseconds; null otherwise. */
  pingSentMs: number | null = null;
  readonly peer: string;
  readonly outbox: Outbox;
  readonly #stream: ByteStream;
  readonly #handler: ConnectionHandler;
  readonly #reader: MessageReader;
  readonly #clock: Clock;
  #linger: TimerHandle | null = null;
  #ended = false;

  constructor(stream: ByteStream, handler: ConnectionHandler, clock: Clock) {
    this.#stream = stream;
    this.#handler = handler;
    this.#reader = new MessageReader(handler);
    this.#clock = clock;
    this.outbox = new Outbox(stream);
    this.peer = stream.peer;
    stream.start(this);
  }

  get isEnded(): boolean {
    return this.#ended;
  }
  /** Of the protocol: what is sent and received from now on. */
  get version(): number {
    return this.#reader.version;
  }
  set version(version: number) {
    this.#reader.version = version;
  }
  /** Written and not yet taken by the system. */
  get unsentBytes(): number {
    return this.#stream.unsentBytes;
  }

  // --- As the stream's handler

  get wanted(): number {
    return this.#reader.wanted;
  }

  received(slab: ReceiveSlab, from: number, to: number): number {
    if (this.#ended) return to - from;
    this.pingSentMs = null;
    let used: number;
    try {
      used = this.#reader.read(slab, from, to);
      if (!this.#ended) this.#handler.batchEnd();
    } catch (error) {
      // A broken invariant of ours is not the peer's fault and must not be hidden as one.
      if (!(error instanceof HoldfastError)) throw error;
      this.#handler.malformed(error);
      this.destroy(error);
      return to - from;
    }
    return this.#ended ? to - from : used;
  }

  drained(): void {
    if (!this.#ended) this.#stream.resume();
  }

  /** Neither end of this protocol goes on with a peer that has ended; last words that are on their way are still sent. */
  ended(): void {
    if (!this.#ended) this.destroy(closedBy(this.peer, null));
  }

  closed(error: Error | null): void {
    this.#linger?.cancel();
    this.#end(closedBy(this.peer, error));
  }

  // --- Sending

  /** Asks for a sign of life, unless the last question is still open. */
  ping(): void {
    if (this.pingSentMs !== null) return;
    this.pingSentMs = this.#clock.monotonicMs();
    this.send({ type: messageType.ping, requestId: 0 });
  }

  /** Sends a message without a body. */
  send(fields: MessageFields): void {
    if (this.#ended) return;
    this.outbox.reserve(MESSAGE_HEADER_SIZE);
    this.sendFilled(fields, this.outbox.bytes, this.outbox.at, 0);
  }

  /** Sends a message at a place of the outbox, whose body of `length` bytes was filled in behind room for its header. */
  sendFilled(fields: MessageFields, bytes: Buffer, at: number, length: number): void {
    if (this.#ended) return this.outbox.dropped();
    encodeHeader(bytes, at, fields, this.reign, length, null, this.version);
    this.outbox.sent(bytes, at, MESSAGE_HEADER_SIZE + length);
    this.#checkUnsent();
  }

  /** Sends a message with a body that does not change until it was sent, with its checksum where it has none of its own. */
  sendBody(fields: MessageFields, body: Uint8Array, checksum: number | null = null): void {
    if (this.#ended) return;
    const { outbox } = this;
    outbox.reserve(MESSAGE_HEADER_SIZE);
    encodeHeader(outbox.bytes, outbox.at, fields, this.reign, body.length, checksum, this.version);
    outbox.sent(outbox.bytes, outbox.at, MESSAGE_HEADER_SIZE);
    this.#stream.write(body);
    this.#checkUnsent();
  }

  /** The same with a header made by somebody else, at bytes[at], which does not change either. */
  sendEncoded(bytes: Buffer, at: number, body: Uint8Array): void {
    if (this.#ended) return;
    this.#stream.write(bytes, at, at + MESSAGE_HEADER_SIZE);
    this.#stream.write(body);
    this.#checkUnsent();
  }

  sendJson(fields: MessageFields, value: unknown): void {
    const body = Buffer.from(JSON.stringify(value), 'utf8');
    this.sendBody(fields, body, crc32c(body));
  }

  /** What was sent since the turn began leaves now. */
  flush(): void {
    this.#stream.flush();
  }

  #checkUnsent(): void {
    const { unsentBytes } = this.#stream;
    if (unsentBytes <= BUFFERED_BYTES_MAX) return;
    this.destroy(
      new HoldfastError('RESOURCE_EXHAUSTED', `${this.peer} does not take what is sent: ${unsentBytes} bytes wait`),
    );
  }

  /** Reads nothing more, not even of what was received already, while more than `bytes` wait to be sent. */
  holdAbove(bytes: number): void {
    if (this.#ended || this.#stream.unsentBytes <= bytes) return;
    this.#stream.flush();
    if (this.#ended || this.#stream.unsentBytes <= bytes) return;
    this.#stream.pause();
    this.#reader.stop();
  }

  /** Reads nothing more, not even of what was received already, until goOn(). */
  hold(): void {
    if (this.#ended) return;
    this.#stream.pause();
    this.#reader.stop();
  }
  goOn(): void {
    if (!this.#ended) this.#stream.resume();
  }

  // --- The end

  /** Ends it at once. The handler hears of `error`. */
  destroy(error: Error): void {
    this.#stream.destroy();
    this.#end(asHoldfastError(error));
  }

  /** Sends what is queued, then ends; the handler hears of `error` now. */
  finish(error: HoldfastError): void {
    if (this.#ended) return;
    this.#stream.end();
    // A peer that does not end its side must not keep the stream.
    this.#linger = this.#clock.after(LINGER_MS, () => this.#stream.destroy());
    this.#end(error);
  }

  #end(error: HoldfastError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#reader.stop();
    this.#handler.closed(error);
  }
}

/** Says nothing about the replica: it may be reached again. */
function closedBy(peer: string, error: Error | null): HoldfastError {
  const why = error === null ? 'closed' : `broken: ${error.message}`;
  return new HoldfastError('UNAVAILABLE', `the connection with ${peer} was ${why}`, { cause: error ?? undefined });
}
