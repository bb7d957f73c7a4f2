// What a ratio of lines 1 to 5 divides by what: ours by a peer, by the machine's floor or by a single client, in the same round.

import { ratios, short, spreadOf } from '../statistics.js';
import { byRound, rateOf } from '../volume/report.js';
import type { Samples } from '../volume/rounds.js';
import { type Workload, workloadOf } from '../volume/workload.js';

export interface Side {
  /** Of the system that is measured. */
  readonly name: string;
  readonly title: string;
}

export const ours = {
  h1: { name: 'holdfast-x1', title: 'H1' },
  h3: { name: 'holdfast-x3', title: 'H3' },
} as const;

export const peers = {
  nbdkit: { name: 'nbdkit-file', title: 'nbdkit file' },
  raw: { name: 'qemu-nbd-raw', title: 'qemu-nbd raw' },
  luks: { name: 'qemu-nbd-luks', title: 'qemu-nbd LUKS' },
  qcow2: { name: 'qemu-nbd-qcow2', title: 'qemu-nbd qcow2' },
} as const;

export type Own = keyof typeof ours;
export type Peer = keyof typeof peers;
/** A peer of this run; the floor of one file a copy; one client instead of many; Ceph in a former run. */
export type Base = Peer | 'floor' | 'one' | 'ceph';

export interface Compared {
  readonly of: 'rate' | 'cpu';
  readonly workload: string;
  readonly ours: Own;
  readonly base: Base;
}

/** What the figures are taken from. */
export interface PeersResult {
  readonly samples: Samples;
  readonly floor: ReadonlyMap<string, readonly number[]>;
  /** CPU time of a 4 KiB write at depth 32, from a former run; undefined when there is none. */
  readonly ceph: { readonly cpuUs: number; readonly when: string } | undefined;
}

const floorOf = { h1: 'sync', h3: 'sync-3' } as const;
const SINGLE = 'w4k-q1-flush';

export function isPeer(base: Base): base is Peer {
  return base in peers;
}

/** Round by round. */
function figures(of: Compared['of'], workload: Workload, { name }: Side, samples: Samples): (number | undefined)[] {
  const pick = of === 'cpu' ? ({ cpuUs }: { cpuUs: number }) => cpuUs : null;
  return byRound(samples.of(workload, { name }), (sample) => (pick ? pick(sample) : rateOf(workload, sample)));
}

function baseFigures({ of, workload, ours: own, base }: Compared, result: PeersResult): (number | undefined)[] {
  const what = workloadOf(workload);
  if (isPeer(base)) return figures(of, what, peers[base], result.samples);
  if (base === 'floor') return [...(result.floor.get(floorOf[own]) ?? [])];
  if (base === 'one') return figures(of, workloadOf(SINGLE), ours[own], result.samples);
  const { ceph } = result;
  return ceph === undefined ? [] : figures(of, what, ours[own], result.samples).map(() => ceph.cpuUs);
}

/** The ratio, round by round, and the two figures behind it. */
export function ratioOf(compared: Compared, result: PeersResult): { values: number[]; beside: string } {
  const what = workloadOf(compared.workload);
  const own = figures(compared.of, what, ours[compared.ours], result.samples);
  const base = baseFigures(compared, result);
  if (compared.base === 'ceph' && result.ceph === undefined)
    return { values: [], beside: 'no former run of Ceph on such a machine: npm run bench -- ceph' };
  const unit = compared.of === 'cpu' ? ' us' : what.unit === 'iops' ? '/s' : ' MB/s';
  const middle = (values: readonly (number | undefined)[]) =>
    `${short(spreadOf(values.filter((value) => value !== undefined))?.median ?? 0)}${unit}`;
  const when = compared.base === 'ceph' ? ` of ${result.ceph?.when}` : '';
  return { values: ratios(own, base), beside: `${middle(own)} : ${middle(base)}${when}` };
}
