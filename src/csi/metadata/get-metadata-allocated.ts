import type { Control } from '../../control/index.js';
import type { csi } from '../../rpc/index.js';
import { requiredId } from '../fields.js';
import { blockMetadata } from './block-metadata.js';

export async function* getMetadataAllocated(
  control: Pick<Control, 'changedBlocks'>,
  request: csi.GetMetadataAllocatedRequest__Output,
  signal: AbortSignal,
): AsyncGenerator<csi.GetMetadataAllocatedResponse> {
  const order = {
    baseId: null,
    targetId: requiredId(request.snapshot_id, 'snapshot_id'),
    startingOffset: request.starting_offset,
    maxResults: request.max_results,
  };
  for await (const part of control.changedBlocks.list(order, signal)) yield blockMetadata(part);
}
