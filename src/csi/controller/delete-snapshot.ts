import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';

export async function deleteSnapshot(
  control: Pick<Control, 'snapshots'>,
  request: csi.DeleteSnapshotRequest__Output,
): Promise<csi.DeleteSnapshotResponse> {
  await control.snapshots.delete(requiredId(request.snapshot_id, 'snapshot_id'));
  return {};
}
