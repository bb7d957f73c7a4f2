// Where nodes are, as labels. Keys compare without regard to letter case, values exactly, as CSI has it.

import { invalid, type NodeId, printable } from '../base/index.js';

export type Segments = Readonly<Record<string, string>>;

/** Names one node; every node carries it, whether its daemon reported it or not. */
export const NODE_LABEL = 'topology.holdfast.io/node';

export interface TopologyWish {
  /** At least one of them must reach the volume; empty = no demand. */
  readonly requisite: readonly Segments[];
  /** Most wanted first. */
  readonly preferred: readonly Segments[];
}

export const anywhere: TopologyWish = { requisite: [], preferred: [] };

export interface Located {
  readonly id: NodeId;
  readonly topology: Segments;
}

/** The value of label `key` at a node, or undefined. */
export function labelOf(node: Located, key: string): string | undefined {
  const wanted = key.toLowerCase();
  if (wanted === NODE_LABEL) return node.id;
  for (const [label, value] of Object.entries(node.topology)) if (label.toLowerCase() === wanted) return value;
  return undefined;
}

/** Whether a node lies within all of `segments`. */
export function matches(node: Located, segments: Segments): boolean {
  return Object.entries(segments).every(([key, value]) => labelOf(node, key) === value);
}

/** "zone a, rack 7", for messages. */
export function describeSegments(segments: Segments): string {
  return Object.entries(segments)
    .map(([key, value]) => `${key} ${printable(value)}`)
    .join(', ');
}

/** Throws INVALID_ARGUMENT for a topology that says nothing. */
export function checkWish(wish: TopologyWish): void {
  for (const segments of [...wish.requisite, ...wish.preferred]) {
    if (Object.keys(segments).length === 0)
      throw invalid('accessibility_requirements holds a topology without segments');
  }
}
