import type { csi } from '../../rpc/index.js';
import { PLUGIN_NAME } from '../plugin.js';

export async function getPluginInfo(version: string): Promise<csi.GetPluginInfoResponse> {
  return { name: PLUGIN_NAME, vendor_version: version, manifest: {} };
}
