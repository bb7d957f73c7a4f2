// The client's transmission phase over one socket: requests out, replies in, matched by handle. Owner: NbdClient or
// ReconnectingNbdClient; it never outlives its socket.
//
// Invariants
// - A request is either in flight here, or was completed by exactly one done(), or was given back by takePending().
// - Requests sent in one turn leave in one write, in the order of send().
// - After the link is lost no done() is called; the owner takes what was pending and decides.

import { assert, type HoldfastError } from '../base/index.js';
import type { BlockError, BlockOp } from '../engine/index.js';
import { type ExportInfo, protocolError } from './client-handshake.js';
import {
  CMD_DISC,
  CMD_FLAG_FUA,
  CMD_FLUSH,
  CMD_READ,
  CMD_TRIM,
  CMD_WRITE,
  CMD_WRITE_ZEROES,
  FLAG_SEND_FLUSH,
  FLAG_SEND_FUA,
  FLAG_SEND_TRIM,
  FLAG_SEND_WRITE_ZEROES,
  REQUEST_BYTES,
  SIMPLE_REPLY_BYTES,
  SIMPLE_REPLY_MAGIC,
} from './constants.js';
import { blockErrorOf } from './errno.js';
import { writeRequest } from './messages.js';
import type { NbdSocket } from './socket.js';

export interface LinkRequest {
  readonly op: BlockOp;
  /** Bytes; 0 for flush. */
  readonly offset: number;
  /** Bytes: 1..payloadBytesMax for read and write, 1..2^32-1 for trim and zero, 0 for flush. */
  readonly length: number;
  readonly fua: boolean;
  /** write: the payload; read: the destination. `length` bytes, stable until done() is called or the request given back. */
  readonly data: Uint8Array | null;
  done(error: BlockError | null): void;
}

/** Payloads up to this are copied behind their header, larger ones written as they stand: a copy costs less than a piece. */
const COPY_BYTES_MAX = 16 * 1024;

const commands: Readonly<Record<BlockOp, number>> = {
  read: CMD_READ,
  write: CMD_WRITE,
  flush: CMD_FLUSH,
  trim: CMD_TRIM,
  zero: CMD_WRITE_ZEROES,
};

export class ClientLink {
  readonly info: ExportInfo;
  readonly #socket: NbdSocket;
  /** By slot (the handle's low half): the request in flight, and its serial number, whose low half is the handle's high half. */
  readonly #slots: (LinkRequest | undefined)[] = [];
  readonly #serials: number[] = [];
  readonly #freeSlots: number[] = [];
  #nextSerial = 1;
  #inFlight = 0;
  /** Slots of the requests of this turn. */
  #queue: number[] = [];
  readonly #head: Buffer = Buffer.alloc(SIMPLE_REPLY_BYTES);
  #headFilled = 0;
  /** The slot whose read data is coming in, and how much has. */
  #readingSlot = -1;
  #readFilled = 0;
  #lost: HoldfastError | undefined;
  #closing = false;

  constructor(socket: NbdSocket, info: ExportInfo) {
    this.#socket = socket;
    this.info = info;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Why the link is dead, once it is. */
  get lost(): HoldfastError | undefined {
    return this.#lost;
  }

  /** Must not be called on a lost link. What the export does not support is completed at once with ENOTSUP. */
  send(request: LinkRequest): void {
    assert(this.#lost === undefined && !this.#closing, 'send() on a lost link');
    const unsent = this.#answerOfUnsupported(request);
    if (unsent !== undefined) {
      request.done(unsent);
      return;
    }
    const slot = this.#freeSlots.pop() ?? this.#slots.length;
    this.#slots[slot] = request;
    this.#serials[slot] = this.#nextSerial++;
    this.#inFlight++;
    if (this.#queue.push(slot) === 1) process.nextTick(flushLater, this);
  }

  /** Bytes from the socket. */
  receive(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && this.#lost === undefined) {
      if (this.#readingSlot >= 0) {
        at = this.#readData(chunk, at);
      } else if (this.#headFilled === 0 && chunk.length - at >= SIMPLE_REPLY_BYTES) {
        this.#reply(chunk, at);
        at += SIMPLE_REPLY_BYTES;
      } else {
        const copied = chunk.copy(this.#head, this.#headFilled, at, at + SIMPLE_REPLY_BYTES - this.#headFilled);
        this.#headFilled += copied;
        at += copied;
        if (this.#headFilled < SIMPLE_REPLY_BYTES) return;
        this.#headFilled = 0;
        this.#reply(this.#head, 0);
      }
    }
  }

  /** Marks the link dead (its socket closed) and destroys the socket. Later calls change nothing. */
  lose(cause: HoldfastError): void {
    this.#lost ??= cause;
    this.#queue = [];
    this.#socket.destroy();
  }

  /** What was in flight when the link was lost, in no order. Nothing of it will be completed by this link. */
  takePending(): LinkRequest[] {
    assert(this.#lost !== undefined, 'takePending() on a live link');
    const pending = this.#slots.filter((request) => request !== undefined);
    this.#slots.length = 0;
    this.#inFlight = 0;
    return pending;
  }

  /** Says goodbye; the server answers what is in flight, then closes. No send() may follow. */
  disconnect(): void {
    if (this.#lost !== undefined || this.#closing) return;
    this.flushNow();
    this.#closing = true;
    const bytes = Buffer.alloc(REQUEST_BYTES);
    writeRequest(bytes, 0, { flags: 0, command: CMD_DISC, handleHigh: 0, handleLow: 0, offset: 0, length: 0 });
    this.#socket.write(bytes);
  }

  /** The turn that sent requests is over. */
  flushNow(): void {
    const slots = this.#queue;
    if (slots.length === 0 || this.#lost !== undefined) return;
    this.#queue = [];
    let bytes = 0;
    for (const slot of slots) {
      const request = this.#slots[slot]!;
      bytes += REQUEST_BYTES + (copied(request) ? request.length : 0);
    }
    // One buffer for all headers and small payloads; large payloads stand between pieces of it.
    const buffer = Buffer.allocUnsafe(bytes);
    let start = 0;
    let end = 0;
    this.#socket.cork();
    for (const slot of slots) {
      const request = this.#slots[slot]!;
      this.#encode(buffer, end, slot, request);
      end += REQUEST_BYTES;
      if (copied(request)) {
        buffer.set(request.data!, end);
        end += request.length;
      } else if (request.op === 'write') {
        this.#socket.write(buffer.subarray(start, end));
        this.#socket.write(request.data!);
        start = end;
      }
    }
    if (end > start) this.#socket.write(buffer.subarray(start, end));
    this.#socket.uncork();
  }

  /** The answer to what must not be sent to this export; undefined for what may. */
  #answerOfUnsupported(request: LinkRequest): BlockError | null | undefined {
    const flags = this.info.flags;
    // A server without FLUSH has no volatile cache: there is nothing to flush.
    if (request.op === 'flush' && (flags & FLAG_SEND_FLUSH) === 0) return null;
    if (request.fua && (flags & FLAG_SEND_FUA) === 0) return 'ENOTSUP';
    if (request.op === 'trim' && (flags & FLAG_SEND_TRIM) === 0) return 'ENOTSUP';
    if (request.op === 'zero' && (flags & FLAG_SEND_WRITE_ZEROES) === 0) return 'ENOTSUP';
    return undefined;
  }

  #encode(buffer: Buffer, at: number, slot: number, request: LinkRequest): void {
    writeRequest(buffer, at, {
      flags: request.fua ? CMD_FLAG_FUA : 0,
      command: commands[request.op],
      handleHigh: this.#serials[slot]! >>> 0,
      handleLow: slot,
      offset: request.offset,
      length: request.length,
    });
  }

  #reply(bytes: Buffer, at: number): void {
    const slot = bytes.readUInt32BE(at + 12);
    const request = this.#slots[slot];
    const error = bytes.readUInt32BE(at + 4);
    if (bytes.readUInt32BE(at) !== SIMPLE_REPLY_MAGIC) {
      this.lose(protocolError('bad reply magic'));
    } else if (request === undefined || this.#serials[slot]! >>> 0 !== bytes.readUInt32BE(at + 8)) {
      this.lose(protocolError('a reply to nothing that is in flight'));
    } else if (error === 0 && request.op === 'read') {
      this.#readingSlot = slot;
      this.#readFilled = 0;
    } else {
      this.#finish(slot, error === 0 ? null : blockErrorOf(error));
    }
  }

  #readData(chunk: Buffer, at: number): number {
    const slot = this.#readingSlot;
    const request = this.#slots[slot]!;
    const copied = chunk.copy(request.data!, this.#readFilled, at);
    this.#readFilled += copied;
    if (this.#readFilled === request.length) {
      this.#readingSlot = -1;
      this.#finish(slot, null);
    }
    return at + copied;
  }

  #finish(slot: number, error: BlockError | null): void {
    const request = this.#slots[slot]!;
    this.#slots[slot] = undefined;
    this.#freeSlots.push(slot);
    this.#inFlight--;
    request.done(error);
  }
}

function copied(request: LinkRequest): boolean {
  return request.op === 'write' && request.length <= COPY_BYTES_MAX;
}

function flushLater(link: ClientLink): void {
  link.flushNow();
}
