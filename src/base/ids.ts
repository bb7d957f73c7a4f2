// Identifiers are branded strings, so that a pool's id can't be handed in where a volume's is wanted. All but node ids
// are lower-case UUIDs (RFC 9562) with dashes in text and 16 raw bytes on disk and on the wire.

import { HoldfastError } from './errors.js';

export type VolumeId = string & { readonly brand: 'VolumeId' };
export type LineageId = string & { readonly brand: 'LineageId' };
export type PoolId = string & { readonly brand: 'PoolId' };
export type ReplicaId = string & { readonly brand: 'ReplicaId' };
export type IncarnationId = string & { readonly brand: 'IncarnationId' };
export type SnapshotId = string & { readonly brand: 'SnapshotId' };
export type GroupId = string & { readonly brand: 'GroupId' };
export type ReignId = string & { readonly brand: 'ReignId' };
export type NodeId = string & { readonly brand: 'NodeId' };

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
// A node's name is a DNS subdomain (Kubernetes object names), so it is safe in a path.
const nodePattern = /^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$/;

export const zeroUuid = '00000000-0000-0000-0000-000000000000';

export function isUuid(text: string): boolean {
  return uuidPattern.test(text);
}

/** Checks untrusted text before it can touch a path or a key. Throws INVALID_ARGUMENT naming `what`. */
export function parseUuid<T extends string>(text: unknown, what: string): T {
  if (typeof text !== 'string' || !uuidPattern.test(text)) {
    throw new HoldfastError('INVALID_ARGUMENT', `${what} is not a lower-case UUID: ${printable(text)}`, {
      reason: 'BadField',
    });
  }
  return text as T;
}

/** Checks a node name (a lower-case DNS subdomain of at most 253 characters). Throws INVALID_ARGUMENT. */
export function parseNodeId(text: unknown): NodeId {
  if (typeof text !== 'string' || !nodePattern.test(text) || text.includes('..')) {
    throw new HoldfastError('INVALID_ARGUMENT', `node id is not a DNS subdomain name: ${printable(text)}`, {
      reason: 'BadField',
    });
  }
  return text as NodeId;
}

/** 16 random bytes as a UUID of version 4. */
export function uuidFromRandom(bytes: Uint8Array): string {
  const copy = Buffer.from(bytes.subarray(0, 16));
  copy[6] = (copy[6]! & 0x0f) | 0x40;
  copy[8] = (copy[8]! & 0x3f) | 0x80;
  return uuidFromBytes(copy, 0);
}

export function uuidFromBytes(bytes: Buffer, offset: number): string {
  const hex = bytes.toString('hex', offset, offset + 16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

export function uuidToBytes(uuid: string, into: Buffer, offset: number): void {
  into.write(uuid.replaceAll('-', ''), offset, 16, 'hex');
}

/** Untrusted text made fit for an error message: quoted, control characters escaped, at most 120 characters. */
export function printable(value: unknown): string {
  if (typeof value !== 'string') return value === undefined ? 'nothing' : (JSON.stringify(value)?.slice(0, 120) ?? '?');
  const short = value.length > 120 ? `${value.slice(0, 117)}...` : value;
  return JSON.stringify(short);
}
