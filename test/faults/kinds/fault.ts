// A kind of fault: strikes, and heals itself before it ends; what was hit may still be catching up then.

import type { Chance } from '../chance.js';
import type { Rig, Struck } from '../rig.js';

/** Longest times without an answer, ms, that issue and design allow: for the volume whose engine was hit, and for others. */
export interface PauseLimits {
  readonly engineMs?: number;
  readonly replicaMs?: number;
  readonly failoverMs?: number;
}

export interface Fault {
  readonly kind: string;
  readonly weight: number;
  /** A second fault of this kind may strike another node at the same time, and no promise is exceeded. */
  readonly pairs: boolean;
  readonly limits?: PauseLimits;
  /** Why it can't be had on this rig; empty when it can. */
  missing?(rig: Rig): string;
  /** `spared`: a node that it must not hit. */
  strike(rig: Rig, chance: Chance, spared?: string): Promise<Struck>;
}

/** Nodes with an engine are hit more often than others. */
export function victim(rig: Rig, chance: Chance, spared?: string): string {
  const nodes = rig.nodes.map(({ id }) => id).filter((id) => id !== spared);
  const engines = nodes.filter((id) => rig.loadsAt(id).length > 0);
  return chance.pick(engines.length > 0 && chance.hit(0.5) ? engines : nodes);
}
