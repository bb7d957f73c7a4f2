// What a seed stands for: the shape of the cluster and of its volumes, what its clients do, which faults there are and how often.

import { GiB, MiB } from '../../src/base/index.js';
import type { Cipher, Compression } from '../../src/format/index.js';
import { Chance } from '../lib/crash/virtual-time.js';
import type { LinkHabits } from './net.js';

export const faultKinds = [
  'kill',
  'torn-kill',
  'power',
  'power-all',
  'restart',
  'pause',
  'failover',
  'cut',
  'partition',
  'one-way',
  'flap',
  'slow-link',
  'controller-kill',
  'store-down',
  'store-unknown',
  'store-slow',
  'slow-disk',
  'stuck-sync',
  'write-error',
  'sync-error',
  'full',
  'bit-flip',
  'wipe',
  'lost-file',
  'swap',
  'rollback',
  'torn-join',
  'misdirected',
  'bad-sector',
] as const;
export type FaultKind = (typeof faultKinds)[number];

const later: readonly FaultKind[] = ['torn-join', 'misdirected', 'bad-sector'];

export interface Settings {
  readonly seed: number;
  readonly nodes: number;
  readonly replicas: number;
  readonly minReplicas: number;
  readonly volumes: number;
  readonly sizeBytes: number;
  readonly cipher: Cipher;
  readonly compression: Compression;
  /** Map pages in memory. */
  readonly pages: number;
  /** Virtual milliseconds of the safety phase, and clients' operations after which it ends sooner. */
  readonly safetyMs: number;
  readonly writesMost: number;
  /** Mean time between two faults. */
  readonly faultEveryMs: number;
  readonly faults: readonly FaultKind[];
  /** Clock rates within so much of 1, a tenth between the fastest and the slowest at most. */
  readonly drift: number;
  /** Every reply asks. */
  readonly leaseless: boolean;
  readonly net: LinkHabits;
  readonly sync: { readonly meanMs: number };
  /** Of each pool. In a small one the cleaner is always at work. */
  readonly poolBytes: number;
  readonly client: {
    /** Requests in flight at most. */
    readonly depth: number;
    readonly pauseMs: number;
    readonly registers: number;
    readonly registerShare: number;
    readonly readShare: number;
    readonly flushShare: number;
    readonly fuaShare: number;
    readonly trimShare: number;
    readonly orderShare: number;
    readonly largeShare: number;
  };
}

export function settingsOf(seed: number): Settings {
  const chance = new Chance(seed * 2 + 1);
  for (let i = 0; i < 5; i++) chance.next();
  const nodes = chance.pick([1, 3, 3, 3, 3, 5]);
  const replicas = nodes === 1 ? 1 : chance.pick([2, 3, 3, 3, 1]);
  const each = chance.pick([0.15, 0.3, 0.6]);
  const alone = new Set<FaultKind>([
    'failover',
    'cut',
    'partition',
    'one-way',
    'flap',
    'slow-link',
    'wipe',
    'lost-file',
    'swap',
    'rollback',
  ]);
  const faults = faultKinds.filter(
    (kind) => !later.includes(kind) && chance.hit(each) && !(nodes === 1 && alone.has(kind)),
  );
  const settings: Settings = {
    seed,
    nodes,
    replicas,
    minReplicas: replicas > 1 && chance.hit(0.2) ? 2 : 1,
    volumes: chance.hit(0.25) ? 2 : 1,
    sizeBytes: chance.pick([16 * MiB, 64 * MiB, 5 * GiB]),
    cipher: chance.pick(['none', 'aes-256-gcm', 'chacha20-poly1305']),
    compression: chance.pick(['none', 'lz4']),
    pages: chance.pick([8, 16, 64]),
    safetyMs: chance.pick([15_000, 30_000, 60_000]),
    writesMost: chance.pick([400, 1_500, 3_000]),
    faultEveryMs: chance.pick([500, 1_500, 4_000]),
    faults,
    drift: chance.pick([0, 0.02, 0.047]),
    leaseless: false,
    net: {
      leastMs: 0.05,
      meanMs: chance.pick([0.1, 0.5, 3]),
      slowShare: chance.pick([0, 0.01]),
      splitShare: chance.pick([0, 0.05]),
    },
    poolBytes: chance.hit(0.2) ? chance.pick([60, 72, 90]) * MiB : Number.MAX_SAFE_INTEGER,
    sync: { meanMs: chance.pick([0.2, 2, 10]) },
    client: {
      depth: chance.pick([1, 4, 32]),
      pauseMs: chance.pick([0.5, 5, 40]),
      registers: chance.pick([4, 32]),
      registerShare: chance.pick([0.3, 0.7]),
      readShare: chance.pick([0.1, 0.4]),
      flushShare: chance.pick([0, 0.03, 0.2]),
      fuaShare: chance.pick([0, 0.05, 0.5]),
      trimShare: chance.pick([0, 0.1]),
      orderShare: chance.pick([0, 0.01, 0.03]),
      largeShare: chance.pick([0, 0.02]),
    },
  };
  // Of what came later chance is asked last, so that the seeds before stay what they were.
  if (replicas > 1 && chance.hit(0.4)) faults.push('torn-join');
  if (replicas > 1 && chance.hit(each)) faults.push('misdirected');
  const leaseless = chance.hit(0.1);
  if (replicas > 1 && chance.hit(each)) faults.push('bad-sector');
  return { ...settings, leaseless };
}
