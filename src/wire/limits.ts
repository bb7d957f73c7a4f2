// Every bound of the replica protocol, with how it was found. Both ends apply them.

import { KiB, MiB } from '../base/index.js';
import { FRAME_SIZE_MAX, SEGMENT_HEADER_SIZE } from '../format/index.js';

/** Bytes of one APPEND or REPAIR: two of the largest frames behind a segment header. */
export const APPEND_BYTES_MAX = 2 * FRAME_SIZE_MAX + SEGMENT_HEADER_SIZE;
/** Bytes one READ asks for; longer reads are split. */
export const READ_BYTES_MAX = 4 * MiB;
/** Ranges of one READ: 24 bytes each in its body. */
export const READ_RANGES_MAX = 1024;
/** JSON bodies: a superblock has at most 4 MiB, a clone order names 100,000 segments in 5 MiB. */
export const JSON_BYTES_MAX = 16 * MiB;
/** Before a connection said who it is. */
export const HELLO_BYTES_MAX = 16 * KiB;
/** Items of one SEGMENTS or FRAMES page, so that a page stays below a few MiB of JSON. */
export const PAGE_ITEMS_MAX = 16_384;
/** Reads longer than this leave the way of small ones. */
export const SMALL_READ_BYTES = 256 * KiB;

/** Requests one end may have unanswered on a connection; an engine at full depth has some hundreds. */
export const REQUESTS_MAX = 4096;
/** Bytes one end may have buffered in a socket: 32 MiB NBD writes to a peer that stalls, several times over. */
export const BUFFERED_BYTES_MAX = 256 * MiB;
/** Buffered replies at which a server stops to read requests. */
export const REPLY_BACKLOG_BYTES = 32 * MiB;
/** Bytes of appends that wait behind a cut or the like at which a server stops to read more: far above what an engine has in flight. */
export const KEPT_BYTES_MAX = 256 * MiB;
/** Connections of one server: three per session, a few thousand volumes. */
export const CONNECTIONS_MAX = 8192;
/** Time for a connection to say who it is. */
export const HELLO_TIMEOUT_MS = 10_000;

/** Without progress for this long a peer with something outstanding is given up. */
export const ACK_TIMEOUT_MS = 5_000;
/** A fence waits for an engine to stop, for a recovery, for two data syncs. */
export const FENCE_TIMEOUT_MS = 15_000;
/** A data sync of a slow disk under load; also clone, cut and lists. */
export const REQUEST_TIMEOUT_MS = 30_000;
export const PING_EVERY_MS = 1_000;
