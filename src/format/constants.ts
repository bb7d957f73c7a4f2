// Every number of the disk format that is not a field position. FORMAT.md explains them; golden tests pin them.

import type { VersionRange } from '../base/index.js';

/** What is written, and what is read: a version is read one release before it is written (src/decisions/038). */
export const FORMAT_VERSION = 1;
export const FORMATS_READ: VersionRange = { min: 1, max: 1 };

/** ASCII, read as little-endian uint32. */
export const SEGMENT_MAGIC = 0x31534648; // "HFS1"
export const FRAME_MAGIC = 0x31464648; // "HFF1"
export const ENTRY_MAGIC = 0x31454648; // "HFE1"
export const SUPERBLOCK_MAGIC = 0x31424648; // "HFB1"
export const INDEX_TRAILER_MAGIC = 0x31494648; // "HFI1"

export const SEGMENT_HEADER_SIZE = 4096;
export const FRAME_HEADER_SIZE = 128;
/** Common to all entries: magic, checksum, length, kind. */
export const ENTRY_PREFIX_SIZE = 16;
export const RECORD_HEADER_SIZE = 48;
export const TAG_SIZE = 16;
export const DIGEST_SIZE = 16;
/** A map entry addresses 2^20 units of 64 bytes in a segment. */
export const SEGMENT_SIZE_MAX = 64 * 1024 * 1024;
/** Where an engine seals a segment and starts the next. */
export const SEGMENT_SIZE_DEFAULT = 8 * 1024 * 1024;
/** Largest frame, header included: a 32 MiB NBD write splits into frames of at most this. */
export const FRAME_SIZE_MAX = 4 * 1024 * 1024;
/** Slots of a log's segment table (24 bits of a map entry; the last value is kept free). */
export const SLOT_MAX = 0xfffffe;
/** Page numbers take 22 bits of the map's table: 4,194,304 pages of 4 MiB. */
export const VOLUME_SIZE_MAX = 16 * 1024 ** 4;

export const PAGE_ENTRIES = 1024;
/** Ids of pages that one table chunk places. */
export const TABLE_CHUNK_IDS = 512;

export function isFormatRead(version: number): boolean {
  return version >= FORMATS_READ.min && version <= FORMATS_READ.max;
}
