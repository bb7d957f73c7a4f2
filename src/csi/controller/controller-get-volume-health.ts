import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { healthMessage } from '../messages.js';

export async function controllerGetVolumeHealth(
  control: Pick<Control, 'volumes' | 'health'>,
  request: csi.ControllerGetVolumeHealthRequest__Output,
): Promise<csi.ControllerGetVolumeHealthResponse> {
  const record = await control.volumes.get(requiredId(request.volume_id, 'volume_id'));
  const [entries] = await control.health([record]);
  return { volume_health: healthMessage(record.id, entries ?? []) };
}
