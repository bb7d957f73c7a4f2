// The port to the nodes' storage daemons, and its real end over gRPC.

import type { Clock, NodeId } from '../base/index.js';
import { type Client, createClient, type holdfast, holdfastServices } from '../rpc/index.js';
import type { Trust } from '../trust/index.js';

export type VolumeCalls = Omit<Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>, 'close'>;
export type ReplicaCalls = Omit<Client<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>, 'close'>;

export interface DaemonAddress {
  readonly id: NodeId;
  readonly controlAddress: string;
}

/**
 * Each call may be repeated, and fails with UNAVAILABLE or DEADLINE_EXCEEDED when the daemon can't be reached, whether it did
 * the work or not.
 */
export interface Daemons {
  volume(node: DaemonAddress): VolumeCalls;
  replica(node: DaemonAddress): ReplicaCalls;
  close(): void;
}

interface Connection {
  readonly address: string;
  readonly volume: Client<holdfast.VolumeDefinition, holdfast.VolumeHandlers>;
  readonly replica: Client<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>;
}

/** One pair of connections a node, made at the first call and replaced when the node registers under another address. */
export function createDaemons(options: { readonly clock: Clock; readonly trust?: Trust | null }): Daemons {
  const { clock, trust } = options;
  const connections = new Map<NodeId, Connection>();
  const drop = (connection: Connection | undefined) => {
    connection?.volume.close();
    connection?.replica.close();
  };
  const connectionOf = (node: DaemonAddress): Connection => {
    const known = connections.get(node.id);
    if (known?.address === node.controlAddress) return known;
    const security = trust ? { trust, server: { role: 'storage', node: node.id } as const } : null;
    const made: Connection = {
      address: node.controlAddress,
      volume: createClient(node.controlAddress, holdfastServices.volume(), { clock, security }),
      replica: createClient(node.controlAddress, holdfastServices.replica(), { clock, security }),
    };
    drop(known);
    connections.set(node.id, made);
    return made;
  };
  return {
    volume: (node) => connectionOf(node).volume,
    replica: (node) => connectionOf(node).replica,
    close() {
      for (const connection of connections.values()) drop(connection);
      connections.clear();
    },
  };
}
