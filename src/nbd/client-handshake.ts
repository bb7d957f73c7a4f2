// The client's half of the fixed newstyle handshake: bytes in, bytes and a verdict out. Simple replies only are asked for: with
// one reply per request and data placed by handle there is nothing a structured reply would add.

import { HoldfastError, invalid, isUuid, printable, uuidToBytes } from '../base/index.js';
import {
  CLIENT_ID_BYTES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  FLAG_READ_ONLY,
  GREETING_BYTES,
  INFO_BLOCK_SIZE,
  INFO_EXPORT,
  OPT_ABORT,
  OPT_GO,
  OPT_HOLDFAST_CLIENT,
  OPT_INFO,
  OPTION_REPLY_HEADER_BYTES,
  PAYLOAD_BYTES_MAX,
  REP_ACK,
  REP_ERR_SHUTDOWN,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  REP_ERROR_BIT,
  REP_INFO,
  STRING_BYTES_MAX,
} from './constants.js';
import { decodeGreeting, decodeOptionReplyHeader, encodeInfoRequest, encodeOption, readU64 } from './messages.js';

/** What the server said about the export. */
export interface ExportInfo {
  readonly sizeBytes: number;
  /** NBD transmission flags. */
  readonly flags: number;
  readonly readOnly: boolean;
  /** Largest payload of one request, in bytes. */
  readonly payloadBytesMax: number;
  /** The server dropped and drained older connections of the same client id before it let this one in. */
  readonly replaced: boolean;
}

export type ClientVerdict =
  | { readonly kind: 'more' }
  /** `rest`: bytes of the transmission phase that came already (none from a server that keeps to the protocol). */
  | { readonly kind: 'ready'; readonly info: ExportInfo; readonly rest: Buffer }
  | { readonly kind: 'refused'; readonly error: HoldfastError };

export interface ClientHandshakeOptions {
  /** '' asks for the server's default export. */
  readonly exportName: string;
  /** A UUID: the server is to drop older connections of it first. Servers that do not know the option just go on. */
  readonly clientId?: string;
  /** 'go' enters transmission; 'info' only asks, and leaves politely. */
  readonly mode: 'go' | 'info';
}

/** A reply's data above this is not believed. */
const REPLY_BYTES_MAX = 2 * STRING_BYTES_MAX;
const more: ClientVerdict = { kind: 'more' };
const nothing = Buffer.alloc(0);

export class ClientHandshake {
  readonly #options: ClientHandshakeOptions;
  readonly #send: (bytes: Buffer) => void;
  #buffered: Buffer = nothing;
  #awaiting: 'greeting' | 'client' | 'export' = 'greeting';
  #size: number | undefined;
  #flags = 0;
  #payloadBytesMax = PAYLOAD_BYTES_MAX;
  #replaced = false;

  /** Throws INVALID_ARGUMENT for a name or id that can't be sent. */
  constructor(options: ClientHandshakeOptions, send: (bytes: Buffer) => void) {
    if (Buffer.byteLength(options.exportName, 'utf8') > STRING_BYTES_MAX) {
      throw invalid(`export name ${printable(options.exportName)} is longer than ${STRING_BYTES_MAX} bytes`);
    }
    if (options.clientId !== undefined && !isUuid(options.clientId)) {
      throw invalid(`client id is not a lower-case UUID: ${printable(options.clientId)}`);
    }
    this.#options = options;
    this.#send = send;
  }

  feed(chunk: Buffer): ClientVerdict {
    this.#buffered = this.#buffered.length === 0 ? chunk : Buffer.concat([this.#buffered, chunk]);
    if (this.#awaiting === 'greeting') {
      if (this.#buffered.length < GREETING_BYTES) return more;
      const verdict = this.#greeting(this.#take(GREETING_BYTES));
      if (verdict !== more) return verdict;
    }
    for (;;) {
      const verdict = this.#reply();
      if (verdict === undefined) return more;
      if (verdict !== more) return verdict;
    }
  }

  #greeting(bytes: Buffer): ClientVerdict {
    const flags = decodeGreeting(bytes);
    if (flags === undefined) return broken('the server does not speak NBD newstyle');
    if ((flags & FLAG_FIXED_NEWSTYLE) === 0) return broken('the server is too old: it lacks fixed newstyle');
    const answer = Buffer.alloc(4);
    answer.writeUInt32BE(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
    this.#send(answer);
    if (this.#options.clientId === undefined) {
      this.#ask();
    } else {
      const id = Buffer.alloc(CLIENT_ID_BYTES);
      uuidToBytes(this.#options.clientId, id, 0);
      this.#awaiting = 'client';
      this.#send(encodeOption(OPT_HOLDFAST_CLIENT, id));
    }
    return more;
  }

  #ask(): void {
    this.#awaiting = 'export';
    const option = this.#options.mode === 'go' ? OPT_GO : OPT_INFO;
    this.#send(encodeOption(option, encodeInfoRequest(this.#options.exportName, [INFO_BLOCK_SIZE])));
  }

  /** One option reply; undefined when it is not all there. */
  #reply(): ClientVerdict | undefined {
    if (this.#buffered.length < OPTION_REPLY_HEADER_BYTES) return undefined;
    const header = decodeOptionReplyHeader(this.#buffered);
    if (header === undefined) return broken('bad option reply magic');
    if (header.length > REPLY_BYTES_MAX) return broken(`an option reply of ${header.length} bytes`);
    if (this.#buffered.length < OPTION_REPLY_HEADER_BYTES + header.length) return undefined;
    this.#take(OPTION_REPLY_HEADER_BYTES);
    const data = this.#take(header.length);
    const go = this.#options.mode === 'go' ? OPT_GO : OPT_INFO;
    if (header.option !== (this.#awaiting === 'client' ? OPT_HOLDFAST_CLIENT : go)) {
      return broken(`a reply to option ${header.option}, which was not asked`);
    }
    return this.#awaiting === 'client' ? this.#clientReply(header.type, data) : this.#exportReply(header.type, data);
  }

  #clientReply(type: number, data: Buffer): ClientVerdict {
    if (type === REP_ACK) this.#replaced = true;
    else if (type !== REP_ERR_UNSUP) return refused(type, data, this.#options.exportName);
    this.#ask();
    return more;
  }

  #exportReply(type: number, data: Buffer): ClientVerdict {
    if (type === REP_INFO) return this.#info(data);
    if (type !== REP_ACK) return refused(type, data, this.#options.exportName);
    if (this.#size === undefined) return broken('the server accepted the export without telling its size');
    if (this.#options.mode === 'info') this.#send(encodeOption(OPT_ABORT, nothing));
    const info: ExportInfo = {
      sizeBytes: this.#size,
      flags: this.#flags,
      readOnly: (this.#flags & FLAG_READ_ONLY) !== 0,
      payloadBytesMax: this.#payloadBytesMax,
      replaced: this.#replaced,
    };
    return { kind: 'ready', info, rest: this.#take(this.#buffered.length) };
  }

  #info(data: Buffer): ClientVerdict {
    const kind = data.length < 2 ? -1 : data.readUInt16BE(0);
    if (kind === INFO_EXPORT) {
      const size = data.length === 12 ? readU64(data, 2) : Number.NaN;
      if (!Number.isSafeInteger(size)) return broken('an export of impossible size');
      this.#size = size;
      this.#flags = data.readUInt16BE(10);
    } else if (kind === INFO_BLOCK_SIZE) {
      if (data.length !== 14) return broken('block sizes of wrong length');
      const least = data.readUInt32BE(2);
      const most = data.readUInt32BE(10);
      if (least !== 1 || most < 4096)
        return broken(`block sizes ${least} to ${most}: requests of any length are needed`);
      this.#payloadBytesMax = Math.min(most, PAYLOAD_BYTES_MAX);
    } else if (kind === -1) {
      return broken('information without a kind');
    }
    return more;
  }

  #take(bytes: number): Buffer {
    const taken = this.#buffered.subarray(0, bytes);
    this.#buffered = this.#buffered.subarray(bytes);
    return taken;
  }
}

/** The peer did not keep to the protocol. */
export function protocolError(what: string): HoldfastError {
  return new HoldfastError('INTERNAL', `NBD protocol broken: ${what}`, { reason: 'Protocol' });
}

function broken(what: string): ClientVerdict {
  return { kind: 'refused', error: protocolError(what) };
}

function refused(type: number, data: Buffer, name: string): ClientVerdict {
  if (type < REP_ERROR_BIT) return broken(`option reply of type ${type}`);
  const said = data.length === 0 ? '' : `: ${printable(data.toString('utf8'))}`;
  const text = `the NBD server refuses export ${printable(name)} (error ${type - REP_ERROR_BIT})${said}`;
  if (type === REP_ERR_UNKNOWN) return { kind: 'refused', error: new HoldfastError('NOT_FOUND', text) };
  const code = type === REP_ERR_SHUTDOWN ? 'UNAVAILABLE' : 'FAILED_PRECONDITION';
  return { kind: 'refused', error: new HoldfastError(code, text) };
}
