// Versions of the holdfast.v1 services, named with every call. Fields and methods that are added don't raise them: who does not know a
// field leaves it, who does not know a method answers UNIMPLEMENTED. What an older part would do wrong does.
//
//   1  first

import type { Metadata } from '@grpc/grpc-js';
import { commonVersion, type VersionRange } from '../base/index.js';

export const API: VersionRange = { min: 1, max: 1 };
const KEY = 'holdfast-versions';
/** Of a caller that names none: holdfast.v1 began with 1. */
const UNNAMED: VersionRange = { min: 1, max: 1 };
const OURS = 'holdfast.';

/** To be sent with a call of the method at `path`. */
export function nameVersions(metadata: Metadata, path: string): void {
  if (path.startsWith(`/${OURS}`)) metadata.set(KEY, `${API.min}-${API.max}`);
}

/** Throws FAILED_PRECONDITION/UnknownVersion when the caller of a service of ours speaks no version that this process speaks. */
export function checkVersions(service: string, caller: string, metadata: Metadata | undefined): void {
  if (!service.startsWith(OURS)) return;
  const named = /^(\d{1,9})-(\d{1,9})$/.exec(String(metadata?.get(KEY)[0] ?? ''));
  const theirs = named === null ? UNNAMED : { min: Number(named[1]), max: Number(named[2]) };
  commonVersion(service, caller, theirs, API);
}
