import { storageHealth } from '../../agent/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';

export async function nodeGetStorageHealth(context: NodeContext): Promise<csi.NodeGetStorageHealthResponse> {
  return { backend_health: await storageHealth(context.volumes, context.poolProblems) };
}
