// csi.v1.GroupController: each method in a file of its own, here only put together.

import type { Control } from '../../control/index.js';
import { type csi, csiServices, type Handlers, implement, type ServiceBinding } from '../../rpc/index.js';
import { createVolumeGroupSnapshot } from './create-volume-group-snapshot.js';
import { deleteVolumeGroupSnapshot } from './delete-volume-group-snapshot.js';
import { getVolumeGroupSnapshot } from './get-volume-group-snapshot.js';
import { groupControllerGetCapabilities } from './group-controller-get-capabilities.js';

export function groupControllerService(control: Control): ServiceBinding {
  const handlers: Handlers<csi.GroupControllerDefinition, csi.GroupControllerHandlers> = {
    GroupControllerGetCapabilities: () => groupControllerGetCapabilities(),
    CreateVolumeGroupSnapshot: (request) => createVolumeGroupSnapshot(control, request),
    DeleteVolumeGroupSnapshot: (request) => deleteVolumeGroupSnapshot(control, request),
    GetVolumeGroupSnapshot: (request) => getVolumeGroupSnapshot(control, request),
  };
  return implement(csiServices.groupController(), handlers);
}
