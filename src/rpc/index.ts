export { type Address, formatAddress, parseAddress, UNIX_PATH_MAX } from './address.js';
export { loggedFields } from './call-log.js';
export { type CallSecurity, type ClientOptions, createClient } from './client.js';
export type * as csi from './generated/csi/v1/index.js';
export type * as holdfast from './generated/holdfast/v1/index.js';
export { KeyedLocks } from './keyed-locks.js';
export { type LoadedService, loadService } from './load-service.js';
export {
  createServer,
  implement,
  MESSAGE_BYTES_MAX,
  type Server,
  type ServerOptions,
  type ServiceBinding,
} from './server.js';
export type { CallContext, CallOptions, Client, Handlers } from './service-types.js';
export { csiServices, holdfastServices } from './services.js';
