// One framed connection: sends messages, hands received ones on, ends once. Shared by client and server.

import { asHoldfastError, type Clock, crc32c, HoldfastError } from '../base/index.js';
import { BUFFERED_BYTES_MAX } from './limits.js';
import { encodeHeader, MESSAGE_HEADER_SIZE, type MessageFields, messageType, noReign } from './message.js';
import { type MessageHandler, MessageReader } from './message-reader.js';
import type { WireSocket } from './net.js';

export interface ConnectionHandler extends MessageHandler {
  /** The peer sent what it may not send. The connection is ended after this call. */
  malformed(error: HoldfastError): void;
  /** Once. Nothing was or will be delivered after it. */
  closed(error: HoldfastError): void;
}

/** Bodies up to this size are copied behind their header: one buffer to send costs less than two. */
const COPY_BODY_BYTES = 16 * 1024;

const LINGER_MS = 5_000;

const emptyBody = Buffer.alloc(0);

export class WireConnection {
  /** What the headers of this connection say of the reign. */
  reign: Buffer = noReign;
  /** When a ping was sent that nothing was received after, in monotonic milliseconds; null otherwise. */
  pingSentMs: number | null = null;
  readonly peer: string;
  readonly #socket: WireSocket;
  readonly #handler: ConnectionHandler;
  readonly #reader: MessageReader;
  readonly #clock: Clock;
  #ended = false;

  constructor(socket: WireSocket, handler: ConnectionHandler, clock: Clock) {
    this.#socket = socket;
    this.#handler = handler;
    this.#reader = new MessageReader(handler);
    this.#clock = clock;
    this.peer = socket.peer;
    socket.listen({
      data: (chunk) => this.#received(chunk),
      drained: () => socket.resume(),
      closed: (error) => this.#end(closedBy(this.peer, error)),
    });
  }

  get ended(): boolean {
    return this.#ended;
  }
  get bufferedBytes(): number {
    return this.#socket.bufferedBytes;
  }

  #received(chunk: Buffer): void {
    if (this.#ended) return;
    this.pingSentMs = null;
    try {
      this.#reader.feed(chunk);
    } catch (error) {
      // A broken invariant of ours is not the peer's fault and must not be hidden as one.
      if (!(error instanceof HoldfastError)) throw error;
      this.#handler.malformed(error);
      this.destroy(error);
    }
  }

  /** Asks for a sign of life, unless the last question is still open. */
  ping(): void {
    if (this.pingSentMs !== null) return;
    this.pingSentMs = this.#clock.monotonicMs();
    this.send({ type: messageType.ping, requestId: 0 });
  }

  /** Sends a message whose body needs no checksum of its own. `body` must not change until it was sent. */
  send(fields: MessageFields, body: Uint8Array = emptyBody): void {
    if (this.#ended) return;
    const copied = body.length <= COPY_BODY_BYTES;
    const header = Buffer.allocUnsafe(copied ? MESSAGE_HEADER_SIZE + body.length : MESSAGE_HEADER_SIZE);
    encodeHeader(header, fields, this.reign, body.length, null);
    if (copied) {
      header.set(body, MESSAGE_HEADER_SIZE);
      this.#socket.write(header);
    } else {
      this.#socket.cork();
      this.#socket.write(header);
      this.#socket.write(body);
      this.#socket.uncork();
    }
    this.#checkBuffered();
  }

  /** Sends a message around `bytes`, which has MESSAGE_HEADER_SIZE bytes of room before its body. */
  sendPrepared(fields: MessageFields, bytes: Buffer): void {
    if (this.#ended) return;
    encodeHeader(bytes, fields, this.reign, bytes.length - MESSAGE_HEADER_SIZE, null);
    this.#socket.write(bytes);
    this.#checkBuffered();
  }

  sendJson(fields: MessageFields, value: unknown): void {
    if (this.#ended) return;
    const body = Buffer.from(JSON.stringify(value), 'utf8');
    const header = Buffer.allocUnsafe(MESSAGE_HEADER_SIZE);
    encodeHeader(header, fields, this.reign, body.length, crc32c(body));
    this.#socket.cork();
    this.#socket.write(header);
    this.#socket.write(body);
    this.#socket.uncork();
    this.#checkBuffered();
  }

  #checkBuffered(): void {
    const { bufferedBytes } = this.#socket;
    if (bufferedBytes <= BUFFERED_BYTES_MAX) return;
    this.destroy(
      new HoldfastError('RESOURCE_EXHAUSTED', `${this.peer} does not take what is sent: ${bufferedBytes} bytes wait`),
    );
  }

  /** Stops reading until what is buffered was sent. */
  holdUntilDrained(): void {
    if (!this.#ended) this.#socket.pause();
  }

  /** Ends it at once. The handler hears of `error`. */
  destroy(error: Error): void {
    this.#socket.destroy();
    this.#end(asHoldfastError(error));
  }

  /** Sends what is queued, then ends; the handler hears of `error` now. */
  finish(error: HoldfastError): void {
    if (this.#ended) return;
    this.#socket.end();
    // A peer that does not end its side must not keep the socket.
    this.#clock.after(LINGER_MS, () => this.#socket.destroy());
    this.#end(error);
  }

  #end(error: HoldfastError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#handler.closed(error);
  }
}

/** Says nothing about the replica: it may be reached again. */
function closedBy(peer: string, error: Error | null): HoldfastError {
  const why = error === null ? 'closed' : `broken: ${error.message}`;
  return new HoldfastError('UNAVAILABLE', `the connection with ${peer} was ${why}`, { cause: error ?? undefined });
}
