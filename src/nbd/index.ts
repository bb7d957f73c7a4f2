export { CLIENT_REQUESTS_MAX, NbdClient, type NbdClientOptions } from './client.js';
export { ClientHandshake, type ExportInfo } from './client-handshake.js';
export type { ClientCallback, ClientRequest } from './client-request.js';
export { dialer, isConnectionLost, type NbdAddress, type NbdDialer } from './dial.js';
export { BlockRequestError, blockErrorOf, wireErrno } from './errno.js';
export { ExportTable, type NbdExport } from './export-table.js';
export { defaultLimits, type NbdLimits } from './limits.js';
export {
  type ClientState,
  ReconnectingNbdClient,
  type ReconnectingOptions,
  type StateListener,
} from './reconnecting-client.js';
export { type NbdConnection, NbdServer, type NbdServerOptions } from './server.js';
export type { NbdSocket } from './socket.js';
