// The server's transmission phase of one connection: requests checked completely, then handed to the device in batches;
// replies collected and sent together. Owner: one connection.
//
// Invariants
// - All complete requests that one socket read brought reach the device in one submit(), in the order they came.
// - Payloads in flight plus replies the peer has not taken stay below limits.inFlightBytesMax (a single request is always
//   let in, so the peer makes progress); above it the socket is paused. So a peer that never reads costs bounded memory.
// - Each request is answered exactly once, or the connection is gone.
// - A request that is in flight when the connection goes is marked cancelled; `drained` resolves when the device has let go
//   of all of them.

import { assert } from '../base/index.js';
import type { BlockDevice, BlockError, BlockOp, BlockRequest } from '../engine/index.js';
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
  REQUEST_MAGIC,
} from './constants.js';
import { wireErrno } from './errno.js';
import type { NbdLimits } from './limits.js';
import { readU64 } from './messages.js';
import { type ReadReply, ReplyWriter } from './reply-writer.js';
import {
  HEADER_BLOCKED,
  HEADER_DONE,
  HEADER_PAYLOAD,
  HEADER_SKIP,
  HEADER_STOP,
  RequestReader,
  type RequestSink,
} from './request-reader.js';
import type { NbdSocket } from './socket.js';

/** One request, as the device sees it and as the reply needs it. Plain fields: one is made per request. */
class ServerRequest implements BlockRequest {
  readonly op: BlockOp;
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly owner: ServerTransmission;
  readonly high: number;
  readonly low: number;
  data: Uint8Array | null = null;
  dataAt = 0;
  reply: ReadReply | null = null;
  completed = false;

  constructor(
    owner: ServerTransmission,
    op: BlockOp,
    offset: number,
    length: number,
    fua: boolean,
    high: number,
    low: number,
  ) {
    this.owner = owner;
    this.op = op;
    this.offset = offset;
    this.length = length;
    this.fua = fua;
    this.high = high;
    this.low = low;
  }

  get cancelled(): boolean {
    return this.owner.cancelled;
  }

  complete(error: BlockError | null): void {
    this.owner.completed(this, error);
  }
}

export interface TransmissionOptions {
  readonly socket: NbdSocket;
  readonly device: BlockDevice;
  readonly structured: boolean;
  readonly limits: NbdLimits;
  /**
   * Nothing more is taken, and nothing is in flight: the connection can be ended. Or, at once: `broken` names how the peer
   * violated the protocol, and the connection must be dropped.
   */
  readonly onFinished: (broken?: string) => void;
}

export class ServerTransmission implements RequestSink {
  /** True for all requests in flight once their answers are wanted no more. */
  cancelled = false;
  payloadBytes = 0;
  readonly #socket: NbdSocket;
  readonly #device: BlockDevice;
  readonly #structured: boolean;
  readonly #limits: NbdLimits;
  readonly #onFinished: (broken?: string) => void;
  readonly #reader: RequestReader;
  readonly #replies: ReplyWriter;
  #batch: ServerRequest[] = [];
  /** The write whose payload is awaited, or the errno and handle of one whose payload is passed over. */
  #awaiting: ServerRequest | undefined;
  #refused: { error: BlockError; high: number; low: number } | undefined;
  /** Headers taken so far. */
  #taken = 0;
  #inFlight = 0;
  #inFlightBytes = 0;
  /** receive() is on the stack: it will flush. */
  #receiving = false;
  #flushScheduled = false;
  #paused = false;
  #stopping = false;
  #broken: string | undefined;
  #gone = false;
  #finished = false;
  #drained: (() => void) | undefined;
  /** Resolves when the connection is gone and the device has completed everything it got from it. */
  readonly drained: Promise<void>;

  constructor(options: TransmissionOptions) {
    this.#socket = options.socket;
    this.#device = options.device;
    this.#structured = options.structured;
    this.#limits = options.limits;
    this.#onFinished = options.onFinished;
    this.#reader = new RequestReader(this);
    this.#replies = new ReplyWriter(options.socket, options.structured, () => this.#pump());
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
    return this.#reader.atBoundary;
  }

  /** Bytes from the socket. */
  receive(chunk: Buffer): void {
    if (this.#stopping || this.#gone) return;
    assert(!this.#receiving, 'bytes arrived while bytes were being taken');
    this.#receiving = true;
    this.#reader.feed(chunk);
    this.#takeTurns();
  }

  /** Takes no more requests; onFinished is called once those in flight are answered. */
  stop(): void {
    this.#stopping = true;
    this.#reader.stop();
    this.#dropAwaiting();
    if (!this.#receiving) this.#settle();
  }

  /** The connection is gone: nothing is answered from now on. */
  abandon(): void {
    this.cancelled = true;
    this.#gone = true;
    this.#reader.stop();
    this.#dropAwaiting();
    if (this.#inFlight === 0) this.#drained?.();
  }

  /** A write whose payload did not come whole was never handed to the device. */
  #dropAwaiting(): void {
    if (this.#awaiting === undefined) return;
    this.#inFlight--;
    this.#inFlightBytes -= this.#awaiting.length;
    this.#awaiting = undefined;
  }

  /**
   * Submits what was read, sends what the device answered on the spot, and goes on reading as long as that made room:
   * sending in between is what keeps the replies of a long chunk within bounds.
   */
  #takeTurns(): void {
    for (;;) {
      const taken = this.#taken;
      this.#submit();
      if (!this.#reader.blocked || this.#gone) break;
      this.#replies.flush();
      this.#reader.continue();
      if (this.#taken === taken) break;
    }
    this.#receiving = false;
    this.#settle();
  }

  // --- requests in

  takeHeader(bytes: Buffer, at: number): number {
    if (bytes.readUInt32BE(at) !== REQUEST_MAGIC) return this.#end('bad request magic');
    const flags = bytes.readUInt16BE(at + 4);
    const command = bytes.readUInt16BE(at + 6);
    const length = bytes.readUInt32BE(at + 24);
    const carries = command === CMD_READ || command === CMD_WRITE;
    if (!this.#hasRoom(carries ? length : 0)) return HEADER_BLOCKED;
    this.#taken++;
    if (command === CMD_DISC) return this.#end(undefined);
    const high = bytes.readUInt32BE(at + 8);
    const low = bytes.readUInt32BE(at + 12);
    const offset = readU64(bytes, at + 16);
    const error = this.#check(command, flags, offset, length);
    if (error !== null) return this.#refuse(command, error, length, high, low);
    this.#admit(command, flags, offset, length, high, low);
    if (command !== CMD_WRITE) return HEADER_DONE;
    this.payloadBytes = length;
    return HEADER_PAYLOAD;
  }

  takePayload(payload: Buffer): void {
    const request = this.#awaiting!;
    this.#awaiting = undefined;
    request.data = payload;
    this.#batch.push(request);
  }

  payloadSkipped(): void {
    const { error, high, low } = this.#refused!;
    this.#refused = undefined;
    this.#replies.simple(wireErrno(error), high, low);
  }

  #end(broken: string | undefined): number {
    this.#stopping = true;
    this.#broken ??= broken;
    return HEADER_STOP;
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

  #refuse(command: number, error: BlockError, length: number, high: number, low: number): number {
    if (command === CMD_WRITE && length > 0) {
      this.#refused = { error, high, low };
      this.payloadBytes = length;
      return HEADER_SKIP;
    }
    if (command === CMD_READ) this.#replies.readFailed(wireErrno(error), high, low);
    else this.#replies.simple(wireErrno(error), high, low);
    return HEADER_DONE;
  }

  #admit(command: number, flags: number, offset: number, length: number, high: number, low: number): void {
    const fua = (flags & CMD_FLAG_FUA) !== 0 && command !== CMD_READ && command !== CMD_FLUSH;
    const request = new ServerRequest(this, opOf(command), offset, length, fua, high, low);
    this.#inFlight++;
    if (command === CMD_WRITE) {
      this.#inFlightBytes += length;
      this.#awaiting = request;
      return;
    }
    if (command === CMD_READ) {
      this.#inFlightBytes += length;
      const reply = this.#replies.reserveRead(length);
      request.reply = reply;
      request.data = reply.slab;
      request.dataAt = reply.at + this.#replies.headBytes;
    }
    this.#batch.push(request);
  }

  #hasRoom(bytes: number): boolean {
    if (this.#inFlight === 0 && this.#replies.unsentWrites === 0) return true;
    const { inFlightRequestsMax, inFlightBytesMax } = this.#limits;
    return (
      this.#inFlight < inFlightRequestsMax &&
      this.#replies.unsentWrites < inFlightRequestsMax &&
      this.#inFlightBytes + this.#replies.unsentBytes + bytes <= inFlightBytesMax
    );
  }

  #submit(): void {
    if (this.#batch.length === 0) return;
    const batch = this.#batch;
    this.#batch = [];
    this.#device.submit(batch);
  }

  // --- replies out

  completed(request: ServerRequest, error: BlockError | null): void {
    assert(!request.completed, 'the device completed a request twice');
    request.completed = true;
    this.#inFlight--;
    if (request.op === 'read' || request.op === 'write') this.#inFlightBytes -= request.length;
    if (this.#gone) {
      if (this.#inFlight === 0) this.#drained?.();
      return;
    }
    const { reply, high, low } = request;
    if (reply === null) this.#replies.simple(error === null ? 0 : wireErrno(error), high, low);
    else if (error !== null) this.#replies.readFailed(wireErrno(error), high, low);
    else this.#replies.readDone(reply.slab, reply.at, high, low, request.offset, request.length);
    if (!this.#receiving && !this.#flushScheduled) {
      // Completions of one turn leave together.
      this.#flushScheduled = true;
      process.nextTick(flushLater, this);
    }
  }

  /** The turn that completed requests is over. */
  flushNow(): void {
    this.#flushScheduled = false;
    if (this.#gone) return;
    this.#settle();
    this.#pump();
  }

  /** There may be room again: go on with what waits. */
  #pump(): void {
    if (this.#receiving || this.#gone || this.#stopping || !this.#reader.blocked) return;
    this.#receiving = true;
    this.#reader.continue();
    this.#takeTurns();
  }

  /** After each turn: replies out, the socket paused or not, the end noticed. */
  #settle(): void {
    if (this.#gone || this.#finished) return;
    this.#replies.flush();
    const pause = this.#reader.blocked;
    if (pause !== this.#paused) {
      this.#paused = pause;
      if (pause) this.#socket.pause();
      else this.#socket.resume();
    }
    if (this.#broken !== undefined || (this.#stopping && this.#inFlight === 0)) {
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
