// What one run did, in numbers.

import type { Sim } from './sim.js';

export interface Outcome {
  readonly seed: number;
  /** Of everything that happened: equal for two runs of a seed. */
  readonly hash: string;
  readonly simulatedMs: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly cases: Readonly<Record<string, number>>;
  readonly counts: Readonly<Record<string, number>>;
}

/** Ends the run's trace. */
export function outcomeOf(sim: Sim): Outcome {
  const counts: Record<string, number> = {};
  const add = (name: string, count: number) => {
    counts[name] = (counts[name] ?? 0) + count;
  };
  for (const client of sim.clients) for (const [name, count] of Object.entries(client.counts)) add(name, count);
  for (const volume of sim.volumes) {
    add('floors', volume.checkedFloors);
    add('registerReads', volume.registers.checkedReads);
    add('registerWrites', volume.registers.checkedWrites);
    add('eras', volume.era);
  }
  // Volumes of one lineage share theirs.
  for (const seals of new Set(sim.volumes.map((volume) => volume.seals))) add('seals', seals.size);
  const { faults, cases } = sim.trace;
  return { seed: sim.settings.seed, hash: sim.trace.end(), simulatedMs: sim.time.now, faults, cases, counts };
}
