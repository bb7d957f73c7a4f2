// Every bound of the engine, with how the number was found.

import { KiB, MiB } from '../base/index.js';

/**
 * Data frames are at most this long: they stay in the processor's cache from sealing to the last send, and one large write does not delay
 * the acknowledgements behind it. Measured, CPU us per 128 KiB write in batches of 8, with 1 MiB, 512, 256, 144 and 72 KiB: one copy 318, 275,
 * 154, 180 and 165; three copies 900 (1 MiB), 410 (256 KiB), 590 (144 KiB).
 */
export const DATA_FRAME_MAX = 256 * KiB;
/** Unacknowledged bytes of a volume; more waits. Two NBD connections' worth of the server's own bound. */
export const IN_FLIGHT_MAX = 64 * MiB;
/**
 * Written bytes of a volume that are not synced yet; more waits. Halved, down to `least`, when a sync of a quarter to all of it takes
 * longer than `slowMs`; doubled when one takes less than `quickMs`. At 50 MB/s it settles at 8 MiB.
 */
export const UNSYNCED = { first: 32 * MiB, least: 2 * MiB, most: 64 * MiB, slowMs: 250, quickMs: 50 };
/** Committed frames kept in memory, from which a catching-up replica joins the live stream. */
export const TAIL_BYTES = 8 * MiB;
/** The same while no replica is away. Frames that are forgotten young cost less: their memory is used again while it is in the cache. */
export const TAIL_BYTES_WHOLE = 64 * KiB;
/** Bytes copied to a catching-up replica before its acknowledgement is awaited. */
export const COPY_CHUNK = 1 * MiB;
/** How long an open waits for replicas that do not answer, before it goes on without them. A daemon restart takes about 1 s. */
export const OPEN_TIMEOUT_MS = 3_000;
/** Requests are answered without asking while every in-sync replica confirmed the reign within this time. */
export const LEASE_MS = 1_000;
/** What a new engine waits from the fence's answer, unless the former one is proved gone: lease + 10 %. */
export const LEASE_WAIT_MS = 1_100;
/** Between attempts to reach a lost replica. */
export const RECONNECT_MS = { first: 100, most: 1_000 };
/** Between attempts to reach the metadata store. */
export const STORE_RETRY_MS = { first: 50, most: 1_000 };
/**
 * A checkpoint is due after this much log, after a share of what the volume stores if that is more, and after so many records, which
 * take about a second to replay. The more writes a page takes between two checkpoints, the less map is written for each: at 4 KiB all
 * over 4 GiB the map is 2 % of what is written. The log in between holds back dead segments, so it is a small share.
 */
export const CHECKPOINT_LOG_BYTES = 64 * MiB;
export const CHECKPOINT_LOG_SHARE = 1 / 32;
export const CHECKPOINT_LOG_MAX = 2048 * MiB;
export const CHECKPOINT_RECORDS = 1_000_000;
/**
 * It is due at once when a volume has so many changed pages (those of 65 GiB, 130 MiB), or all volumes of the thread take up this share of the
 * memory for pages. What it writes for a change falls with the square root of the changes that a page takes between two of them: with half as many
 * pages, a volume of 64 GiB overwritten all over wrote a tenth of its log for the map, and that garbage between its records cost twice its size.
 */
export const CHECKPOINT_DIRTY_PAGES = 16_640;
export const CHECKPOINT_DIRTY_SHARE = 0.7;
/** Writes wait for the checkpoint above this share. */
export const DIRTY_SHARE_MAX = 0.9;
/** From something that happened to the look at whether one is due. */
export const MAINTENANCE_MS = 2_000;
/**
 * Dead segments that only wait for checkpoints to pass them may hold this much; it is looked at after so much log, and after a share of what the
 * volume stores if that is more, for every segment is looked at. What a stream overwrites is thus given back as fast as it is written anew.
 */
export const HELD_BYTES = 48 * MiB;
export const HELD_LOOK_BYTES = 8 * MiB;
export const HELD_LOOK_SHARE = 1 / 1024;
/** In what time everything at rest is read and verified once. */
export const SCRUB_PASS_MS = 7 * 24 * 3_600_000;
/** Between two segments at least, and until the first one after an open: what is above 100 GiB takes longer than a week. */
export const SCRUB_EVERY_MS = 45_000;
/** How often it is looked whether there is more to read than before. */
export const SCRUB_LOOK_MS = 3_600_000;
/** Read at once by it. */
export const SCRUB_CHUNK = 256 * KiB;
/** It rests so many times as long as it worked. */
export const SCRUB_REST = 9;
/** Frames of checkpoint entries: what a request may have to wait behind. */
export const CHECKPOINT_FRAME_MAX = 256 * KiB;
/** A checkpoint stops while so much is not acknowledged. */
export const CHECKPOINT_AHEAD_BYTES = 1 * MiB;
/** Blocks unmapped by one entry of the log (16 GiB, 3 to 10 ms); a larger trim is several, with other requests in between. */
export const RANGE_BLOCKS_MAX = 4 * 1024 * 1024;
/** Pause between two readings of pages that nobody sees any more, half a MiB each. */
export const SWEEP_PAUSE_MS = 4;
/** Free bytes that a replica's pool keeps for deletions, checkpoints and snapshots: writes stop above it. */
export const SPACE_RESERVE = 32 * MiB;
/** How long a write waits for space before ENOSPC. */
export const SPACE_WAIT_MS = 2_000;
/** Below this much log a close writes no checkpoint: replaying it is cheaper. */
export const CLEAN_CLOSE_BYTES = 256 * KiB;
/** Longest hold of a group freeze. */
export const HOLD_MAX_MS = 30_000;
/** Reads that are answered together, so that one huge request does not hold the rest. */
export const READ_JOB_BYTES = 1 * MiB;
/** Stored bytes fetched by one port call: they stay in the processor's cache until they are opened. */
export const READ_SCRATCH_BYTES = 512 * KiB;
/** The same where no replica is local: larger reads are shared out among the replicas, and one part travels while another is opened. */
export const READ_SPREAD_BYTES = 128 * KiB;
/** Pairs of map pages compared for one answer about changed blocks: about a millisecond of the worker that serves the volume. */
export const CHANGED_PAGES = 256;
/** Snapshots of one volume. */
export const SNAPSHOTS_MAX = 10_000;
/** Moved records of one burst, which goes out in one turn and fills a segment of its own: foreground writes wait some 5 ms for it. */
export const MOVE_BURST_BYTES = 4 * MiB;
/** Moved records of one kind that get a segment of their own, though the burst is not full: less is not worth a file. */
export const MOVE_BURST_LEAST = 256 * KiB;
/** Live records of a batch of victims, in memory together and sorted by heat. */
export const MOVE_BATCH_BYTES = 16 * MiB;
/** Victims are chosen for so much ahead: looking at every segment costs milliseconds on a large volume. */
export const VICTIM_QUEUE_BYTES = 64 * MiB;
/** Of one batch: their indexes are in memory together. */
export const VICTIMS_MOST = 64;
/** Read at once by the cleaner. */
export const MOVE_READ_BYTES = 512 * KiB;
/** Read for one burst: parts of records that are sealed anew are less than what is read for them. */
export const MOVE_READ_MOST = 4 * MOVE_BURST_BYTES;
/** Versions of map pages pinned by one batch of the cleaner: 32 MiB. */
export const MOVE_PAGES_MOST = 4_096;
/** Records of victims that are looked up in one turn, dead ones too: some 2 ms. */
export const MOVE_RECORDS_MOST = 32_768;
/** Free bytes in the scarcest pool at which cleaning goes as fast as it can: writers stop at SPACE_RESERVE. */
export const CLEAN_LOW_MARK = SPACE_RESERVE + 32 * MiB;
/** Above it, the free bytes over which cleaning sets in: a 128th of the pool, within these bounds. In its middle lies room that is never used. */
export const CLEAN_BAND = { least: 64 * MiB, most: 512 * MiB };
/** Below this an idle volume's open segment, or the space that a checkpoint would release, is left as it is. */
export const CLEAN_HELD_MIN = 1 * MiB;
/** A round of the cleaner for so many bytes that clients wrote, if space is scarce. */
export const CLEAN_STEP_BYTES = 2 * MiB;
/** Nobody wrote for so long: the volume is idle, and may be tidied. */
export const CLEAN_IDLE_MS = 1_000;
/** How often it is asked which segments other volumes hold, too. */
export const SHARED_ASKED_MS = 300_000;
