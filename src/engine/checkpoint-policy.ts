// When a checkpoint is due. Pure: numbers in, numbers out; the checkpointer asks, and so does the simulation of bench/cleaning.

import {
  CHECKPOINT_DIRTY_PAGES,
  CHECKPOINT_DIRTY_SHARE,
  CHECKPOINT_LOG_BYTES,
  CHECKPOINT_LOG_MAX,
  CHECKPOINT_LOG_SHARE,
  CHECKPOINT_RECORDS,
} from './limits.js';

/** The log since the last one has grown past its budget. `storedBytes`: what the volume takes in the pool. */
export function isLongLog(logBytes: number, records: number, storedBytes: number): boolean {
  const share = Math.min(CHECKPOINT_LOG_MAX, storedBytes * CHECKPOINT_LOG_SHARE);
  return logBytes > Math.max(CHECKPOINT_LOG_BYTES, share) || records > CHECKPOINT_RECORDS;
}

/** Changed pages take up so much memory that one should begin at once. `share`: of the memory for pages, by those of all volumes of the thread. */
export function isPressing(dirtyPages: number, share: number): boolean {
  if (dirtyPages > CHECKPOINT_DIRTY_PAGES) return true;
  return share > CHECKPOINT_DIRTY_SHARE && dirtyPages > CHECKPOINT_DIRTY_PAGES / 32;
}
