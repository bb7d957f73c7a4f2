// How node:tls is used here, for streams and for gRPC: TLS 1.3 alone, a certificate of the CA on both ends, names judged by us.

import { constants, X509Certificate } from 'node:crypto';
import type { TLSSocket } from 'node:tls';
import { HoldfastError, messageOf } from '../base/index.js';
import { checkCluster } from './access.js';
import type { Trust } from './certificates.js';
import type { Credentials } from './credentials.js';
import { type Identity, identityOf } from './identity.js';

/** What is worth keeping from others is sealed with 256 bits before it gets here; 128 cost a quarter less. */
const ciphers = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

/** For a secure context of either end. */
export function contextOptions({ ca, certificate, key }: Credentials) {
  return {
    ca,
    cert: certificate,
    key,
    minVersion: 'TLSv1.3',
    maxVersion: 'TLSv1.3',
    ciphers,
    // Every connection is verified anew: a certificate that has expired is not let in by an old session.
    secureOptions: constants.SSL_OP_NO_TICKET,
  } as const;
}

/**
 * For servers. Node would end the connection of a bad certificate by itself, but not say why: identifySocket() refuses it. Its time limit
 * for handshakes only tells that it has passed: Handshakes has its own.
 */
export const serverOptions = { requestCert: true, rejectUnauthorized: false } as const;

/** For clients: names are no hosts' names, so they are compared once the connection stands. */
export const clientOptions = { rejectUnauthorized: true, checkServerIdentity: () => undefined };

export function badHandshake(peer: string, why: string, cause?: unknown): HoldfastError {
  return new HoldfastError('UNAUTHENTICATED', `no secure connection with ${peer}: ${why}`, {
    reason: 'BadCertificate',
    cause,
  });
}

/** Why a handshake failed: OpenSSL's own text is "00:error:0A000418:SSL routines:ssl3_read_bytes:tlsv1 alert unknown ca:...". */
export function handshakeProblem(error: unknown): string {
  const text = messageOf(error);
  const reason = error instanceof Error && 'reason' in error && typeof error.reason === 'string' ? error.reason : '';
  if (reason === 'wrong version number' || reason === 'http request' || reason === 'packet length too long')
    return `the peer does not speak TLS (${reason})`;
  if (reason.includes('alert')) return `the peer ended the connection: ${reason.replace(/^(tls|ssl)v\d+ /, '')}`;
  if (/socket disconnected before secure|in the middle of the handshake/.test(text))
    return `the peer closed the connection in the handshake: it may have refused this certificate, which its log says then (${text})`;
  return reason === '' ? text : reason;
}

/**
 * Whom a verified certificate names. Throws UNAUTHENTICATED/BadCertificate when that is no part of this cluster, and when it has
 * expired by `nowMs`, for those who ask again on a connection that stands.
 */
export function identify(trust: Trust, der: Uint8Array, nowMs = 0): Identity {
  const certificate = new X509Certificate(der);
  if (nowMs > Date.parse(certificate.validTo))
    throw new HoldfastError(
      'UNAUTHENTICATED',
      'the certificate of this connection has expired: connect with a new one',
      {
        reason: 'BadCertificate',
      },
    );
  const identity = identityOf(certificate);
  checkCluster(trust.current.identity, identity);
  return identity;
}

/** The same of a socket whose handshake is done. Throws for a certificate that was not verified, and for none, too. */
export function identifySocket(trust: Trust, socket: TLSSocket): Identity {
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined)
    throw new HoldfastError('UNAUTHENTICATED', 'it has shown no certificate', { reason: 'BadCertificate' });
  if (!socket.authorized) {
    const why = `its certificate was refused: ${verifyProblem(socket.authorizationError)}`;
    throw new HoldfastError('UNAUTHENTICATED', why, { reason: 'BadCertificate' });
  }
  return identify(trust, certificate.raw);
}

/** OpenSSL's name for it, such as CERT_HAS_EXPIRED. */
function verifyProblem(error: unknown): string {
  const text = error instanceof Error && 'code' in error ? String(error.code) : String(error);
  return text.toLowerCase().replaceAll('_', ' ');
}
