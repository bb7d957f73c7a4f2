import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';

export async function nodeGetInfo(context: NodeContext): Promise<csi.NodeGetInfoResponse> {
  return {
    node_id: context.volumes.nodeId,
    max_volumes_per_node: context.maxVolumes,
    accessible_topology: { segments: { ...context.topology } },
  };
}
