import type { csi } from '../../rpc/index.js';

export async function groupControllerGetCapabilities(): Promise<csi.GroupControllerGetCapabilitiesResponse> {
  return { capabilities: [{ rpc: { type: 'CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT' } }] };
}
