import { publishVolume } from '../../agent/index.js';
import { precondition } from '../../base/index.js';
import type { csi } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { actionPath, isReadOnlyMode, knownVolumeId, requireAccess, requirePath, requireVolumeId } from './fields.js';

export async function nodePublishVolume(
  context: NodeContext,
  request: csi.NodePublishVolumeRequest__Output,
): Promise<csi.NodePublishVolumeResponse> {
  requireVolumeId(request.volume_id);
  requirePath(request.target_path, 'target_path');
  const access = requireAccess(request.volume_capability);
  const volumeId = knownVolumeId(request.volume_id);
  if (request.staging_target_path === '') {
    throw precondition(`staging_target_path is missing: volume ${volumeId} has to be staged first`);
  }
  const order = {
    volumeId,
    stagingPath: actionPath(request.staging_target_path, 'staging_target_path'),
    targetPath: actionPath(request.target_path, 'target_path'),
    access: access.type,
    readOnly: request.readonly || isReadOnlyMode(access.mode),
    // The specification's table for a second publish on the same node.
    manyTargets: access.mode === 'SINGLE_NODE_MULTI_WRITER',
  };
  await context.locks.run('NodePublishVolume', `volume ${volumeId}`, () => publishVolume(context.volumes, order));
  return {};
}
