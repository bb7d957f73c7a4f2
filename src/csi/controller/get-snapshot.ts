import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { snapshotMessage } from '../messages.js';

export async function getSnapshot(
  control: Pick<Control, 'snapshots'>,
  request: csi.GetSnapshotRequest__Output,
): Promise<csi.GetSnapshotResponse> {
  return { snapshot: snapshotMessage(await control.snapshots.get(requiredId(request.snapshot_id, 'snapshot_id'))) };
}
