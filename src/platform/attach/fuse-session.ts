// One FUSE connection served from a block transport. Purpose: turn the kernel's requests for one file into block
// operations and their results into replies. Owner: the bridge process. Invariants: each request but FORGET and
// INTERRUPT is answered exactly once or not at all (the process died; the kernel resends it to the next bridge); at most
// `slotsMax` requests are held; a slot's memory is reused only after its request was answered. What may fail: the kernel
// ends the connection (ENODEV: unmounted) and `ended` is called.
//
// Nothing here may touch the mounted file itself or wait on memory that needs it to be written out first.

import type { ClientCallback, ClientRequest } from '../../nbd/index.js';
import {
  decodeRequest,
  type Errno,
  encodeAttr,
  encodeInit,
  encodeOpen,
  encodeReplyHeader,
  encodeResend,
  encodeStatfs,
  encodeWritten,
  type FuseRequest,
  offersResend,
  payloadBytesMax,
  requestBytesMax,
} from './fuse-codec.js';

type BlockError = NonNullable<Parameters<ClientCallback>[0]>;

/** Sends a block operation on its way; its data is left alone until `done` is called. */
export type Submit = (operation: ClientRequest, done: ClientCallback) => void;

/** The descriptor of /dev/fuse behind two calls. */
export interface FuseChannel {
  /** Reads one request. `error` carries an errno code such as ENODEV. */
  read(into: Buffer, done: (error: NodeJS.ErrnoException | null, bytes: number) => void): void;
  /** Writes one reply as a whole. Throws with an errno code. */
  write(parts: readonly Buffer[]): void;
}

export interface SessionOptions {
  readonly channel: FuseChannel;
  readonly submit: Submit;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** The connection was already negotiated with a bridge before us: take over what it left unanswered. */
  readonly takeOver: boolean;
  /** Called once when INIT was answered, with whether this kernel can resend to a successor. */
  readonly negotiated: (canResend: boolean) => void;
  /** Called once when the kernel has ended the connection, or it can't go on (then with an error). */
  readonly ended: (error: Error | null) => void;
}

export interface SessionCounters {
  reads: number;
  writes: number;
  flushes: number;
  discards: number;
  errors: number;
}

/** Above what the kernel sends at a time (its background limit plus metadata calls); a full set only delays reading. */
const slotsMax = 64;
/** Requests waited for at a time. Each occupies a thread of the pool while it blocks (see bridgeThreads). */
const readersMax = 6;
/** Longest range of one trim or zero: NBD's length has 32 bits. A multiple of every block size. */
const rangeBytesMax = 2 ** 30;
const blockBytes = 4096;

type MetadataRequest = Extract<
  FuseRequest,
  { op: 'init' | 'getattr' | 'setattr' | 'open' | 'statfs' | 'flush' | 'release' | 'destroy' }
>;

interface Slot {
  readonly buffer: Buffer;
  unique: bigint;
}

export class FuseSession {
  readonly counters: SessionCounters = { reads: 0, writes: 0, flushes: 0, discards: 0, errors: 0 };
  readonly #options: SessionOptions;
  readonly #free: Slot[] = [];
  #slots = 0;
  #reading = 0;
  #sizeBytes: number;
  #failing = false;
  #ended = false;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#sizeBytes = options.sizeBytes;
  }

  start(): void {
    if (this.#options.takeOver) this.#options.channel.write([encodeResend()]);
    this.#fill();
  }

  /** What the file's size is from now on. Only grows: the kernel has been told the old one. */
  setSize(sizeBytes: number): void {
    this.#sizeBytes = Math.max(this.#sizeBytes, sizeBytes);
  }

  /** Answers all later requests for data with EIO. What is in flight is the transport's to fail. */
  fail(): void {
    this.#failing = true;
  }

  get inFlight(): number {
    return this.#slots - this.#free.length - this.#reading;
  }

  #fill(): void {
    while (!this.#ended && this.#reading < readersMax) {
      const slot = this.#free.pop() ?? this.#newSlot();
      if (!slot) return;
      this.#read(slot);
    }
  }

  #newSlot(): Slot | undefined {
    if (this.#slots >= slotsMax) return undefined;
    this.#slots++;
    // Resident only as far as it was ever used: the memory of a slot that sees 4 KiB requests stays a few pages.
    return { buffer: Buffer.allocUnsafeSlow(requestBytesMax), unique: 0n };
  }

  #read(slot: Slot): void {
    this.#reading++;
    this.#options.channel.read(slot.buffer, (error, bytes) => {
      this.#reading--;
      if (this.#ended) return;
      if (error) {
        this.#readFailed(slot, error);
        return;
      }
      try {
        const { unique, request } = decodeRequest(slot.buffer.subarray(0, bytes));
        slot.unique = unique;
        this.#serve(slot, request);
      } catch (cause) {
        this.#end(cause instanceof Error ? cause : new Error(String(cause)));
        return;
      }
      this.#fill();
    });
  }

  #readFailed(slot: Slot, error: NodeJS.ErrnoException): void {
    this.#free.push(slot);
    // The request was taken back before it was read, or a signal came in between.
    if (error.code === 'ENOENT' || error.code === 'EINTR' || error.code === 'EAGAIN') {
      this.#fill();
      return;
    }
    this.#end(error.code === 'ENODEV' ? null : error);
  }

  #end(error: Error | null): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#options.ended(error);
  }

  #serve(slot: Slot, request: FuseRequest): void {
    switch (request.op) {
      case 'read':
        this.#serveRead(slot, request.offset, request.length);
        return;
      case 'write':
        this.#serveWrite(slot, request.offset, request.data);
        return;
      case 'fsync':
        this.counters.flushes++;
        this.#transfer(slot, { op: 'flush', offset: 0, length: 0, fua: false, data: null }, []);
        return;
      case 'punch':
      case 'zero':
        this.#serveRange(slot, request.op, request.offset, request.length);
        return;
      case 'forget':
      case 'interrupt':
        // Neither has an answer. An interrupted request is simply answered when it is done.
        this.#release(slot);
        return;
      case 'unsupported':
        this.#reply(slot, request.errno);
        return;
      default:
        this.#serveMetadata(slot, request);
    }
  }

  #serveMetadata(slot: Slot, request: MetadataRequest): void {
    switch (request.op) {
      case 'init':
        this.#reply(slot, null, [encodeInit(request)]);
        this.#options.negotiated(offersResend(request));
        return;
      case 'getattr':
        this.#reply(slot, null, [encodeAttr(this.#sizeBytes, this.#options.readOnly)]);
        return;
      case 'setattr':
        // Times and mode are accepted and not kept; the size is the volume's.
        if (request.sizeBytes !== undefined && request.sizeBytes !== this.#sizeBytes) this.#reply(slot, 'EPERM');
        else this.#reply(slot, null, [encodeAttr(this.#sizeBytes, this.#options.readOnly)]);
        return;
      case 'open':
        this.#reply(slot, null, [encodeOpen()]);
        return;
      case 'statfs':
        this.#reply(slot, null, [encodeStatfs(this.#sizeBytes)]);
        return;
      case 'flush': // close(2) of one descriptor: nothing is buffered here, so nothing is to be written
      case 'release':
      case 'destroy':
        this.#reply(slot, null);
    }
  }

  #serveRead(slot: Slot, offset: number, wanted: number): void {
    this.counters.reads++;
    if (wanted > payloadBytesMax) {
      this.#reply(slot, 'EINVAL');
      return;
    }
    const length = Math.max(0, Math.min(wanted, this.#sizeBytes - offset));
    if (length === 0) {
      this.#reply(slot, null);
      return;
    }
    // The request has been decoded, so its own buffer takes the data.
    const data = slot.buffer.subarray(0, length);
    this.#transfer(slot, { op: 'read', offset, length, fua: false, data }, [data]);
  }

  #serveWrite(slot: Slot, offset: number, data: Buffer): void {
    this.counters.writes++;
    if (this.#options.readOnly) {
      this.#reply(slot, 'EROFS');
      return;
    }
    if (offset + data.length > this.#sizeBytes) {
      this.#reply(slot, 'ENOSPC');
      return;
    }
    if (data.length === 0) {
      this.#reply(slot, null, [encodeWritten(0)]);
      return;
    }
    this.#transfer(slot, { op: 'write', offset, length: data.length, fua: false, data }, [encodeWritten(data.length)]);
  }

  #serveRange(slot: Slot, kind: 'punch' | 'zero', start: number, length: number): void {
    this.counters.discards++;
    if (this.#options.readOnly) {
      this.#reply(slot, 'EROFS');
      return;
    }
    if (length === 0) {
      this.#reply(slot, 'EINVAL');
      return;
    }
    const end = Math.min(start + length, this.#sizeBytes);
    if (start >= end) {
      this.#reply(slot, null);
      return;
    }
    // The kernel uses "punch" both to discard and to zero, so it must read as zeroes afterwards. A trim leaves the
    // unaligned ends of its range as they were: only whole blocks may go by trim.
    const aligned = start % blockBytes === 0 && end % blockBytes === 0;
    this.#range(slot, kind === 'punch' && aligned ? 'trim' : 'zero', start, end);
  }

  /** One piece after the other: a range of any length holds one request at a time. */
  #range(slot: Slot, op: 'trim' | 'zero', start: number, end: number): void {
    const length = Math.min(end - start, rangeBytesMax);
    this.#submit(slot, { op, offset: start, length, fua: false, data: null }, () => {
      if (start + length < end) this.#range(slot, op, start + length, end);
      else this.#reply(slot, null);
    });
  }

  #transfer(slot: Slot, operation: ClientRequest, answer: readonly Buffer[]): void {
    this.#submit(slot, operation, () => this.#reply(slot, null, answer));
  }

  /** Calls `done` on success; a failure is answered here. */
  #submit(slot: Slot, operation: ClientRequest, done: () => void): void {
    if (this.#failing) {
      this.#reply(slot, 'EIO');
      return;
    }
    try {
      this.#options.submit(operation, (error) => {
        if (error) this.#reply(slot, errnoOf(error));
        else done();
      });
    } catch {
      // The transport refuses to carry it (larger than its server takes, say): trying again would not help.
      this.#reply(slot, 'EIO');
    }
  }

  #reply(slot: Slot, errno: Errno | null, body: readonly Buffer[] = []): void {
    if (this.#ended) return;
    // ENOSYS only teaches the kernel what not to ask for.
    if (errno !== null && errno !== 'ENOSYS') this.counters.errors++;
    let bytes = 0;
    for (const part of body) bytes += part.length;
    try {
      this.#options.channel.write([encodeReplyHeader(slot.unique, bytes, errno), ...body]);
    } catch (cause) {
      const error = cause as NodeJS.ErrnoException;
      // ENOENT: the kernel no longer waits for this one. Anything else means that the connection is gone.
      if (error.code !== 'ENOENT') {
        this.#end(error.code === 'ENODEV' ? null : error);
        return;
      }
    }
    this.#release(slot);
  }

  #release(slot: Slot): void {
    this.#free.push(slot);
    this.#fill();
  }
}

/** The transport's errors as the kernel's. */
function errnoOf(error: BlockError): Errno {
  if (error === 'ENOTSUP') return 'EOPNOTSUPP';
  if (error === 'ESHUTDOWN') return 'EIO';
  return error;
}
