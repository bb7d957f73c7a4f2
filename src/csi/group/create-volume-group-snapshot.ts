import { type Control, checkName } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { noParameters, requiredId } from '../fields.js';
import { groupMessage } from '../messages.js';

export async function createVolumeGroupSnapshot(
  control: Pick<Control, 'groups'>,
  request: csi.CreateVolumeGroupSnapshotRequest__Output,
): Promise<csi.CreateVolumeGroupSnapshotResponse> {
  const name = checkName(request.name, 'group snapshot name');
  const volumeIds = request.source_volume_ids.map((id) => requiredId(id, 'source_volume_ids'));
  noParameters(request.parameters, 'group snapshot classes');
  return { group_snapshot: groupMessage(await control.groups.create(name, volumeIds)) };
}
