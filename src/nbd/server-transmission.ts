// The server's transmission phase of one connection: requests parsed where they were received, checked completely, and handed to
// the device in batches; replies collected and sent together. Owner: one connection.
//
// Invariants
// - All complete requests that one received() brought reach the device in one submit(), in the order they came. Payloads are
//   views of the receive slab; those the device still needs when submit() returns are moved into memory of their own.
// - A header that can't be taken now (backpressure), or a write whose payload is not all there, is left in the stream with all
//   that follows; nothing of it has taken effect.
// - Payloads in flight plus replies the peer has not taken stay below limits.inFlightBytesMax (a single request is always
//   let in, so the peer makes progress); above it the stream is paused. So a peer that never reads costs bounded memory.
// - Each request is answered exactly once, or the connection is gone. A client that connects again by itself is not answered
//   ESHUTDOWN (the kernel's would give its users an error): its connection ends instead.
// - A request that is in flight when the connection goes is marked cancelled; `drained` resolves when the device has let go
//   of all of them.

import { assert } from '../base/index.js';
import type { BlockDevice, BlockError, BlockOp } from '../engine/index.js';
import type { ByteStream } from '../transport/index.js';
import {
  CMD_DISC,
  CMD_FLAG_DF,
  CMD_FLAG_FAST_ZERO,
  CMD_FLAG_FUA,
  CMD_FLAG_NO_HOLE,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  REQUEST_BYTES,
  REQUEST_MAGIC,
} from './constants.js';
import { wireErrno } from './errno.js';
import type { NbdLimits } from './limits.js';
import { readU64 } from './messages.js';
import { ReplyWriter } from './reply-writer.js';
import { type RequestOwner, ServerRequest } from './server-request.js';

export interface TransmissionOptions {
  readonly stream: ByteStream;
  readonly device: BlockDevice;
  readonly structured: boolean;
  readonly limits: NbdLimits;
  /**
   * Of a client that has a name under which it connects again, and then asks again what was not answered: the device shut down, the
   * connection is to be dropped. Null: others are answered ESHUTDOWN.
   */
  readonly onShutDown: (() => void) | null;
  /**
   * Nothing more is taken, and nothing is in flight: the connection can be ended. Or, at once: `broken` names how the peer
   * violated the protocol, and the connection must be dropped.
   */
  readonly onFinished: (broken?: string) => void;
}

/** A write that was refused, while its payload is passed over. */
interface Refused {
  readonly error: BlockError;
  readonly high: number;
  readonly low: number;
}

export class ServerTransmission implements RequestOwner {
  /** True for all requests in flight once their answers are wanted no more. */
  cancelled = false;
  /** See StreamHandler: the bytes of a write of which a part has come. */
  wanted = 0;
  readonly #stream: ByteStream;
  readonly #device: BlockDevice;
  readonly #structured: boolean;
  readonly #limits: NbdLimits;
  readonly #onShutDown: (() => void) | null;
  readonly #onFinished: (broken?: string) => void;
  readonly #replies: ReplyWriter;
  #batch: ServerRequest[] = [];
  #refused: Refused | null = null;
  /** Bytes of payload still to be passed over. */
  #skip = 0;
  /** A request was begun and is not all there. */
  #partial = false;
  /** The next request waits in the stream until there is room. */
  #blocked = false;
  #inFlight = 0;
  #inFlightBytes = 0;
  /** received() is on the stack: it will flush. */
  #receiving = false;
  #flushScheduled = false;
  #stopping = false;
  /** The device shut down: see onShutDown. */
  #shutDown = false;
  #broken: string | undefined;
  #gone = false;
  #finished = false;
  #drained: (() => void) | undefined;
  /** Resolves when the connection is gone and the device has completed everything it got from it. */
  readonly drained: Promise<void>;

  constructor(options: TransmissionOptions) {
    this.#stream = options.stream;
    this.#device = options.device;
    this.#structured = options.structured;
    this.#limits = options.limits;
    this.#onShutDown = options.onShutDown;
    this.#onFinished = options.onFinished;
    this.#replies = new ReplyWriter(options.stream, options.structured);
    this.drained = new Promise((resolve) => {
      this.#drained = resolve;
    });
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Nothing more is taken: after DISC or stop(). */
  get stopping(): boolean {
    return this.#stopping;
  }

  /** True when the stream may end here without cutting a request in two. */
  get atBoundary(): boolean {
    return !this.#partial;
  }

  /** Bytes from the stream; returns how many were consumed. */
  received(bytes: Buffer, from: number, to: number): number {
    assert(!this.#receiving, 'bytes arrived while bytes were being taken');
    this.#receiving = true;
    let at = from;
    // What the device answers on the spot is sent in between: that is what keeps the replies of many requests within bounds.
    for (;;) {
      const before = at;
      at = this.#take(bytes, at, to);
      this.#submit();
      if (!this.#blocked || this.#gone) break;
      this.#replies.flush();
      if (at === before) break;
    }
    this.#receiving = false;
    if (this.#stopping || this.#gone) at = to;
    else if (this.#blocked) this.#stream.pause();
    this.#settle();
    return at - from;
  }

  /** Takes no more requests; onFinished is called once those in flight are answered. */
  stop(): void {
    this.#stopping = true;
    this.wanted = 0;
    if (!this.#receiving) this.#settle();
  }

  /** The connection is gone: nothing is answered from now on. */
  abandon(): void {
    this.cancelled = true;
    this.#gone = true;
    if (this.#inFlight === 0) this.#drained?.();
  }

  /** The peer has taken all replies: there may be room again. */
  sent(): void {
    if (this.#gone) return;
    this.#replies.flush();
    this.#goOn();
  }

  // --- requests in

  /** Takes complete requests from bytes[at..to) until there are none, or no room for the next. Returns what is behind them. */
  #take(bytes: Buffer, start: number, to: number): number {
    let at = start;
    this.wanted = 0;
    this.#blocked = false;
    while (!this.#stopping) {
      if (this.#skip > 0) {
        at += this.#passOver(to - at);
        if (this.#skip > 0) break;
      }
      if (to - at < REQUEST_BYTES) break;
      const size = this.#request(bytes, at, to - at);
      if (size === 0) break;
      at += size;
    }
    this.#partial = this.#skip > 0 || (at < to && !this.#blocked);
    return at;
  }

  /** The request at `at`, of which `here` bytes have come. Returns its size, or 0 when it has to stay where it is. */
  #request(bytes: Buffer, at: number, here: number): number {
    if (bytes.readUInt32BE(at) !== REQUEST_MAGIC) {
      this.#broken = 'bad request magic';
      this.#stopping = true;
      return 0;
    }
    const flags = bytes.readUInt16BE(at + 4);
    const command = bytes.readUInt16BE(at + 6);
    const length = bytes.readUInt32BE(at + 24);
    if (!this.#hasRoom(command === CMD_READ || command === CMD_WRITE ? length : 0)) {
      this.#blocked = true;
      return 0;
    }
    if (command === CMD_DISC) {
      this.#stopping = true;
      return 0;
    }
    const high = bytes.readUInt32BE(at + 8);
    const low = bytes.readUInt32BE(at + 12);
    const offset = readU64(bytes, at + 16);
    const error = this.#check(command, flags, offset, length);
    if (error !== null) {
      this.#refuse(command, error, length, high, low);
      return REQUEST_BYTES;
    }
    const payload = command === CMD_WRITE ? length : 0;
    if (here < REQUEST_BYTES + payload) {
      this.wanted = REQUEST_BYTES + payload;
      return 0;
    }
    const fua = (flags & CMD_FLAG_FUA) !== 0 && command !== CMD_READ && command !== CMD_FLUSH;
    const data = payload > 0 ? bytes : null;
    const op = opOf(command);
    const request = new ServerRequest(this, op, offset, length, fua, high, low, data, at + REQUEST_BYTES);
    this.#inFlight++;
    if (command === CMD_READ) this.#replies.reserve(request);
    if (request.data !== null) this.#inFlightBytes += length;
    this.#batch.push(request);
    return REQUEST_BYTES + payload;
  }

  #passOver(here: number): number {
    const passed = Math.min(this.#skip, here);
    this.#skip -= passed;
    if (this.#skip === 0) {
      const { error, high, low } = this.#refused!;
      this.#refused = null;
      this.#replies.simple(wireErrno(error), high, low);
    }
    return passed;
  }

  /** The order of proto.md's "Error values": what is unknown, then permission, then range. */
  #check(command: number, flags: number, offset: number, length: number): BlockError | null {
    const device = this.#device;
    let allowed = CMD_FLAG_FUA;
    if (command === CMD_READ) allowed |= this.#structured ? CMD_FLAG_DF : 0;
    else if (command === CMD_WRITE_ZEROES) allowed |= CMD_FLAG_NO_HOLE | CMD_FLAG_FAST_ZERO;
    if ((flags & ~allowed) !== 0) return 'EINVAL';
    if (device.closed) return 'ESHUTDOWN';
    switch (command) {
      case CMD_FLUSH:
        return offset === 0 && length === 0 ? null : 'EINVAL';
      case CMD_READ:
        if (length > this.#limits.payloadBytesMax) return (flags & CMD_FLAG_DF) !== 0 ? 'EOVERFLOW' : 'EINVAL';
        return length > 0 && offset + length <= device.sizeBytes ? null : 'EINVAL';
      case CMD_WRITE:
      case CMD_WRITE_ZEROES:
        if (device.readOnly) return 'EPERM';
        if (length === 0 || (command === CMD_WRITE && length > this.#limits.payloadBytesMax)) return 'EINVAL';
        return offset + length <= device.sizeBytes ? null : 'ENOSPC';
      case CMD_TRIM:
        if (device.readOnly) return 'EPERM';
        return length > 0 && offset + length <= device.sizeBytes ? null : 'EINVAL';
      default:
        return 'EINVAL';
    }
  }

  #refuse(command: number, error: BlockError, length: number, high: number, low: number): void {
    if (error === 'ESHUTDOWN' && this.#onShutDown !== null) return this.#sendAway();
    if (command === CMD_WRITE && length > 0) {
      this.#refused = { error, high, low };
      this.#skip = length;
    } else if (command === CMD_READ) this.#replies.readFailed(wireErrno(error), high, low, null);
    else this.#replies.simple(wireErrno(error), high, low);
  }

  #hasRoom(bytes: number): boolean {
    const { unsentBytes, unsentTurns } = this.#replies;
    if (this.#inFlight === 0 && unsentBytes === 0) return true;
    const { inFlightRequestsMax, inFlightBytesMax } = this.#limits;
    return (
      this.#inFlight < inFlightRequestsMax &&
      unsentTurns < inFlightRequestsMax &&
      this.#replies.heldBytes <= inFlightBytesMax &&
      this.#inFlightBytes + unsentBytes + bytes <= inFlightBytesMax
    );
  }

  #submit(): void {
    const batch = this.#batch;
    if (batch.length === 0) return;
    this.#batch = [];
    this.#device.submit(batch);
    for (let i = 0; i < batch.length; i++) batch[i]!.keepPayload();
  }

  // --- replies out

  completed(request: ServerRequest, error: BlockError | null): void {
    assert(!request.completed, 'a device completed a request twice');
    request.completed = true;
    this.#inFlight--;
    if (request.op === 'read' || request.op === 'write') this.#inFlightBytes -= request.length;
    if (this.#gone) {
      if (this.#inFlight === 0) this.#drained?.();
      return;
    }
    const { high, low, slab } = request;
    if (error === 'ESHUTDOWN' && this.#onShutDown !== null) {
      if (slab !== null) slab.reads--;
      this.#sendAway();
    } else if (slab === null) this.#replies.simple(error === null ? 0 : wireErrno(error), high, low);
    else if (error !== null) this.#replies.readFailed(wireErrno(error), high, low, slab);
    else this.#replies.readDone(request);
    if (!this.#receiving && !this.#flushScheduled) {
      // Completions of one turn leave together.
      this.#flushScheduled = true;
      process.nextTick(flushLater, this);
    }
  }

  /** Takes nothing more; what else is answered in this turn still goes out. */
  #sendAway(): void {
    this.#shutDown = true;
    this.#stopping = true;
    this.wanted = 0;
  }

  /** The turn that completed requests is over. */
  flushNow(): void {
    this.#flushScheduled = false;
    if (this.#gone) return;
    this.#settle();
    this.#goOn();
  }

  /** Offers what waits in the stream once more. */
  #goOn(): void {
    if (!this.#blocked || this.#receiving || this.#gone || this.#stopping) return;
    this.#blocked = false;
    this.#stream.resume();
  }

  /** After each turn: replies out, the end noticed. */
  #settle(): void {
    if (this.#gone || this.#finished) return;
    this.#replies.flush();
    if (this.#shutDown) {
      this.#finished = true;
      this.#onShutDown?.();
    } else if (this.#broken !== undefined || (this.#stopping && this.#inFlight === 0)) {
      this.#finished = true;
      this.#onFinished(this.#broken);
    }
  }
}

function flushLater(transmission: ServerTransmission): void {
  transmission.flushNow();
}

function opOf(command: number): BlockOp {
  switch (command) {
    case CMD_READ:
      return 'read';
    case CMD_WRITE:
      return 'write';
    case CMD_FLUSH:
      return 'flush';
    case CMD_TRIM:
      return 'trim';
    default:
      return 'zero';
  }
}
