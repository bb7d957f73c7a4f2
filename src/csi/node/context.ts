// What the calls of the node service share.

import type { NodeVolumesPorts } from '../../agent/index.js';
import type { KeyedLocks } from '../../rpc/index.js';

export interface NodeContext {
  readonly volumes: NodeVolumesPorts;
  /** One call at a time for each volume; a second is answered ABORTED at once. */
  readonly locks: KeyedLocks;
  /** 0: no limit. */
  readonly maxVolumes: number;
  /** Segments of NodeGetInfo. */
  readonly topology: Readonly<Record<string, string>>;
  /** What this node's pools report as wrong. */
  readonly poolProblems: () => Promise<readonly { readonly path: string; readonly problem: string }[]>;
}
