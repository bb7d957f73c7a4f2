// What the project holds itself to, line by line: H1 is one copy, H3 three replica processes on one machine, everything on
// (AES-256-GCM, LZ4, checksums), data 50 % compressible unless said. Ratios are to a peer with its flush honoured.

import { MiB } from '../../src/base/index.js';
import { workloadOf } from '../volume/workload.js';
import { type Base, isPeer, type Own, ours, peers } from './compared.js';
import type { FigureUnit, Rule, Target } from './target.js';

function row(line: number, id: string, text: string, rule: Rule, value: number, unit: FigureUnit): Target {
  return { line, id, text, rule, value, unit };
}
const least = (line: number, id: string, text: string, value: number) => row(line, id, text, 'at least', value, 'x');
const most = (line: number, id: string, text: string, value: number, unit: FigureUnit) =>
  row(line, id, text, 'at most', value, unit);
const holds = (line: number, id: string, text: string) => row(line, id, text, 'at least', 1, 'yes/no');

const baseTitle = {
  floor: 'fdatasync of as many files',
  one: 'one client',
  ceph: 'Ceph RBD with three copies',
} as const;

function titleOf(workload: string, own: Own, base: Base): string {
  const other = isPeer(base) ? peers[base].title : baseTitle[base];
  return `${workloadOf(workload).title}, ${ours[own].title} / ${other}`;
}

/** Ours as fast as so many of the other. */
function speed(line: number, workload: string, own: Own, base: Base, value: number, aim?: number): Target {
  const target = least(line, `${workload}.${own}.${base}`, titleOf(workload, own, base), value);
  const compares = { of: 'rate', workload, ours: own, base } as const;
  return aim === undefined ? { ...target, compares } : { ...target, compares, aim };
}

/** CPU time of an operation of ours in that of the other's. */
function burden(line: number, workload: string, own: Own, base: Base, value: number): Target {
  const target = most(line, `cpu.${workload}.${own}.${base}`, `CPU, ${titleOf(workload, own, base)}`, value, 'x');
  return { ...target, compares: { of: 'cpu', workload, ours: own, base } };
}

/** "As fast as": what repeated measurements of one and the same thing differ by on a shared machine. */
export const SAME_MOST = 1.15;
export const SAME_LEAST = 0.9;
const AS_FAST = '"as fast as" taken as';
/** Longest that a request may take at the 99th percentile while one replica's disk writes 50 MB/s. */
export const THROTTLED_P99_MS = 1_000;

/** Volumes whose snapshots, clones and attachments are timed, by the data in them. */
export const snapshotSizes = [64 * MiB, 512 * MiB, 2048 * MiB] as const;
export const snapshotSizesQuick = [64 * MiB, 256 * MiB] as const;

const write: readonly Target[] = [
  speed(1, 'w4k-q32', 'h1', 'nbdkit', 1.3),
  speed(1, 'w4k-q32', 'h3', 'nbdkit', 0.7, 1),
  speed(2, 'w4k-q1', 'h1', 'raw', 1.5),
  speed(2, 'w4k-q1', 'h3', 'raw', 0.8, 1),
  speed(2, 'w4k-q1-flush', 'h1', 'raw', 1),
  speed(2, 'w4k-q1-flush', 'h1', 'floor', 0.6),
  speed(2, 'w4k-q1-flush', 'h3', 'floor', 0.6),
  speed(2, 'w4k-c32-flush', 'h1', 'one', 8),
  speed(2, 'w4k-c32-flush', 'h3', 'one', 8),
];

const read: readonly Target[] = [
  speed(3, 'r4k-q32', 'h1', 'nbdkit', 1),
  speed(3, 'r4k-q32', 'h3', 'nbdkit', 1),
  speed(3, 'r4k-q1', 'h1', 'raw', 1),
  speed(3, 'r4k-q1', 'h3', 'raw', 1),
  speed(3, 'r4k-q1-cold', 'h1', 'raw', 0.9),
  speed(3, 'r4k-q1-cold', 'h3', 'raw', 0.9),
  speed(3, 'r4k-q32-cold', 'h1', 'raw', 0.9),
  speed(3, 'r4k-q32-cold', 'h3', 'raw', 0.9),
];

const large: readonly Target[] = [
  speed(4, 'w128k-q8', 'h1', 'luks', 2.5),
  speed(4, 'w128k-q8', 'h3', 'luks', 1.2),
  speed(4, 'r128k-q8', 'h1', 'luks', 3),
  speed(4, 'r128k-q8', 'h3', 'luks', 3),
];

const cpu: readonly Target[] = [
  burden(5, 'w4k-q32', 'h1', 'nbdkit', 1),
  burden(5, 'w4k-q32', 'h3', 'nbdkit', 2.5),
  burden(5, 'w4k-q32', 'h1', 'ceph', 0.03),
  burden(5, 'w4k-q32', 'h3', 'ceph', 0.03),
  burden(5, 'w4k-q1', 'h3', 'raw', 2),
  holds(5, 'cpu.budget', 'the budget of a write by stage is printed'),
];

const tax: readonly Target[] = [
  most(6, 'tax.encryption', 'encryption, of 4K writes QD32', 0.1, '%'),
  most(6, 'tax.checksums', 'checksums, of the CPU of 4K writes QD32', 0.03, '%'),
  most(6, 'tax.lz4', 'LZ4 on incompressible data, of 4K writes QD32', 0.1, '%'),
];

const calm: readonly Target[] = [
  most(7, 'latency.write.h1', 'p99 / p50 of 4K writes at 70 % of peak, H1', 5, 'x'),
  most(7, 'latency.write.h3', 'p99 / p50 of 4K writes at 70 % of peak, H3', 5, 'x'),
  most(7, 'latency.read.h1', 'p99 / p50 of 4K reads at 70 % of peak, H1', 5, 'x'),
  most(7, 'latency.read.h3', 'p99 / p50 of 4K reads at 70 % of peak, H3', 5, 'x'),
  most(7, 'background.snapshots', '4K writes QD32 lost to a snapshot every second, H3', 0.2, '%'),
  most(7, 'background.scrub', '4K writes QD32 lost to scrubbing, H1', 0.2, '%'),
  most(7, 'background.cleaning', '4K writes QD32 lost to cleaning, H1', 0.2, '%'),
];

const wear: readonly Target[] = [
  most(8, 'amplification.uniform-50', 'write amplification, uniform, 50 % full', 1.4, 'x'),
  most(8, 'amplification.uniform-80', 'write amplification, uniform, 80 % full', 3, 'x'),
  most(8, 'amplification.skewed-80', 'write amplification, 80/20, 80 % full', 2, 'x'),
  most(8, 'throttled.dropped', 'replicas dropped, one disk at 50 MB/s', 0, ''),
  most(8, 'throttled.pauses', 'stalls of a lease, one disk at 50 MB/s', 0, ''),
  most(8, 'throttled.p99', 'p99 of a 4K write QD32, one disk at 50 MB/s', THROTTLED_P99_MS, 'ms'),
];

const bounded: readonly Target[] = [
  most(9, 'attach.tib.rss', 'daemon RSS, full 1 TiB (simulated map) attached', 512, 'MiB'),
  most(9, 'attach.tib.time', 'attach of that volume', 2_000, 'ms'),
  most(9, 'idle.cpu-100', 'CPU of all processes with 100 idle volumes, of one core', 0.01, '%'),
];

const snapshots: readonly Target[] = [
  most(10, 'snapshot.create', 'snapshot, slowest of all sizes', 100, 'ms'),
  most(10, 'snapshot.delete', 'snapshot deletion, slowest of all sizes', 100, 'ms'),
  most(10, 'snapshot.clone', 'clone, slowest of all sizes', 100, 'ms'),
  most(10, 'snapshot.clone-segment', 'clone, each further segment and replica', 20, 'us'),
  most(
    10,
    'snapshot.last-first',
    `last 100 of 10,000 snapshots / first 100, time of each (${AS_FAST} <= ${SAME_MOST})`,
    SAME_MOST,
    'x',
  ),
  least(
    10,
    'snapshot.reads',
    `4K reads QD32 under 10,000 snapshots / without (${AS_FAST} >= ${SAME_LEAST})`,
    SAME_LEAST,
  ),
];

const space: readonly Target[] = [
  most(11, 'space.discard', 'pool files 60 s after a full discard, of the fill', 0.05, '%'),
  most(11, 'space.deletion', 'pool files 60 s after deletion, of the fill', 0.05, '%'),
  holds(11, 'space.enospc', 'a pool filled to the last byte: ENOSPC to the writer'),
  holds(11, 'space.intact', 'all flushed data intact then'),
  holds(11, 'space.usable', 'usable again after a discard'),
];

export const targets: readonly Target[] = [
  ...write,
  ...read,
  ...large,
  ...cpu,
  ...tax,
  ...calm,
  ...wear,
  ...bounded,
  ...snapshots,
  ...space,
];
