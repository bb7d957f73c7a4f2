import { volumeUse } from '../../agent/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { knownVolumeId, requirePath, requireVolumeId } from './fields.js';

/** Takes no lock: it is asked often, changes nothing, and must not be turned away by a long mkfs elsewhere. */
export async function nodeGetVolumeStats(
  context: NodeContext,
  request: csi.NodeGetVolumeStatsRequest__Output,
): Promise<csi.NodeGetVolumeStatsResponse> {
  requireVolumeId(request.volume_id);
  const path = requirePath(request.volume_path, 'volume_path');
  const use = await volumeUse(context.volumes, knownVolumeId(request.volume_id), path);
  if (use.kind === 'block') return { usage: [{ unit: 'BYTES', total: use.totalBytes }] };
  return {
    usage: [
      { unit: 'BYTES', ...use.bytes },
      { unit: 'INODES', ...use.inodes },
    ],
  };
}
