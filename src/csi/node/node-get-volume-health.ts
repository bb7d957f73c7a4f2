import { volumeHealth } from '../../agent/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { knownVolumeId, requireVolumeId } from './fields.js';

export async function nodeGetVolumeHealth(
  context: NodeContext,
  request: csi.NodeGetVolumeHealthRequest__Output,
): Promise<csi.NodeGetVolumeHealthResponse> {
  const volumeId = knownVolumeId(requireVolumeId(request.volume_id));
  const findings = await volumeHealth(context.volumes, volumeId);
  return { volume_health: { volume_id: volumeId, health_statuses: findings } };
}
