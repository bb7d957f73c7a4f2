import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';

export async function deleteVolumeGroupSnapshot(
  control: Pick<Control, 'groups'>,
  request: csi.DeleteVolumeGroupSnapshotRequest__Output,
): Promise<csi.DeleteVolumeGroupSnapshotResponse> {
  await control.groups.delete(requiredId(request.group_snapshot_id, 'group_snapshot_id'), request.snapshot_ids);
  return {};
}
