// How fast the files of dropped segments go.

import type { Clock } from '../base/index.js';
import type { SpaceGauge } from './space-gauge.js';

/** Between unlinks of segments: the disk's journal and the cores are the foreground's. At 8 MiB a segment still 1 GB/s. */
const UNLINK_PAUSE_MS = 5;
/** The same while the pool has little room: somebody waits for what goes, or will. */
const UNLINK_PAUSE_SHORT_MS = 1;

/** After each file: the room that it gave is known at once. */
export function betweenUnlinks({ clock, space }: { clock: Clock; space: SpaceGauge }): Promise<void> {
  space.given();
  return clock.sleep(space.hasRoom() ? UNLINK_PAUSE_MS : UNLINK_PAUSE_SHORT_MS);
}
