// What makes a net a secured one.

import type { Logger } from '../base/index.js';
import type { Trust } from '../trust/index.js';

export interface StreamSecurity {
  readonly trust: Trust;
  /** Told of peers that were refused. */
  readonly logger: Logger;
  /** Records that one key seals; as many as are safe, without it. For tests. */
  readonly recordsPerKey?: number;
}
