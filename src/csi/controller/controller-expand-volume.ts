import { invalid } from '../../base/index.js';
import { type Control, checkRange } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { servedUse } from '../capabilities.js';
import { requiredId, sizeRange } from '../fields.js';

/** The node follows in any case: it grows the device, and the filesystem on it where there is one. */
export async function controllerExpandVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.ControllerExpandVolumeRequest__Output,
): Promise<csi.ControllerExpandVolumeResponse> {
  const volumeId = requiredId(request.volume_id, 'volume_id');
  const range = sizeRange(request.capacity_range);
  if (range === null) throw invalid('capacity_range is missing');
  checkRange(range);
  if (request.volume_capability !== null) servedUse(request.volume_capability);
  const record = await control.volumes.expand(volumeId, range);
  return { capacity_bytes: record.sizeBytes, node_expansion_required: true };
}
