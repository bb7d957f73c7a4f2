// Before a replica answers a fence, an engine of a lower reign in its own process is stopped and waited for: then the new
// engine need not wait for its lease.

import { type Clock, type Logger, messageOf, type TimerHandle, type VolumeId } from '../base/index.js';
import type { Reign } from '../format/index.js';

/** Stops an engine of a lower reign that runs in this process; true when one ran. */
export type StopEngine = (volumeId: VolumeId, reign: Reign) => Promise<boolean>;

/** Well below the time a fence may take (wire/limits.ts). */
const STOP_ENGINE_MS = 5_000;

/**
 * True when an engine ran in this process and has stopped. One that does not stop in time is taken for running: it can't
 * append any more, and whoever fenced waits until its lease is over.
 */
export async function stopFormerEngine(
  parts: { stopEngine: StopEngine; clock: Clock; logger: Logger },
  volumeId: VolumeId,
  reign: Reign,
): Promise<boolean> {
  const { clock, stopEngine, logger } = parts;
  let timer: TimerHandle | undefined;
  const late = new Promise<boolean>((_, reject) => {
    timer = clock.after(STOP_ENGINE_MS, () => reject(new Error(`it did not stop within ${STOP_ENGINE_MS} ms`)));
  });
  try {
    return await Promise.race([stopEngine(volumeId, reign), late]);
  } catch (error) {
    logger.error({ volume: volumeId, error: messageOf(error) }, 'the former engine here may still run');
    return false;
  } finally {
    timer?.cancel();
  }
}
