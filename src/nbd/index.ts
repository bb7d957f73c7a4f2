export { BlockRequestError, blockErrorOf, wireErrno } from './errno.js';
export { ExportTable, type NbdExport } from './export-table.js';
export { defaultLimits, type NbdLimits } from './limits.js';
export { type NbdConnection, NbdServer, type NbdServerOptions } from './server.js';
export type { NbdSocket } from './socket.js';
export { listenUnix, UNIX_PATH_BYTES_MAX, type UnixListener } from './unix-listener.js';
