import { stageVolume } from '../../agent/index.js';
import { wrappingKeyFromSecret } from '../../base/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { actionPath, isReadOnlyMode, knownVolumeId, requireAccess, requirePath, requireVolumeId } from './fields.js';

export async function nodeStageVolume(
  context: NodeContext,
  request: csi.NodeStageVolumeRequest__Output,
): Promise<csi.NodeStageVolumeResponse> {
  requireVolumeId(request.volume_id);
  requirePath(request.staging_target_path, 'staging_target_path');
  const access = requireAccess(request.volume_capability);
  const volumeId = knownVolumeId(request.volume_id);
  const order = {
    volumeId,
    stagingPath: actionPath(request.staging_target_path, 'staging_target_path'),
    access: access.type,
    readOnly: isReadOnlyMode(access.mode),
    wrappingKey: () => wrappingKeyFromSecret(request.secrets),
  };
  await context.locks.run('NodeStageVolume', `volume ${volumeId}`, () => stageVolume(context.volumes, order));
  return {};
}
