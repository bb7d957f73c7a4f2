// Versions of what outlives a process or is spoken between two: the rule is in src/decisions/038.

import { HoldfastError } from './errors.js';

/** Both ends included. */
export interface VersionRange {
  readonly min: number;
  readonly max: number;
}

const inWords = ({ min, max }: VersionRange) => (min === max ? `version ${max}` : `versions ${min} to ${max}`);

/** FAILED_PRECONDITION/UnknownVersion for something at rest that another release wrote, and of which nothing was changed. */
export function unknownVersion(what: string, found: number, known: VersionRange): HoldfastError {
  const newer = `use a release of Holdfast that knows version ${found}: the one that wrote it, or the next`;
  const older = `use the release before this one first, which brings it to version ${known.min}`;
  return new HoldfastError(
    'FAILED_PRECONDITION',
    `${what} is of version ${found}, this program knows ${inWords(known)}: ${found > known.max ? newer : older}; nothing was changed`,
    { reason: 'UnknownVersion' },
  );
}

/**
 * The highest version that both speak. FAILED_PRECONDITION/UnknownVersion, in words for either side, when there is none. `what` is
 * spoken between us and `peer`.
 */
export function commonVersion(what: string, peer: string, theirs: VersionRange, ours: VersionRange): number {
  const version = Math.min(theirs.max, ours.max);
  if (version >= theirs.min && version >= ours.min) return version;
  const behind = theirs.max < ours.min ? peer : 'the other side';
  throw new HoldfastError(
    'FAILED_PRECONDITION',
    `${peer} speaks ${inWords(theirs)} of ${what}, this process ${inWords(ours)}: upgrade ${behind} one release at a time, neighbours understand each other`,
    { reason: 'UnknownVersion' },
  );
}
