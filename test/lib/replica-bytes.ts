// What lies in the pools: the same segments with the same bytes on every in-sync replica.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestNode, TestVolume } from './dev-cluster.js';

/** Names of a replica's segment files. */
function segmentsOf(node: TestNode, volume: TestVolume): string[] {
  return readdirSync(join(node.poolDir, 'replicas', volume.id))
    .filter((name) => name.endsWith('.seg'))
    .sort();
}

/** Compares the replicas of a volume that is not open anywhere. Throws naming the first difference; returns what was compared. */
export function compareReplicas(nodes: readonly TestNode[], volume: TestVolume): { segments: number; bytes: number } {
  const [first, ...others] = nodes;
  const names = segmentsOf(first!, volume);
  let bytes = 0;
  for (const other of others) {
    const theirs = segmentsOf(other, volume);
    if (theirs.join() !== names.join()) {
      throw new Error(
        `volume ${volume.id}: ${first!.id} holds ${names.join(' ')}; ${other.id} holds ${theirs.join(' ')}`,
      );
    }
  }
  for (const name of names) {
    const mine = readFileSync(join(first!.poolDir, 'replicas', volume.id, name));
    bytes += mine.length;
    for (const node of others) {
      const theirs = readFileSync(join(node.poolDir, 'replicas', volume.id, name));
      // Zeroes that were written ahead are cut off when a replica is opened or closed, not when its process is killed.
      const length = Math.max(mine.length, theirs.length);
      const [whole, other] = [Buffer.concat([mine], length), Buffer.concat([theirs], length)];
      if (whole.equals(other)) continue;
      const at = whole.findIndex((byte, i) => byte !== other[i]);
      throw new Error(
        `volume ${volume.id}: ${name} differs at byte ${at} between ${first!.id} (${mine.length} bytes) and ${node.id} (${theirs.length} bytes)`,
      );
    }
  }
  return { segments: names.length, bytes };
}
