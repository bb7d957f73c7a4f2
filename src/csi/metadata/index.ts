// csi.v1.SnapshotMetadata: each method in a file of its own, here only put together.

import type { Control } from '../../control/index.js';
import { type csi, csiServices, type Handlers, implement, type ServiceBinding } from '../../rpc/index.js';
import { getMetadataAllocated } from './get-metadata-allocated.js';
import { getMetadataDelta } from './get-metadata-delta.js';

export function snapshotMetadataService(control: Pick<Control, 'changedBlocks'>): ServiceBinding {
  const handlers: Handlers<csi.SnapshotMetadataDefinition, csi.SnapshotMetadataHandlers> = {
    GetMetadataAllocated: (request, { signal }) => getMetadataAllocated(control, request, signal),
    GetMetadataDelta: (request, { signal }) => getMetadataDelta(control, request, signal),
  };
  return implement(csiServices.snapshotMetadata(), handlers);
}
