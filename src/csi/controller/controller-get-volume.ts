import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { publishedNodes, volumeMessage } from '../messages.js';

export async function controllerGetVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.ControllerGetVolumeRequest__Output,
): Promise<csi.ControllerGetVolumeResponse> {
  const record = await control.volumes.get(requiredId(request.volume_id, 'volume_id'));
  return { volume: volumeMessage(record), status: publishedNodes(record) };
}
