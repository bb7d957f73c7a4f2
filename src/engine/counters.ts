// What an engine has done since it was opened; what each counts is said by its name.

import type { EngineStatus } from './engine-api.js';

export type Counters = { -readonly [K in keyof EngineStatus['counters']]: number };

export function emptyCounters(): Counters {
  return {
    reads: 0,
    writes: 0,
    flushes: 0,
    trims: 0,
    readBytes: 0,
    writeBytes: 0,
    storedWriteBytes: 0,
    movedBytes: 0,
    checkpointBytes: 0,
    reclaimedBytes: 0,
    readRepairs: 0,
  };
}

/** With what others count. */
export function shownCounters(
  counters: Counters,
  { bytesWritten: storedWriteBytes }: { readonly bytesWritten: number },
  { movedBytes, reclaimedBytes }: { readonly movedBytes: number; readonly reclaimedBytes: number },
  { bytesWritten: checkpointBytes }: { readonly bytesWritten: number },
  { repairs: readRepairs }: { readonly repairs: number },
): Counters {
  return { ...counters, storedWriteBytes, movedBytes, checkpointBytes, reclaimedBytes, readRepairs };
}
