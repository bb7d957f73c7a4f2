// How many replicas a volume is to have, as the engine was last told.

import type { EngineVolume } from './engine-api.js';

export type CopyCounts = Pick<EngineVolume, 'replicas' | 'minReplicas'>;

/** How many have to be in sync besides one that is to leave. */
export function leastOf({ replicas = 1, minReplicas }: CopyCounts): number {
  return Math.max(replicas, minReplicas);
}

export function sameCopies(a: CopyCounts, b: CopyCounts): boolean {
  return a.replicas === b.replicas && a.minReplicas === b.minReplicas;
}

/** As superblocks have it among their parameters. */
export function copyParameters({ replicas, minReplicas }: CopyCounts): Record<string, string> {
  return { minReplicas: String(minReplicas), ...(replicas === undefined ? {} : { replicas: String(replicas) }) };
}
