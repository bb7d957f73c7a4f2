// Who may do what. A service states for each of its methods the roles that may call it; nothing is allowed that is not stated.

import { HoldfastError } from '../base/index.js';
import { type Identity, partOf, type Role, uriOf } from './identity.js';

/** An error says what was refused and who asked. */
const refused = (message: string) => new HoldfastError('PERMISSION_DENIED', message, { reason: 'WrongRole' });

/** Throws UNAUTHENTICATED/BadCertificate when a peer belongs to another cluster than this process. */
export function checkCluster(own: Identity, peer: Identity): void {
  if (own.cluster === peer.cluster) return;
  throw new HoldfastError('UNAUTHENTICATED', `${uriOf(peer)} belongs to another cluster than ${uriOf(own)}`, {
    reason: 'BadCertificate',
  });
}

/** Throws PERMISSION_DENIED/WrongRole unless `peer` has one of the roles. */
export function checkRole(peer: Identity, roles: readonly Role[], what: string): void {
  if (roles.includes(peer.role)) return;
  const who = roles.length === 0 ? 'nobody' : roles.join(' or ');
  throw refused(`${uriOf(peer)} may not ${what}: that is for ${who}`);
}

/** Throws PERMISSION_DENIED/WrongRole unless `peer` is this very part of the cluster. */
export function checkPart(peer: Identity, expected: Pick<Identity, 'role' | 'node'>, where: string): void {
  if (peer.role === expected.role && peer.node === expected.node) return;
  throw refused(`${where} is ${uriOf(peer)}, and not ${partOf(expected)} of the same cluster`);
}

/** Throws PERMISSION_DENIED/WrongRole unless the node that a peer says it is stands in its certificate; null: no certificate was asked for. */
export function checkNode(peer: Identity | null, node: string): void {
  if (peer === null || peer.node === node) return;
  throw refused(`${uriOf(peer)} may not speak for node ${node}`);
}
