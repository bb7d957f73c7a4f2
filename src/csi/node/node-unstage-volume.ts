import { unstageVolume } from '../../agent/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { actionPath, knownVolumeId, requirePath, requireVolumeId } from './fields.js';

/** Works for a volume whose record is gone, too: what is left of it here has to go. */
export async function nodeUnstageVolume(
  context: NodeContext,
  request: csi.NodeUnstageVolumeRequest__Output,
): Promise<csi.NodeUnstageVolumeResponse> {
  requireVolumeId(request.volume_id);
  requirePath(request.staging_target_path, 'staging_target_path');
  const volumeId = knownVolumeId(request.volume_id);
  const path = actionPath(request.staging_target_path, 'staging_target_path');
  await context.locks.run('NodeUnstageVolume', `volume ${volumeId}`, () =>
    unstageVolume(context.volumes, volumeId, path),
  );
  return {};
}
