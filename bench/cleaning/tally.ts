// What a simulation of the cleaner counts, and the figures that are made of it.

import { BLOCK_SIZE } from '../../src/base/index.js';
import type { CheckpointBytes } from './simulated-map.js';

/** Bytes to the pool per client byte; the parts add up to `amplification`. */
export interface SimulationResult {
  readonly amplification: number;
  /** Records of clients, with all that goes with them into a frame. */
  readonly written: number;
  /** The same of records moved for the first time since their block was written, the second, the third or a later one. */
  readonly moved: number;
  readonly movedBefore: readonly [number, number, number];
  readonly checkpoints: number;
  readonly checkpointParts: CheckpointBytes;
  /** Headers and indexes of segments: of bursts that ended one early, too. */
  readonly segments: number;
  /** Of records, clients' and moved ones: what is not data (headers, tags, frames, indexes, move entries). */
  readonly headers: number;
  /** Log between two checkpoints, bytes. */
  readonly checkpointEvery: number;
  /** Live share of what was cleaned, by bytes. */
  readonly victimsLive: number;
  /** Of the pool: what was neither stored in nor could be, in the middle. */
  readonly unused: number;
}

const counters = [
  'log',
  'client',
  'written',
  'moves0',
  'moves1',
  'moves2',
  'records',
  'whole',
  'deltas',
  'lists',
  'checkpoints',
  'cleaned',
  'cleanedLive',
  'free',
  'looks',
] as const;
/** Bytes mostly; all only grow. */
export type Counts = Record<(typeof counters)[number], number>;
export const noCounts = () => Object.fromEntries(counters.map((name) => [name, 0])) as Counts;

/** Of what happened between two moments. */
export function resultOf(before: Counts, after: Counts, capacity: number, scale: number): SimulationResult {
  const grown = (...names: (keyof Counts)[]) => names.reduce((sum, name) => sum + after[name] - before[name], 0);
  const client = grown('client');
  const share = (...names: (keyof Counts)[]) => grown(...names) / client;
  const checkpoints = share('whole', 'deltas', 'lists');
  const moved = share('moves0', 'moves1', 'moves2');
  return {
    amplification: share('log'),
    written: share('written'),
    moved,
    movedBefore: [share('moves0'), share('moves1'), share('moves2')],
    checkpoints,
    checkpointParts: { whole: share('whole'), deltas: share('deltas'), lists: share('lists') },
    segments: share('log') - share('written') - moved - checkpoints,
    headers: share('written') + moved - (grown('records') * BLOCK_SIZE) / client,
    checkpointEvery: (grown('log') / Math.max(1, grown('checkpoints'))) * scale,
    victimsLive: grown('cleanedLive') / Math.max(1, grown('cleaned')),
    unused: grown('free') / Math.max(1, grown('looks')) / capacity,
  };
}
