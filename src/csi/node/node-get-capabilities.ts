import type { csi } from '../../rpc/index.js';

/**
 * VOLUME_MOUNT_GROUP is left out: ext4 and xfs have no mount option for a group, and kubelet applies fsGroup itself
 * (CSIDriver fsGroupPolicy: File).
 */
const capabilities = [
  'STAGE_UNSTAGE_VOLUME',
  'GET_VOLUME_STATS',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
  'GET_VOLUME_HEALTH',
  'GET_STORAGE_HEALTH',
] as const;

export async function nodeGetCapabilities(): Promise<csi.NodeGetCapabilitiesResponse> {
  return { capabilities: capabilities.map((type) => ({ rpc: { type } })) };
}
