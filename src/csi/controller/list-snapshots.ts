import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { optionalId, pageRequest } from '../fields.js';
import { snapshotMessage } from '../messages.js';

export async function listSnapshots(
  control: Pick<Control, 'snapshots'>,
  request: csi.ListSnapshotsRequest__Output,
): Promise<csi.ListSnapshotsResponse> {
  const filter = {
    snapshotId: optionalId(request.snapshot_id, 'snapshot_id'),
    sourceVolumeId: optionalId(request.source_volume_id, 'source_volume_id'),
  };
  const page = await control.snapshots.list(filter, pageRequest(request));
  return {
    entries: page.items.map((snapshot) => ({ snapshot: snapshotMessage(snapshot) })),
    next_token: page.nextToken,
  };
}
