// The services of proto/, each loaded when first asked for.

import type * as csi from './generated/csi/v1/index.js';
import type * as holdfast from './generated/holdfast/v1/index.js';
import { loadService } from './load-service.js';

const csiFile = 'csi/v1/csi.proto';

export const csiServices = {
  identity: () => loadService<csi.IdentityDefinition, csi.IdentityHandlers>(csiFile, 'csi.v1.Identity'),
  controller: () => loadService<csi.ControllerDefinition, csi.ControllerHandlers>(csiFile, 'csi.v1.Controller'),
  groupController: () =>
    loadService<csi.GroupControllerDefinition, csi.GroupControllerHandlers>(csiFile, 'csi.v1.GroupController'),
  snapshotMetadata: () =>
    loadService<csi.SnapshotMetadataDefinition, csi.SnapshotMetadataHandlers>(csiFile, 'csi.v1.SnapshotMetadata'),
  node: () => loadService<csi.NodeDefinition, csi.NodeHandlers>(csiFile, 'csi.v1.Node'),
} as const;

export const holdfastServices = {
  metadata: () =>
    loadService<holdfast.MetadataDefinition, holdfast.MetadataHandlers>(
      'holdfast/v1/metadata.proto',
      'holdfast.v1.Metadata',
    ),
  node: () => loadService<holdfast.NodeDefinition, holdfast.NodeHandlers>('holdfast/v1/node.proto', 'holdfast.v1.Node'),
  operator: () =>
    loadService<holdfast.OperatorDefinition, holdfast.OperatorHandlers>(
      'holdfast/v1/operator.proto',
      'holdfast.v1.Operator',
    ),
  replica: () =>
    loadService<holdfast.ReplicaDefinition, holdfast.ReplicaHandlers>(
      'holdfast/v1/replica.proto',
      'holdfast.v1.Replica',
    ),
  volume: () =>
    loadService<holdfast.VolumeDefinition, holdfast.VolumeHandlers>('holdfast/v1/volume.proto', 'holdfast.v1.Volume'),
} as const;
