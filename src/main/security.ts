// The flags by which a process has its certificates, the same for all: --tls-dir, or --insecure in its place.

import { existsSync } from 'node:fs';
import { isIPv4 } from 'node:net';
import { type Clock, invalid, type Logger, precondition } from '../base/index.js';
import { type CallSecurity, parseAddress } from '../rpc/index.js';
import { Certificates, type Identity, type Trust } from '../trust/index.js';
import type { FlagSpec, Flags } from './flags.js';

export const DEFAULT_TLS_DIR = '/etc/holdfast/tls';

export const securityFlags: FlagSpec = {
  'tls-dir': { type: 'string', env: 'HOLDFAST_TLS_DIR' },
  insecure: { type: 'boolean' },
};

export const securityUsage = `  --tls-dir DIR                ca.crt, tls.crt and tls.key of this      HOLDFAST_TLS_DIR
                               process (${DEFAULT_TLS_DIR})
  --insecure                   speak in plain text, within this machine only
`;

/** Where the certificates are; null: there are none, and everything is plain text. */
export type TlsDirectory = string | null;

/** No variable of the environment opens a process to everybody: that is said on its command line, or not at all. */
export function tlsDirectory(flags: Flags): TlsDirectory {
  const named = flags.optional('tls-dir');
  if (!flags.isSet('insecure')) return named ?? DEFAULT_TLS_DIR;
  if (named === undefined) return null;
  throw precondition(`plain text (--insecure) and certificates (${named}) were both asked for: choose one`);
}

/** Where CSI is served: orders and keys come in by it, and it has no TLS. Throws INVALID_ARGUMENT. */
export function csiAddress(address: string, tls: TlsDirectory): string {
  if (parseAddress(address).kind === 'unix' || (tls === null && isWithinMachine(address))) return address;
  throw invalid(`--csi-address ${address} would take orders and keys in plain text from anybody: give unix:///path`);
}

/** Where `flag` has this process listen or call: plain text never leaves the machine. Throws INVALID_ARGUMENT. */
export function peerAddress(flag: string, address: string, tls: TlsDirectory): string {
  if (tls !== null || isWithinMachine(address)) return address;
  throw invalid(
    `--${flag} ${address} can be reached from elsewhere, and --insecure speaks plain text with anybody: ` +
      'give certificates (--tls-dir) in its place, or an address of 127.0.0.0/8 or ::1',
  );
}

/** Names are not looked up: what they stand for may change. */
function isWithinMachine(address: string): boolean {
  const parsed = parseAddress(address);
  return parsed.kind === 'unix' || parsed.host === '::1' || (isIPv4(parsed.host) && parsed.host.startsWith('127.'));
}

/** For calls of the controller. */
export function toController(trust: Trust | null): CallSecurity | null {
  return trust === null ? null : { trust, server: { role: 'controller', node: null } };
}

/**
 * The certificates of this process, looked after until stop(); null in plain text, which is said in the log. Throws
 * FAILED_PRECONDITION/BadCertificate or PERMISSION_DENIED/WrongRole.
 */
export function openCertificates(
  directory: TlsDirectory,
  part: Pick<Identity, 'role' | 'node'>,
  ports: { readonly clock: Clock; readonly logger: Logger },
): Certificates | null {
  if (directory === null) {
    ports.logger.warn({}, 'nothing between processes is encrypted, and nobody is asked who they are (--insecure)');
    return null;
  }
  if (!existsSync(directory)) {
    throw precondition(
      `there are no certificates in ${directory}: make them with "holdfast certs" or another issuer, name their directory ` +
        'with --tls-dir (--insecure does without, within one machine)',
      'BadCertificate',
    );
  }
  const certificates = new Certificates({ directory, part, ...ports });
  certificates.start();
  return certificates;
}
