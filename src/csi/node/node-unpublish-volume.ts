import { unpublishVolume } from '../../agent/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { actionPath, knownVolumeId, requirePath, requireVolumeId } from './fields.js';

export async function nodeUnpublishVolume(
  context: NodeContext,
  request: csi.NodeUnpublishVolumeRequest__Output,
): Promise<csi.NodeUnpublishVolumeResponse> {
  requireVolumeId(request.volume_id);
  requirePath(request.target_path, 'target_path');
  const volumeId = knownVolumeId(request.volume_id);
  const path = actionPath(request.target_path, 'target_path');
  await context.locks.run('NodeUnpublishVolume', `volume ${volumeId}`, () =>
    unpublishVolume(context.volumes, volumeId, path),
  );
  return {};
}
