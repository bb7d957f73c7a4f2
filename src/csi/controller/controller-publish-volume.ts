import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { servedUse } from '../capabilities.js';
import { requiredId } from '../fields.js';

/** Records the intent; the engine opens when the node stages the volume. */
export async function controllerPublishVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.ControllerPublishVolumeRequest__Output,
): Promise<csi.ControllerPublishVolumeResponse> {
  const volumeId = requiredId(request.volume_id, 'volume_id');
  const nodeId = requiredId(request.node_id, 'node_id');
  const { accessMode, accessType, readOnly } = servedUse(request.volume_capability);
  const order = { volumeId, nodeId, accessMode, accessType, readOnly: readOnly || request.readonly };
  await control.volumes.publish(order);
  return { publish_context: { readOnly: String(order.readOnly) } };
}
