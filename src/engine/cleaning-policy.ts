// Which segments are worth cleaning, and how much may be moved when. Pure: numbers in, numbers out; the cleaner asks, the
// simulation in bench/cleaning asks the same functions.
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

import { MiB } from '../base/index.js';
import { CLEAN_BAND, CLEAN_LOW_MARK, MOVE_BURST_LEAST } from './limits.js';

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
const RELEASE_MIN = 32 * MiB;
/** Of an entry of the map whose segment was written by an earlier reign. */
const PIECE_BYTES = 4096;

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

/**
 * Under load a checkpoint is written for the space that it releases when that is so much at least. `wonBytes` are dead in segments that
 * may be cleaned without one.
 */
export function releaseWorth(storedBytes: number, wonBytes: number): number {
  return Math.max(Math.min(RELEASE_MIN, storedBytes / 16), wonBytes / 2);
}

/** What lies in a segment, in bytes and numbers. */
export interface SegmentContent {
  /** Of the file. */
  readonly bytes: number;
  /** Ever put there, and of these needed now. */
  readonly blocks: number;
  readonly live: number;
  /** Entries of the map itself (pages, deltas, lists) that something still names. */
  readonly pieces: number;
  /** Of such entries all that were ever put there; 0 where it isn't known any more. */
  readonly mapBytes: number;
  readonly mapEntries: number;
}

/**
 * Estimate of the part of a segment that something still needs. Entries of the map are a few per cent of a log, but many segments have none: to
 * take them for records makes these look fuller than others that are, which costs 0.1 byte for each byte at 80 %.
 */
export function liveShareOf({ bytes, blocks, live, pieces, mapBytes, mapEntries }: SegmentContent): number {
  const recordBytes = blocks === 0 ? 0 : (bytes - mapBytes) / blocks;
  const pieceBytes = mapEntries === 0 ? PIECE_BYTES : mapBytes / mapEntries;
  return Math.min(1, (live * recordBytes + Math.max(0, pieces) * pieceBytes) / Math.max(1, bytes));
}

/**
 * Records of which class go into a segment together. `heat` as BlockHeat has it: 2 where a block is overwritten as often as the whole volume
 * is in the mean. In zones of 80/20 cold ones have 0 or 1, hot ones 4 to 8.
 */
export function heatClass(heat: number): number {
  return heat < 2 ? 0 : heat < 6 ? 1 : 2;
}

/** True when a burst of moves ends although it is not full: `bytes` are in it, and the next record dies sooner than the one before. */
export function endsBurst(bytes: number, heat: number, nextHeat: number): boolean {
  return bytes >= MOVE_BURST_LEAST && heatClass(heat) !== heatClass(nextHeat);
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
  // Of thousands a few are wanted: those that can't be among them are never sorted.
  const own: { segment: SegmentState; worth: number; moved: number }[] = [];
  let kept = 0;
  for (const segment of segments) {
    if (segment.shared || segment.liveShare > mostLiveShare) continue;
    const one = { segment, worth: worth(segment, urgency), moved: segment.liveShare * segment.bytes };
    const worst = own.at(-1);
    if (worst !== undefined && kept > budget && one.worth <= worst.worth) continue;
    let at = own.length;
    while (at > 0 && own[at - 1]!.worth < one.worth) at--;
    own.splice(at, 0, one);
    kept += one.moved;
    while (own.length > 1 && kept - own.at(-1)!.moved > budget) kept -= own.pop()!.moved;
  }
  const chosen: SegmentState[] = [];
  let bytes = 0;
  for (const { segment, moved } of own) {
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
