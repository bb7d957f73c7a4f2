import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { blockMetadata } from './block-metadata.js';

export async function* getMetadataDelta(
  control: Pick<Control, 'changedBlocks'>,
  request: csi.GetMetadataDeltaRequest__Output,
  signal: AbortSignal,
): AsyncGenerator<csi.GetMetadataDeltaResponse> {
  const order = {
    baseId: requiredId(request.base_snapshot_id, 'base_snapshot_id'),
    targetId: requiredId(request.target_snapshot_id, 'target_snapshot_id'),
    startingOffset: request.starting_offset,
    maxResults: request.max_results,
  };
  for await (const part of control.changedBlocks.list(order, signal)) yield blockMetadata(part);
}
