// Where a volume's replica on another node is served: from that node's record, kept until a connection to it failed.

import { type NodeId, unavailable, type VolumeId } from '../base/index.js';
import { keyOf, type MetadataStore, type NodeRecord } from '../meta/index.js';
import { workerOf } from './worker-of.js';

/** Nodes of a cluster; beyond it the oldest is read again. */
const nodesMax = 10_000;

export class ReplicaAddresses {
  readonly #store: MetadataStore;
  readonly #known = new Map<NodeId, readonly string[]>();

  constructor(store: MetadataStore) {
    this.#store = store;
  }

  /** Errors: UNAVAILABLE when there is no such node or it serves no replicas, those of the store. */
  async find(nodeId: NodeId, volumeId: VolumeId, refresh: boolean): Promise<string> {
    let addresses = refresh ? undefined : this.#known.get(nodeId);
    if (!addresses) {
      const entry = await this.#store.get<NodeRecord>(keyOf.node(nodeId));
      if (!entry) throw unavailable(`no node ${nodeId} has registered at the controller`);
      addresses = entry.value.replicaAddresses;
      this.#known.delete(nodeId);
      this.#known.set(nodeId, addresses);
      if (this.#known.size > nodesMax) this.#known.delete(this.#known.keys().next().value!);
    }
    if (addresses.length === 0) throw unavailable(`node ${nodeId} serves no replicas now`);
    return addresses[workerOf(volumeId, addresses.length)]!;
  }
}
