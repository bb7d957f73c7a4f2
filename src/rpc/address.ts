// Where a gRPC server listens: unix:///absolute/path (also unix:/path and a bare /path, as CSI_ENDPOINT is written in the
// wild) or host:port (also tcp://host:port). Everything else is refused with a sentence.

import { isIP } from 'node:net';
import { invalid, printable } from '../base/index.js';

export type Address =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** sockaddr_un.sun_path is 108 bytes on Linux, a closing NUL among them; a longer path would be cut silently. */
export const UNIX_PATH_MAX = 107;

function unixAddress(path: string, text: string): Address {
  if (!path.startsWith('/')) throw invalid(`unix socket address ${printable(text)} must hold an absolute path`);
  if (path.includes('\0')) throw invalid(`unix socket address ${printable(text)} holds a NUL character`);
  const length = Buffer.byteLength(path);
  if (length > UNIX_PATH_MAX) {
    throw invalid(
      `unix socket path ${printable(path)} is ${length} bytes long, the system allows ${UNIX_PATH_MAX}; choose a shorter directory`,
    );
  }
  return { kind: 'unix', path };
}

/** Throws INVALID_ARGUMENT for text that is no address. Port 0 (any free one) is for listening only. */
export function parseAddress(text: string): Address {
  if (text.startsWith('unix://')) return unixAddress(text.slice('unix://'.length), text);
  if (text.startsWith('unix:')) return unixAddress(text.slice('unix:'.length), text);
  if (text.startsWith('/')) return unixAddress(text, text);
  const bare = text.startsWith('tcp://') ? text.slice('tcp://'.length) : text;
  const match = /^(?:\[([0-9a-fA-F:.%]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})$/.exec(bare);
  const host = match?.[1] ?? match?.[2];
  const port = Number(match?.[3]);
  if (host === undefined || port > 65535 || (match?.[1] !== undefined && isIP(host) !== 6)) {
    throw invalid(`${printable(text)} is no address; write unix:///path/to.sock or host:port`);
  }
  return { kind: 'tcp', host, port };
}

export function formatAddress(address: Address): string {
  if (address.kind === 'unix') return `unix://${address.path}`;
  return address.host.includes(':') ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}
