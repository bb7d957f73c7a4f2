// Numbers of the NBD protocol (NetworkBlockDevice/nbd, doc/proto.md). All of them travel in network byte order.

import { MiB } from '../base/index.js';

// Magic numbers, as pairs of 32-bit words where the protocol has 64 bits.
export const NBD_MAGIC = 'NBDMAGIC';
export const OPTION_MAGIC = 'IHAVEOPT';
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

// Sizes of fixed messages in bytes.
export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
export const REQUEST_BYTES = 28;
export const SIMPLE_REPLY_BYTES = 16;
export const CHUNK_HEADER_BYTES = 20;
/** A structured chunk of read data: chunk header and the offset of the data. */
export const DATA_CHUNK_BYTES = CHUNK_HEADER_BYTES + 8;
/** A structured error chunk without text: chunk header, error, length of text. */
export const ERROR_CHUNK_BYTES = CHUNK_HEADER_BYTES + 6;
/** What follows the answer to EXPORT_NAME unless NO_ZEROES was negotiated. */
export const EXPORT_NAME_PADDING_BYTES = 124;
/** A string (export name, query) may have at most this many bytes. */
export const STRING_BYTES_MAX = 4096;

// Handshake flags (server) and client flags have the same bits.
export const FLAG_FIXED_NEWSTYLE = 1;
export const FLAG_NO_ZEROES = 2;

// Transmission flags.
export const FLAG_HAS_FLAGS = 1 << 0;
export const FLAG_READ_ONLY = 1 << 1;
export const FLAG_SEND_FLUSH = 1 << 2;
export const FLAG_SEND_FUA = 1 << 3;
export const FLAG_SEND_TRIM = 1 << 5;
export const FLAG_SEND_WRITE_ZEROES = 1 << 6;
export const FLAG_SEND_DF = 1 << 7;
export const FLAG_CAN_MULTI_CONN = 1 << 8;
export const FLAG_SEND_FAST_ZERO = 1 << 11;

// Options.
export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
export const OPT_STARTTLS = 5;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 10;
export const OPT_SET_META_CONTEXT = 11;
/**
 * Ours, not the protocol's ("HFc1"): 16 bytes that name the client. Before the server acknowledges it, every older
 * connection with the same name is dropped with the requests that wait unread in its socket, and what it had in flight has
 * ended. So a write of an old connection can't land after one of the connection that replaced it. Servers that do not
 * know it answer ERR_UNSUP.
 */
export const OPT_HOLDFAST_CLIENT = 0x48466331;
export const CLIENT_ID_BYTES = 16;

// Option replies.
export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_ERROR_BIT = 0x80000000;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_POLICY = 0x80000002;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_SHUTDOWN = 0x80000007;
export const REP_ERR_TOO_BIG = 0x80000009;

// Kinds of information in REP_INFO.
export const INFO_EXPORT = 0;
export const INFO_NAME = 1;
export const INFO_DESCRIPTION = 2;
export const INFO_BLOCK_SIZE = 3;

// Commands and their flags.
export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_WRITE_ZEROES = 6;

export const CMD_FLAG_FUA = 1 << 0;
export const CMD_FLAG_NO_HOLE = 1 << 1;
export const CMD_FLAG_DF = 1 << 2;
export const CMD_FLAG_FAST_ZERO = 1 << 4;

// Structured replies.
export const REPLY_FLAG_DONE = 1;
export const REPLY_TYPE_OFFSET_DATA = 1;
export const REPLY_TYPE_ERROR = 0x8001;

// What INFO_BLOCK_SIZE announces. Requests of any length are served; 4 KiB is the engine's block; 32 MiB is the payload
// that clients assume when nothing was announced.
export const BLOCK_SIZE_MIN = 1;
export const BLOCK_SIZE_PREFERRED = 4096;
export const PAYLOAD_BYTES_MAX = 32 * MiB;
