// Bounds of the control plane, each with how its number was found.

import { GiB, MiB, TiB } from '../base/index.js';

/** Smallest volume: below it no filesystem fits. Smaller requests are rounded up to it. */
export const VOLUME_BYTES_MIN = MiB;
/** Largest volume the disk format can describe (VOLUME_SIZE_MAX of src/format; a test compares the two). */
export const VOLUME_BYTES_MAX = 16 * TiB;
/** Of a request that names no size. */
export const VOLUME_BYTES_DEFAULT = GiB;
/** Bytes of a CSI string field, by the specification. */
export const NAME_BYTES_MAX = 128;
/** Of free-text class parameters (mkfsOptions, mountOptions): they travel in volume_context, 4 KiB in all. */
export const TEXT_BYTES_MAX = 1024;
export const REPLICAS_MAX = 5;
/** Volumes one group snapshot may hold: each holds back its replies while the slowest member freezes. */
export const GROUP_MEMBERS_MAX = 64;
/** Part of a pool that new replicas leave alone, so that those already there can still write. */
export const POOL_RESERVE = 0.05;
/**
 * A daemon that was silent for this long gets no new replicas and counts as unreachable: two heartbeats missed and half of a third.
 * Nothing that serves data waits for it; Kubernetes itself takes 40 s.
 */
export const NODE_SILENT_MS = 25_000;
/** An idle node's whole cost: 5 ms of CPU a heartbeat, on both sides together. */
export const HEARTBEAT_INTERVAL_MS = 10_000;
/** A heartbeat that tells nothing new is written to the store this often only. */
export const HEARTBEAT_WRITE_MS = 600_000;
/** One order to a daemon: below the 10 s that Kubernetes' sidecars wait at least. */
export const ORDER_DEADLINE_MS = 8_000;
/** Opening an engine may read its log first. */
export const OPEN_DEADLINE_MS = 20_000;
/** Making a clone links every segment file of the source on each replica. */
export const CLONE_DEADLINE_MS = 60_000;
/** How long the members of a group may be held: long enough for one round trip to each, short enough that no client notices. */
export const GROUP_HOLD_MS = 3_000;
/** How often an order follows a volume whose engine moves before the caller is asked to come again. */
export const ORDER_ATTEMPTS_MAX = 4;
/** An unfinished create, snapshot or group that nobody repeated for this long is undone. Sidecars back off up to five minutes. */
export const UNFINISHED_MS = 15 * 60_000;
/** From something unfinished that appears to the round that looks at it, and between two such rounds. */
export const RECONCILE_INTERVAL_MS = 5_000;
/** Between two looks at everything, for what no change has announced. */
export const RECONCILE_EVERYTHING_MS = 3_600_000;
/** Longest pause between two attempts at one unfinished deletion. */
export const RECONCILE_BACKOFF_MAX_MS = 60_000;
/** Extents of changed blocks asked of an engine and sent to a caller at once: 100 KB, some milliseconds of work. */
export const CHANGED_PART_EXTENTS = 4_096;
/**
 * A node that has been silent for so long is taken for gone and its replicas are made anew elsewhere: longer than a reboot or an upgrade of its
 * system takes. A replica that returns costs only what changed meanwhile (decision 033).
 */
export const GONE_AFTER_MS = 30 * 60_000;
/** Until what failed is tried again; doubles up to RECONCILE_BACKOFF_MAX_MS. A call about the volume that is under way takes less. */
export const REPAIR_RETRY_MS = 1_000;
/** The same for a replica whose own daemon says that it can't be used: time for an engine that just looks at it. */
export const FAILED_AFTER_MS = 60_000;
/** A replica that nobody looked at for so long has not stalled meanwhile. Volumes that lack replicas are looked at each minute at least. */
export const STALL_GAP_MS = 5 * 60_000;
/** Until a place is given up at which a new replica could not be made. */
export const CREATE_PATIENCE_MS = 3 * 60_000;
/** A pool that refused a replica of a volume is not asked again for so long. */
export const REFUSED_MS = 30 * 60_000;
/** How often it is looked whether a node is gone, and whether a replica's return makes progress: often enough to keep its engine open. */
export const REPAIR_LOOK_MS = 10_000;
/** The same while no volume lacks anything. */
export const REPAIR_IDLE_LOOK_MS = 60_000;
/** A controller that wakes so much too late did not hear the nodes meanwhile. */
export const OVERSLEPT_MS = 15_000;
/** Volumes that get new replicas at the same time, of the whole cluster: more would only make each of them wait longer for its redundancy. */
export const REBUILDS_MAX = 8;
/** Volumes looked at beside each other: a daemon that does not answer holds up one of them. */
export const REPAIRS_AT_ONCE = 4;
/** Steps taken for one volume before the others have their turn: each names, makes or ends one replica. */
export const REPAIR_STEPS_MAX = 24;
/** Entries read from the store at once. */
export const PAGE_ENTRIES = 500;
