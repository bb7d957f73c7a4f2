// Which segments are worth cleaning, and how much may be moved when. Pure: numbers in, numbers out; the cleaner asks, the
// simulation in test/lib asks the same functions.
//
// Choice. Cleaning a segment whose live share is u costs u per 1 - u won, and that cost falls while the segment goes on dying. So
// the segment goes first whose cost would fall slowest: with records dying at the rate f the cost u / (1 - u) falls by
// f * u / (1 - u)^2 per unit of log (the "declining cost" of Lomet and Luo, 2020). f is estimated from the segment itself: of what
// was put there, u is left after `age` bytes of log, so f = -ln u / age. For uniform writes that orders by u (greedy, the optimum
// there); where hot and cold mix it leaves young, fast dying segments alone. (The cost-benefit rule of LFS, (1 - u) * age / (1 + u),
// weighs age too heavily: 4.0 against 3.0 for uniform writes at 80 %.) Nothing has to be stored for it but what the map counts.
//
// Pace. Cleaning late is cleaning cheaply: every byte of garbage that is left to grow makes later victims emptier. So nothing is moved
// while the pool has room; as room shrinks, moves are allowed in proportion to what clients write, steeply enough that the two
// meet before the reserve is touched. What lies idle is tidied only where that is cheap.

import { CLEAN_BAND, CLEAN_LOW_MARK } from './limits.js';

/** What the policy knows of a closed segment. */
export interface SegmentState {
  readonly slot: number;
  /** Of the file. */
  readonly bytes: number;
  /** Estimate of the part of it that something still needs, 0 to 1. */
  readonly liveShare: number;
  /** Bytes of log written since it was opened. */
  readonly age: number;
  /** Other volumes hold the file too: deleting it here wins nothing. */
  readonly shared: boolean;
}

/** Segments fuller than this are never moved: 20 bytes would be written for each one won. */
export const MOST_LIVE = 0.95;
/** What is cleaned although there is room, when nobody writes. */
const MOST_LIVE_AT_EASE = 0.5;
/** Moved bytes per written byte when `free` is half way down; twice that at the low mark. */
const MOVES_PER_BYTE = 4;
const MOVES_PER_BYTE_MOST = 8;

/** How urgent space is: at ease below the high mark, pressed above it, short at the low mark. */
export interface Urgency {
  /** 0 at the high mark of free space and above, 1 at the low mark, more below it. */
  readonly pressure: number;
  readonly short: boolean;
}

/** `freeBytes` is what may still be appended; `storedBytes` what the volume takes in the pool now. */
export function urgencyOf(freeBytes: number, storedBytes: number): Urgency {
  const band = Math.min(CLEAN_BAND.most, Math.max(CLEAN_BAND.least, (freeBytes + storedBytes) / 128));
  const pressure = Math.max(0, (CLEAN_LOW_MARK + band - freeBytes) / band);
  return { pressure, short: pressure >= 1 };
}

/** Bytes that may be moved because clients wrote `writtenBytes`. */
export function movesFor(writtenBytes: number, urgency: Urgency): number {
  return writtenBytes * Math.min(MOVES_PER_BYTE_MOST, MOVES_PER_BYTE * urgency.pressure);
}

/** The fullest segment worth a move: `idle` when no client writes. */
export function mostLive(urgency: Urgency, idle: boolean): number {
  if (urgency.pressure > 0) return MOST_LIVE;
  return idle ? MOST_LIVE_AT_EASE : 0;
}

/** Higher is better. When space is short only what is won per moved byte counts. */
export function worth(segment: SegmentState, urgency: Urgency): number {
  const live = Math.min(0.9999, Math.max(0.0001, segment.liveShare));
  const won = 1 - live;
  if (urgency.short) return won / live;
  // Hardly anything has died of a young, full one: it is taken for slow, not for immortal.
  const deaths = -Math.log(live) + 0.02;
  return (won * won * Math.max(1, segment.age)) / (live * deaths);
}

/**
 * The best victims, best first, until what is to be moved reaches `budget` bytes; at least one if there is any. None with more than
 * `mostLiveShare` alive. Shared ones only when nothing else is left and space is short.
 */
export function chooseVictims(
  segments: Iterable<SegmentState>,
  urgency: Urgency,
  mostLiveShare: number,
  budget: number,
): SegmentState[] {
  const own: { segment: SegmentState; worth: number }[] = [];
  for (const segment of segments)
    if (!segment.shared && segment.liveShare <= mostLiveShare) own.push({ segment, worth: worth(segment, urgency) });
  own.sort((a, b) => b.worth - a.worth);
  const chosen: SegmentState[] = [];
  let bytes = 0;
  for (const { segment } of own) {
    const moved = segment.liveShare * segment.bytes;
    if (chosen.length > 0 && bytes + moved > budget) break;
    chosen.push(segment);
    bytes += moved;
  }
  return chosen;
}

/**
 * Bytes written per byte of clients' for uniform overwrites when live data fill `full` of the pool: with u the live share of a victim,
 * full = (u - 1) / ln u, and 1 / (1 - u) is written. No cleaner that does not know the future does better.
 */
export function uniformBound(full: number): number {
  let low = 1e-9;
  let high = 1 - 1e-9;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if ((middle - 1) / Math.log(middle) < full) low = middle;
    else high = middle;
  }
  return 1 / (1 - low);
}
