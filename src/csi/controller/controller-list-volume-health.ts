import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { pageRequest } from '../fields.js';
import { healthMessage } from '../messages.js';

export async function controllerListVolumeHealth(
  control: Pick<Control, 'volumes' | 'health'>,
  request: csi.ControllerListVolumeHealthRequest__Output,
): Promise<csi.ControllerListVolumeHealthResponse> {
  const page = await control.volumes.list(pageRequest(request));
  const health = await control.health(page.items);
  return {
    entries: page.items.map((record, index) => healthMessage(record.id, health[index] ?? [])),
    next_token: page.nextToken,
  };
}
