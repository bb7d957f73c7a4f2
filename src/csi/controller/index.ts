// csi.v1.Controller: each method in a file of its own, here only put together.

import type { Control } from '../../control/index.js';
import { type csi, csiServices, type Handlers, implement, type ServiceBinding } from '../../rpc/index.js';
import { controllerExpandVolume } from './controller-expand-volume.js';
import { controllerGetCapabilities } from './controller-get-capabilities.js';
import { controllerGetVolume } from './controller-get-volume.js';
import { controllerGetVolumeHealth } from './controller-get-volume-health.js';
import { controllerListVolumeHealth } from './controller-list-volume-health.js';
import { controllerModifyVolume } from './controller-modify-volume.js';
import { controllerPublishVolume } from './controller-publish-volume.js';
import { controllerUnpublishVolume } from './controller-unpublish-volume.js';
import { createSnapshot } from './create-snapshot.js';
import { createVolume } from './create-volume.js';
import { deleteSnapshot } from './delete-snapshot.js';
import { deleteVolume } from './delete-volume.js';
import { getCapacity } from './get-capacity.js';
import { getSnapshot } from './get-snapshot.js';
import { listSnapshots } from './list-snapshots.js';
import { listVolumes } from './list-volumes.js';
import { validateVolumeCapabilities } from './validate-volume-capabilities.js';

export function controllerService(control: Control): ServiceBinding {
  const handlers: Handlers<csi.ControllerDefinition, csi.ControllerHandlers> = {
    CreateVolume: (request, { logger }) => createVolume(control, request, logger),
    DeleteVolume: (request) => deleteVolume(control, request),
    ControllerPublishVolume: (request) => controllerPublishVolume(control, request),
    ControllerUnpublishVolume: (request) => controllerUnpublishVolume(control, request),
    ValidateVolumeCapabilities: (request) => validateVolumeCapabilities(control, request),
    ListVolumes: (request) => listVolumes(control, request),
    ControllerListVolumeHealth: (request) => controllerListVolumeHealth(control, request),
    ControllerGetVolumeHealth: (request) => controllerGetVolumeHealth(control, request),
    GetCapacity: (request) => getCapacity(control, request),
    ControllerGetCapabilities: () => controllerGetCapabilities(),
    CreateSnapshot: (request) => createSnapshot(control, request),
    DeleteSnapshot: (request) => deleteSnapshot(control, request),
    ListSnapshots: (request) => listSnapshots(control, request),
    GetSnapshot: (request) => getSnapshot(control, request),
    ControllerExpandVolume: (request) => controllerExpandVolume(control, request),
    ControllerGetVolume: (request) => controllerGetVolume(control, request),
    ControllerModifyVolume: (request) => controllerModifyVolume(control, request),
  };
  return implement(csiServices.controller(), handlers);
}
