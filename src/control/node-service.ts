// holdfast.v1.Node: where storage daemons make themselves known.

import { type Handlers, type holdfast, holdfastServices, implement, type ServiceBinding } from '../rpc/index.js';
import { HEARTBEAT_INTERVAL_MS } from './limits.js';
import type { Nodes } from './nodes.js';

export function nodeService(nodes: Nodes): ServiceBinding {
  const handlers: Handlers<holdfast.NodeDefinition, holdfast.NodeHandlers> = {
    async Register(request) {
      await nodes.register(request.node);
      return { heartbeat_interval_ms: HEARTBEAT_INTERVAL_MS };
    },
    async Heartbeat(request) {
      return { known: await nodes.heartbeat(request.node) };
    },
  };
  return implement(holdfastServices.node(), handlers);
}
