import type { csi } from '../../rpc/index.js';

const rpcs = [
  'CREATE_DELETE_VOLUME',
  'PUBLISH_UNPUBLISH_VOLUME',
  'LIST_VOLUMES',
  'LIST_VOLUMES_PUBLISHED_NODES',
  'GET_VOLUME',
  'GET_CAPACITY',
  'CREATE_DELETE_SNAPSHOT',
  'LIST_SNAPSHOTS',
  'GET_SNAPSHOT',
  'CLONE_VOLUME',
  'PUBLISH_READONLY',
  'EXPAND_VOLUME',
  'SINGLE_NODE_MULTI_WRITER',
  'MODIFY_VOLUME',
  'GET_VOLUME_HEALTH',
  'LIST_VOLUME_HEALTH',
] as const;

export async function controllerGetCapabilities(): Promise<csi.ControllerGetCapabilitiesResponse> {
  return { capabilities: rpcs.map((type) => ({ rpc: { type } })) };
}
