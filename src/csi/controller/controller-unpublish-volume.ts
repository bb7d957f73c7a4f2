import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { optionalId, requiredId } from '../fields.js';

export async function controllerUnpublishVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.ControllerUnpublishVolumeRequest__Output,
): Promise<csi.ControllerUnpublishVolumeResponse> {
  const volumeId = requiredId(request.volume_id, 'volume_id');
  await control.volumes.unpublish(volumeId, optionalId(request.node_id, 'node_id'));
  return {};
}
