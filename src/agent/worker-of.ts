// Which worker of a node has a volume: its engine and its replica there are on the same one. Peers compute it too, from the
// number of addresses that a node publishes, so the function must never change without a new field in NodeRecord.

import { assert, crc32c, type VolumeId } from '../base/index.js';

export function workerOf(volumeId: VolumeId, workers: number): number {
  assert(workers > 0, 'a node without workers has no worker for a volume');
  return (crc32c(Buffer.from(volumeId, 'latin1')) >>> 0) % workers;
}
