// Every bound of segment/, with how the number was found.

import { KiB, MiB } from '../base/index.js';

/** Unsynced bytes at which a background sync starts: about what a disk takes in a few tens of milliseconds. */
export const BACKGROUND_SYNC_BYTES = 8 * MiB;
/** New bytes whose write-back is started, so that a flush finds little left to write: its p99 under a stream fell to a third. */
export const WRITE_BACK_BYTES = 1 * MiB;
/**
 * A replica whose engine is on another node gives up its page cache while nothing of it was read for so many segments (256 MiB): an engine
 * that has no replica of its own reads more often than that, one that has reads here only to repair and to verify.
 */
export const UNREAD_SEGMENTS = 32;
/** After a recovery many files may be unsynced; they are not opened all at once. */
export const PARALLEL_SYNCS = 64;
/**
 * Zeroes are written ahead for a log whose flushes cover at most this much on average: above it, writing every byte twice costs
 * more than the journal commit it saves.
 */
export const ZERO_FLUSH_BYTES = 64 * KiB;
/** Zeroes written at once: what a log that has just begun to flush gets, and the most. Measured: larger steps gain nothing. */
export const ZERO_STEP = { first: 64 * KiB, most: 256 * KiB };
/**
 * A data sync is waited for in place after so many writes and syncs of its file in a row, without a read and with no other file between:
 * then nobody else is kept waiting.
 */
export const IN_PLACE_AFTER = 32;
/** The most writes that such a sync covers: more come from several clients, whose next requests can be seen to meanwhile. 32 of them lost a sixth. */
export const IN_PLACE_WRITES = 2;
/** And bytes. */
export const IN_PLACE_BYTES = 64 * KiB;
/** In microseconds: a sync in place that took longer leaves the next ones to the pool, twice as many each time up to IN_POOL_MAX. */
export const IN_PLACE_US = 500;
export const IN_POOL_MAX = 1024;
