// A holder's way to its volume's export: the storage daemon of its node, over the daemon's unix socket.

import { type Clock, HoldfastError, type VolumeId } from '../base/index.js';
import type { ExportSource } from '../platform/attach/index.js';
import { createClient, holdfastServices } from '../rpc/index.js';

/** Longer than the daemon's own bound on opening an engine. */
const openDeadlineMs = 240_000;
const closeDeadlineMs = 90_000;

export interface ExportSourceHandle extends ExportSource {
  /** Ends the connection. */
  disconnect(): void;
}

/** `socketPath`: the daemon's storage.sock. */
export function createExportSource(socketPath: string, clock: Clock): ExportSourceHandle {
  const client = createClient(`unix://${socketPath}`, holdfastServices.volume(), { clock });
  return {
    async open(volumeId, key, readOnly) {
      const request = {
        volume_id: volumeId,
        export: true,
        wrapping_key: key ?? Buffer.alloc(0),
        read_only: readOnly,
      };
      const opened = await client.Open(request, { deadlineMs: openDeadlineMs }).catch((error) => {
        throw asRefusal(error, volumeId);
      });
      return { socketPath: opened.socket_path, exportName: opened.export_name, sizeBytes: opened.size_bytes };
    },
    async close(volumeId) {
      await client.Close({ volume_id: volumeId, epoch: 0 }, { deadlineMs: closeDeadlineMs });
    },
    disconnect: () => client.close(),
  };
}

/** The daemon's answers in a holder's terms: what is final is FAILED_PRECONDITION/StaleReign, a lost race passes. */
function asRefusal(error: unknown, volumeId: VolumeId): unknown {
  if (!(error instanceof HoldfastError)) return error;
  if (error.code === 'NOT_FOUND') {
    return new HoldfastError('FAILED_PRECONDITION', `volume ${volumeId} is gone: ${error.message}`, {
      reason: 'StaleReign',
      cause: error,
    });
  }
  if (error.code === 'ABORTED') {
    return new HoldfastError('UNAVAILABLE', error.message, { reason: error.reason, cause: error });
  }
  return error;
}
