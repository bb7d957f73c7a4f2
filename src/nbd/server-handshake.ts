// The server's half of the fixed newstyle handshake: bytes in, bytes and a verdict out; no socket, no clock. Owner: one
// connection. Invariants: at most one option's data is buffered (limits.optionBytesMax, larger ones are skipped unread);
// every option is answered or the connection closed; nothing of the client is kept but its id and the STRUCTURED_REPLY bit.

import { assert, type Logger, printable } from '../base/index.js';
import {
  CLIENT_FLAGS_BYTES,
  CLIENT_ID_BYTES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  OPT_ABORT,
  OPT_EXPORT_NAME,
  OPT_GO,
  OPT_HOLDFAST_CLIENT,
  OPT_INFO,
  OPT_LIST,
  OPT_LIST_META_CONTEXT,
  OPT_SET_META_CONTEXT,
  OPT_STARTTLS,
  OPT_STRUCTURED_REPLY,
  OPTION_HEADER_BYTES,
  REP_ACK,
  REP_ERR_INVALID,
  REP_ERR_POLICY,
  REP_ERR_SHUTDOWN,
  REP_ERR_TOO_BIG,
  REP_ERR_UNKNOWN,
  REP_ERR_UNSUP,
  REP_INFO,
  REP_SERVER,
  STRING_BYTES_MAX,
} from './constants.js';
import { exportNameReply, exportReplies, listEntry } from './export-info.js';
import type { ExportTable, NbdExport } from './export-table.js';
import { type NbdLimits, OPTION_SKIP_BYTES_MAX } from './limits.js';
import {
  decodeInfoRequest,
  decodeMetaQuery,
  decodeOptionHeader,
  encodeGreeting,
  encodeOptionReply,
} from './messages.js';

export type HandshakeVerdict =
  /** Feed more bytes. */
  | { readonly kind: 'more' }
  /** Drop what older connections of `clientId` there are, then call resume(). The last `unused` bytes fed are to be fed again. */
  | { readonly kind: 'replace'; readonly clientId: string; readonly unused: number }
  /** Close; `reason` is set when the peer broke the protocol. Bytes handed to send() still go out. */
  | { readonly kind: 'close'; readonly reason?: string }
  /** The handshake is over. The last `unused` bytes fed belong to the transmission phase. */
  | { readonly kind: 'transmit'; readonly entry: NbdExport; readonly structured: boolean; readonly unused: number };

const more: HandshakeVerdict = { kind: 'more' };
const nothing = Buffer.alloc(0);
const handshakeFlags = FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES;

export class ServerHandshake {
  readonly #exports: ExportTable;
  readonly #limits: NbdLimits;
  readonly #logger: Logger;
  readonly #send: (bytes: Buffer) => void;
  #state: 'flags' | 'options' | 'replacing' | 'done' = 'flags';
  #buffered: Buffer = nothing;
  /** Bytes of a too large option's data that are still to be passed over. */
  #skip = 0;
  #options = 0;
  #noZeroes = false;
  #structured = false;

  constructor(options: { exports: ExportTable; limits: NbdLimits; logger: Logger; send: (bytes: Buffer) => void }) {
    this.#exports = options.exports;
    this.#limits = options.limits;
    this.#logger = options.logger;
    this.#send = options.send;
  }

  /** The server speaks first. */
  start(): void {
    this.#send(encodeGreeting(handshakeFlags));
  }

  /** Takes a copy of what it needs. Not to be called between a 'replace' verdict and resume(). */
  feed(chunk: Buffer): HandshakeVerdict {
    assert(this.#state !== 'replacing', 'a handshake was fed while older connections are being dropped');
    this.#buffered = Buffer.concat([this.#buffered, chunk]);
    return this.#parse();
  }

  /** After a 'replace' verdict: the older connections are gone. */
  resume(): void {
    this.#state = 'options';
    this.#reply(OPT_HOLDFAST_CLIENT, REP_ACK);
  }

  #parse(): HandshakeVerdict {
    for (;;) {
      this.#passOver();
      const verdict = this.#state === 'flags' ? this.#parseFlags() : this.#parseOption();
      if (verdict === undefined) return more;
      if (verdict !== more) return verdict;
    }
  }

  #passOver(): void {
    const passed = Math.min(this.#skip, this.#buffered.length);
    this.#skip -= passed;
    this.#buffered = this.#buffered.subarray(passed);
  }

  /** undefined: not all there yet. */
  #parseFlags(): HandshakeVerdict | undefined {
    if (this.#buffered.length < CLIENT_FLAGS_BYTES) return undefined;
    const flags = this.#buffered.readUInt32BE(0);
    if ((flags & ~handshakeFlags) !== 0) return { kind: 'close', reason: `unknown client flags ${flags.toString(16)}` };
    this.#noZeroes = (flags & FLAG_NO_ZEROES) !== 0;
    this.#buffered = this.#buffered.subarray(CLIENT_FLAGS_BYTES);
    this.#state = 'options';
    return more;
  }

  #parseOption(): HandshakeVerdict | undefined {
    if (this.#buffered.length < OPTION_HEADER_BYTES) return undefined;
    const header = decodeOptionHeader(this.#buffered);
    if (header === undefined) return { kind: 'close', reason: 'bad option magic' };
    const { option, length } = header;
    if (length > OPTION_SKIP_BYTES_MAX) return { kind: 'close', reason: `option ${option} of ${length} bytes` };
    const tooBig = length > this.#limits.optionBytesMax;
    if (!tooBig && this.#buffered.length < OPTION_HEADER_BYTES + length) return undefined;
    if (++this.#options > this.#limits.optionsMax) return { kind: 'close', reason: 'too many options' };
    if (tooBig) {
      this.#buffered = this.#buffered.subarray(OPTION_HEADER_BYTES);
      this.#skip = length;
      if (option === OPT_EXPORT_NAME) return { kind: 'close', reason: `export name of ${length} bytes` };
      return this.#refuse(option, REP_ERR_TOO_BIG, `option data above ${this.#limits.optionBytesMax} bytes`);
    }
    const data = this.#buffered.subarray(OPTION_HEADER_BYTES, OPTION_HEADER_BYTES + length);
    this.#buffered = this.#buffered.subarray(OPTION_HEADER_BYTES + length);
    return this.#answer(option, data);
  }

  #answer(option: number, data: Buffer): HandshakeVerdict {
    switch (option) {
      case OPT_EXPORT_NAME:
        return this.#exportName(data);
      case OPT_GO:
      case OPT_INFO:
        return this.#infoOrGo(option, data);
      case OPT_ABORT:
        this.#reply(option, REP_ACK);
        this.#state = 'done';
        return { kind: 'close' };
      case OPT_LIST:
        return this.#list(data);
      case OPT_STRUCTURED_REPLY:
        if (data.length > 0) return this.#refuse(option, REP_ERR_INVALID, 'the option takes no data');
        this.#structured = true;
        this.#reply(option, REP_ACK);
        return more;
      case OPT_LIST_META_CONTEXT:
      case OPT_SET_META_CONTEXT:
        return this.#metaContext(option, data);
      case OPT_HOLDFAST_CLIENT:
        if (data.length !== CLIENT_ID_BYTES) return this.#refuse(option, REP_ERR_INVALID, 'a client id has 16 bytes');
        this.#state = 'replacing';
        return { kind: 'replace', clientId: data.toString('hex'), unused: this.#unused() };
      case OPT_STARTTLS:
        return this.#refuse(option, REP_ERR_POLICY, 'this server speaks plain NBD on a private socket only');
      default:
        return this.#refuse(option, REP_ERR_UNSUP, 'unknown option');
    }
  }

  /** EXPORT_NAME can't be answered with an error: the connection is closed instead. */
  #exportName(data: Buffer): HandshakeVerdict {
    const entry = data.length > STRING_BYTES_MAX ? undefined : this.#exports.find(data.toString('utf8'));
    if (entry === undefined || entry.device.closed) {
      return { kind: 'close', reason: `no export ${printable(data.toString('utf8', 0, 200))}` };
    }
    this.#send(exportNameReply(entry, this.#structured, this.#noZeroes));
    return this.#transmit(entry);
  }

  #infoOrGo(option: number, data: Buffer): HandshakeVerdict {
    const request = decodeInfoRequest(data);
    if (request === undefined) return this.#refuse(option, REP_ERR_INVALID, 'lengths do not fit');
    const entry = this.#exports.find(request.name);
    if (entry === undefined) return this.#refuse(option, REP_ERR_UNKNOWN, 'no such export');
    if (entry.device.closed) return this.#refuse(option, REP_ERR_SHUTDOWN, 'the volume is closed');
    for (const info of exportReplies(entry, request.kinds, this.#structured, this.#limits.payloadBytesMax)) {
      this.#reply(option, REP_INFO, info);
    }
    this.#reply(option, REP_ACK);
    return option === OPT_GO ? this.#transmit(entry) : more;
  }

  #list(data: Buffer): HandshakeVerdict {
    if (data.length > 0) return this.#refuse(OPT_LIST, REP_ERR_INVALID, 'the option takes no data');
    for (const entry of this.#exports.list()) this.#reply(OPT_LIST, REP_SERVER, listEntry(entry));
    this.#reply(OPT_LIST, REP_ACK);
    return more;
  }

  /** The device port tells nothing of allocation, so there are no contexts to offer: an empty list is the whole answer. */
  #metaContext(option: number, data: Buffer): HandshakeVerdict {
    const query = decodeMetaQuery(data);
    if (query === undefined) return this.#refuse(option, REP_ERR_INVALID, 'lengths do not fit');
    if (!this.#structured) return this.#refuse(option, REP_ERR_INVALID, 'negotiate structured replies first');
    if (this.#exports.find(query.name) === undefined) return this.#refuse(option, REP_ERR_UNKNOWN, 'no such export');
    this.#reply(option, REP_ACK);
    return more;
  }

  #transmit(entry: NbdExport): HandshakeVerdict {
    this.#state = 'done';
    return { kind: 'transmit', entry, structured: this.#structured, unused: this.#unused() };
  }

  /** An option ends in the chunk that was fed last, so what follows it lies in that one, too. */
  #unused(): number {
    const unused = this.#buffered.length;
    this.#buffered = nothing;
    return unused;
  }

  #refuse(option: number, type: number, text: string): HandshakeVerdict {
    this.#logger.debug({ option, type: type - 0x80000000, text }, 'nbd option refused');
    this.#reply(option, type, Buffer.from(text, 'utf8'));
    return more;
  }

  #reply(option: number, type: number, data: Buffer = nothing): void {
    this.#send(encodeOptionReply(option, type, data));
  }
}
