// Who a process is: the name in its certificate. The names are SPIFFE IDs (SPIFFE-ID and X509-SVID of the SPIFFE project, sections
// 2 and 2 there): one URI in the subject alternative name, whose host is the cluster and whose path is the role:
//
//   spiffe://<cluster>/holdfast/controller
//   spiffe://<cluster>/holdfast/storage/<node>
//   spiffe://<cluster>/holdfast/node/<node>
//   spiffe://<cluster>/holdfast/operator
//
// So any issuer that can put a URI into a certificate will do: `holdfast certs`, cert-manager, SPIRE.

import type { X509Certificate } from 'node:crypto';
import { HoldfastError, invalid, type NodeId, parseNodeId, printable } from '../base/index.js';

/** `operator`: people and their tools, who look but do not change. */
export const roles = ['controller', 'storage', 'node', 'operator'] as const;
export type Role = (typeof roles)[number];

export interface Identity {
  /** SPIFFE calls it the trust domain. */
  readonly cluster: string;
  readonly role: Role;
  /** Of storage daemons and node plugins; null for the others. */
  readonly node: NodeId | null;
}

/** What a trust domain may hold. */
const clusterPattern = /^[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?$/;
const uriPattern = /^spiffe:\/\/([^/]+)\/holdfast\/([a-z]+)(?:\/([^/]+))?$/;

export function hasNode(role: Role): boolean {
  return role === 'storage' || role === 'node';
}

/** Throws INVALID_ARGUMENT. */
export function parseCluster(text: string): string {
  if (clusterPattern.test(text)) return text;
  throw invalid(
    `a cluster's name has 1 to 253 of a-z, 0-9, '.', '_' and '-', the first and last being neither of these three; not ${printable(text)}`,
  );
}

/** "controller", "storage/<node>" and so on, as it stands in a name and on command lines. Throws INVALID_ARGUMENT. */
export function parsePart(text: string): Pick<Identity, 'role' | 'node'> {
  const [name, node, ...more] = text.split('/');
  const role = roles.find((one) => one === name);
  if (role === undefined || more.length > 0 || hasNode(role) !== (node !== undefined)) {
    throw invalid(`${printable(text)} is none of controller, operator, storage/NODE and node/NODE`);
  }
  return { role, node: node === undefined ? null : parseNodeId(node) };
}

export function partOf({ role, node }: Pick<Identity, 'role' | 'node'>): string {
  return node === null ? role : `${role}/${node}`;
}

export function uriOf(identity: Identity): string {
  return `spiffe://${identity.cluster}/holdfast/${partOf(identity)}`;
}

function parseUri(uri: string): Identity {
  const match = uriPattern.exec(uri);
  if (match === null) throw invalid(`${printable(uri)} names no part of Holdfast`);
  return {
    cluster: parseCluster(match[1]!),
    ...parsePart(match[3] === undefined ? match[2]! : `${match[2]}/${match[3]}`),
  };
}

/**
 * Whom a certificate names. Its chain must have been verified already. Throws UNAUTHENTICATED/BadCertificate when it has not exactly
 * one URI, or one that names no part of Holdfast.
 */
export function identityOf(certificate: X509Certificate): Identity {
  // Node quotes a name that holds a comma, so what is split here in the wrong place can't be taken for a URI.
  const uris = (certificate.subjectAltName ?? '').split(', ').filter((name) => name.startsWith('URI:'));
  try {
    if (uris.length !== 1) throw invalid(`it has ${uris.length} URIs, and must have one`);
    return parseUri(uris[0]!.slice('URI:'.length));
  } catch (cause) {
    throw new HoldfastError(
      'UNAUTHENTICATED',
      `the certificate ${printable(certificate.subject.replaceAll('\n', ', '))} names nobody: ${cause instanceof Error ? cause.message : cause}`,
      { reason: 'BadCertificate', cause },
    );
  }
}
