// Versions of the replica protocol.
//
//   1  first
//
// A connection begins in HELLO_VERSION, which never changes: HELLO names a range, the answer the highest version of it that the
// server speaks, too, and every message after that is of the version agreed on.

import type { VersionRange } from '../base/index.js';

export const PROTOCOL: VersionRange = { min: 1, max: 1 };
export const HELLO_VERSION = 1;
