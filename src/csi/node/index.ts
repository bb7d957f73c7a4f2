// csi.v1.Node: one file per call, each a thin way to the agent's steps.

import { csiServices, implement, type ServiceBinding } from '../../rpc/index.js';
import type { NodeContext } from './context.js';
import { nodeExpandVolume } from './node-expand-volume.js';
import { nodeGetCapabilities } from './node-get-capabilities.js';
import { nodeGetInfo } from './node-get-info.js';
import { nodeGetStorageHealth } from './node-get-storage-health.js';
import { nodeGetVolumeHealth } from './node-get-volume-health.js';
import { nodeGetVolumeStats } from './node-get-volume-stats.js';
import { nodePublishVolume } from './node-publish-volume.js';
import { nodeStageVolume } from './node-stage-volume.js';
import { nodeUnpublishVolume } from './node-unpublish-volume.js';
import { nodeUnstageVolume } from './node-unstage-volume.js';

export type { NodeContext } from './context.js';

export function nodeService(context: NodeContext): ServiceBinding {
  return implement(csiServices.node(), {
    NodeStageVolume: (request) => nodeStageVolume(context, request),
    NodeUnstageVolume: (request) => nodeUnstageVolume(context, request),
    NodePublishVolume: (request) => nodePublishVolume(context, request),
    NodeUnpublishVolume: (request) => nodeUnpublishVolume(context, request),
    NodeGetVolumeStats: (request) => nodeGetVolumeStats(context, request),
    NodeExpandVolume: (request) => nodeExpandVolume(context, request),
    NodeGetCapabilities: () => nodeGetCapabilities(),
    NodeGetInfo: () => nodeGetInfo(context),
    NodeGetVolumeHealth: (request) => nodeGetVolumeHealth(context, request),
    NodeGetStorageHealth: () => nodeGetStorageHealth(context),
  });
}
