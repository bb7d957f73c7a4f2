import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';

export async function controllerModifyVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.ControllerModifyVolumeRequest__Output,
): Promise<csi.ControllerModifyVolumeResponse> {
  await control.volumes.modify(requiredId(request.volume_id, 'volume_id'), request.mutable_parameters);
  return {};
}
