import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { groupMessage } from '../messages.js';

export async function getVolumeGroupSnapshot(
  control: Pick<Control, 'groups'>,
  request: csi.GetVolumeGroupSnapshotRequest__Output,
): Promise<csi.GetVolumeGroupSnapshotResponse> {
  const id = requiredId(request.group_snapshot_id, 'group_snapshot_id');
  return { group_snapshot: groupMessage(await control.groups.get(id, request.snapshot_ids)) };
}
