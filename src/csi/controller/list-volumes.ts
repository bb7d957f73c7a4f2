import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { pageRequest } from '../fields.js';
import { publishedNodes, volumeMessage } from '../messages.js';

export async function listVolumes(
  control: Pick<Control, 'volumes'>,
  request: csi.ListVolumesRequest__Output,
): Promise<csi.ListVolumesResponse> {
  const page = await control.volumes.list(pageRequest(request));
  return {
    entries: page.items.map((record) => ({ volume: volumeMessage(record), status: publishedNodes(record) })),
    next_token: page.nextToken,
  };
}
