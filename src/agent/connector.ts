// An engine's way to its replicas: the one on this node directly, in the same worker; the others over the network, at the
// address that their node published.

import { type Clock, type NodeId, type ReplicaId, unavailable, type VolumeId } from '../base/index.js';
import type { ReplicaConnector, ReplicaPort } from '../engine/index.js';

export interface ConnectorParts {
  readonly nodeId: NodeId;
  readonly local: (volumeId: VolumeId, replicaId: ReplicaId) => Promise<ReplicaPort>;
  readonly remote: (target: {
    readonly address: string;
    readonly volumeId: VolumeId;
    readonly replicaId: ReplicaId;
    readonly nodeId: NodeId;
    readonly timeoutMs: number;
  }) => Promise<ReplicaPort>;
  /** The known address, or with `refresh` what the metadata store says now. */
  readonly address: (nodeId: NodeId, volumeId: VolumeId, refresh: boolean, timeoutMs: number) => Promise<string>;
  readonly clock: Clock;
}

export function replicaConnector(volumeId: VolumeId, parts: ConnectorParts): ReplicaConnector {
  return {
    async connect({ replicaId, nodeId }, timeoutMs) {
      if (nodeId === parts.nodeId) return parts.local(volumeId, replicaId);
      const endMs = parts.clock.monotonicMs() + timeoutMs;
      const leftMs = () => {
        const left = endMs - parts.clock.monotonicMs();
        if (left < 1)
          throw unavailable(`replica ${replicaId} on node ${nodeId} was not reached within ${timeoutMs} ms`);
        return left;
      };
      const known = await parts.address(nodeId, volumeId, false, leftMs());
      try {
        return await parts.remote({ address: known, volumeId, replicaId, nodeId, timeoutMs: leftMs() });
      } catch (error) {
        // The node may have come back elsewhere. When the store does not answer, the known address is all there is.
        const current = await parts.address(nodeId, volumeId, true, leftMs()).catch(() => known);
        if (current === known) throw error;
        return parts.remote({ address: current, volumeId, replicaId, nodeId, timeoutMs: leftMs() });
      }
    },
  };
}
