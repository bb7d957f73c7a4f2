// The storage daemon of this node as the node plugin asks it, over the daemon's unix socket.

import type { Clock, VolumeId } from '../base/index.js';
import { createClient, type holdfast, holdfastServices } from '../rpc/index.js';

export interface StorageDaemon {
  /** Grows the open engine to a size that the volume's record already has. */
  resize(volumeId: VolumeId, sizeBytes: number): Promise<void>;
  /** Undefined when the volume is not open here. UNAVAILABLE when the daemon is away. */
  status(volumeId: VolumeId): Promise<holdfast.VolumeStatus__Output | undefined>;
  /** Resolves when the daemon answers. */
  ping(): Promise<void>;
  close(): void;
}

const resizeDeadlineMs = 60_000;
const statusDeadlineMs = 10_000;

export function createStorageDaemon(socketPath: string, clock: Clock): StorageDaemon {
  const client = createClient(`unix://${socketPath}`, holdfastServices.volume(), { clock });
  return {
    async resize(volumeId, sizeBytes) {
      await client.Resize({ volume_id: volumeId, size_bytes: sizeBytes }, { deadlineMs: resizeDeadlineMs });
    },
    async status(volumeId) {
      const answer = await client.Status({ volume_id: volumeId }, { deadlineMs: statusDeadlineMs });
      return answer.volumes.find((volume) => volume.volume_id === volumeId);
    },
    async ping() {
      await client.Status({ volume_id: '00000000-0000-0000-0000-000000000000' }, { deadlineMs: statusDeadlineMs });
    },
    close: () => client.close(),
  };
}
