// holdfast.v1.Node: where storage daemons make themselves known.

import type { MetadataStore } from '../meta/index.js';
import { type Handlers, type holdfast, holdfastServices, implement, type ServiceBinding } from '../rpc/index.js';
import { checkNode } from '../trust/index.js';
import { HEARTBEAT_INTERVAL_MS } from './limits.js';
import type { Nodes } from './nodes.js';

export function nodeService(nodes: Nodes, store: Pick<MetadataStore, 'version'>): ServiceBinding {
  const handlers: Handlers<holdfast.NodeDefinition, holdfast.NodeHandlers> = {
    async Register(request, { caller }) {
      checkNode(caller, request.node?.node_id ?? '');
      await nodes.register(request.node);
      return { heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS, store_version: await store.version() };
    },
    async Heartbeat(request, { caller }) {
      checkNode(caller, request.node?.node_id ?? '');
      return { known: await nodes.heartbeat(request.node), store_version: await store.version() };
    },
  };
  return implement(holdfastServices.node(), handlers, {
    allow: { Register: ['storage'], Heartbeat: ['storage'] },
  });
}
