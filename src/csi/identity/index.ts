// csi.v1.Identity, served on the controller's and on every node's endpoint.

import { type csi, csiServices, type Handlers, implement, type ServiceBinding } from '../../rpc/index.js';
import { getPluginCapabilities } from './get-plugin-capabilities.js';
import { getPluginInfo } from './get-plugin-info.js';
import { probe } from './probe.js';

export interface IdentityOptions {
  /** Of the product, e.g. "0.1.0". */
  readonly version: string;
  /** False while the process is still starting. */
  readonly ready: () => Promise<boolean>;
}

export function identityService(options: IdentityOptions): ServiceBinding {
  const handlers: Handlers<csi.IdentityDefinition, csi.IdentityHandlers> = {
    GetPluginInfo: () => getPluginInfo(options.version),
    GetPluginCapabilities: () => getPluginCapabilities(),
    Probe: () => probe(options.ready),
  };
  return implement(csiServices.identity(), handlers);
}
