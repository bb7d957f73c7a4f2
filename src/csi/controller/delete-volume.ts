import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';

/** Answers once the deletion is certain to happen; replicas on unreachable nodes follow when these are back. */
export async function deleteVolume(
  control: Pick<Control, 'volumes'>,
  request: csi.DeleteVolumeRequest__Output,
): Promise<csi.DeleteVolumeResponse> {
  await control.volumes.delete(requiredId(request.volume_id, 'volume_id'));
  return {};
}
