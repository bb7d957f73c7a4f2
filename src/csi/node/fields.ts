// Fields of CSI node requests, checked before anything is done with them: what is missing or malformed is INVALID_ARGUMENT, an
// id that can't be one of ours is NOT_FOUND (the volume it names does not exist).

import { isAbsolute, normalize } from 'node:path';
import type { AccessType } from '../../agent/index.js';
import { invalid, isUuid, notFound, precondition, printable, type VolumeId } from '../../base/index.js';
import type { csi } from '../../rpc/index.js';

type Capability = csi.VolumeCapability__Output | null;
export type AccessMode = NonNullable<csi.VolumeCapability__Output['access_mode']>['mode'];

/** CSI bounds strings to 128 bytes (ids) and paths by what the system takes. */
const pathBytesMax = 4096;

export function requireVolumeId(text: string): string {
  if (text === '') throw invalid('volume_id is missing');
  return text;
}

/** Call after the other required fields were seen: an unknown id is only then the caller's first mistake. */
export function knownVolumeId(text: string): VolumeId {
  if (!isUuid(text)) throw notFound(`there is no volume ${printable(text)}`);
  return text as VolumeId;
}

export function requirePath(text: string, field: string): string {
  if (text === '') throw invalid(`${field} is missing`);
  if (Buffer.byteLength(text) > pathBytesMax) throw invalid(`${field} is longer than ${pathBytesMax} bytes`);
  return text;
}

/** A path that is acted on: absolute, plain, without steps upwards. */
export function actionPath(text: string, field: string): string {
  const path = requirePath(text, field);
  const isNormal = isAbsolute(path) && normalize(path).replace(/\/$/, '') === path.replace(/\/$/, '');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  const plain = isNormal && !/[\0-\x1f\x7f]/.test(path);
  if (!plain || path === '/') throw invalid(`${field} must be a plain absolute path: ${printable(path)}`);
  return path.replace(/\/$/, '');
}

export interface Access {
  readonly type: AccessType;
  readonly mode: AccessMode;
}

/** FAILED_PRECONDITION for access modes that no volume here has. */
export function requireAccess(capability: Capability): Access {
  if (!capability) throw invalid('volume_capability is missing');
  const mode = capability.access_mode?.mode ?? 'UNKNOWN';
  if (mode === 'UNKNOWN') throw invalid('volume_capability has no access mode');
  if (mode.startsWith('MULTI_NODE_')) {
    throw precondition(`access mode ${mode} is not supported: a volume is attached to one node at a time`);
  }
  if (capability.block) return { type: { kind: 'block' }, mode };
  if (!capability.mount) throw invalid('volume_capability has neither block nor mount');
  const { fs_type: fsType, mount_flags: mountFlags } = capability.mount;
  return { type: { kind: 'mount', fsType, mountFlags }, mode };
}

export function isReadOnlyMode(mode: AccessMode): boolean {
  return mode === 'SINGLE_NODE_READER_ONLY';
}
