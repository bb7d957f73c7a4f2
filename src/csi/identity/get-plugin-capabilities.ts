import type { csi } from '../../rpc/index.js';

const services = [
  'CONTROLLER_SERVICE',
  'GROUP_CONTROLLER_SERVICE',
  'SNAPSHOT_METADATA_SERVICE',
  'VOLUME_ACCESSIBILITY_CONSTRAINTS',
  'SNAPSHOT_ACCESSIBILITY_CONSTRAINTS',
] as const;

/** The plugin's, not the endpoint's: controller and node answer alike. */
export async function getPluginCapabilities(): Promise<csi.GetPluginCapabilitiesResponse> {
  return {
    capabilities: [
      ...services.map((type) => ({ service: { type } })),
      { volume_expansion: { type: 'ONLINE' as const } },
    ],
  };
}
