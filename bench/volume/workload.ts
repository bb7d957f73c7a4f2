// What is measured. Names are stable: the history is compared by them.

export type Unit = 'iops' | 'mbps';

export interface Workload {
  readonly name: string;
  readonly title: string;
  readonly rw: 'randwrite' | 'randread' | 'write' | 'read';
  readonly blockBytes: number;
  readonly depth: number;
  /** none; each: a flush after every write (fio's fsync=1); each-depth: one after as many writes as the queue is deep. */
  readonly flush: 'none' | 'each' | 'each-depth';
  readonly unit: Unit;
}

const K4 = 4096;
const K128 = 128 * 1024;

export const workloads: readonly Workload[] = [
  {
    name: 'w4k-q1',
    title: '4 KiB random write, QD 1',
    rw: 'randwrite',
    blockBytes: K4,
    depth: 1,
    flush: 'none',
    unit: 'iops',
  },
  {
    name: 'w4k-q1-flush',
    title: '4 KiB random write, QD 1, flush each',
    rw: 'randwrite',
    blockBytes: K4,
    depth: 1,
    flush: 'each',
    unit: 'iops',
  },
  {
    name: 'w4k-q32',
    title: '4 KiB random write, QD 32',
    rw: 'randwrite',
    blockBytes: K4,
    depth: 32,
    flush: 'none',
    unit: 'iops',
  },
  {
    name: 'w4k-q32-flush',
    title: '4 KiB random write, QD 32, flush each 32',
    rw: 'randwrite',
    blockBytes: K4,
    depth: 32,
    flush: 'each-depth',
    unit: 'iops',
  },
  {
    name: 'r4k-q1',
    title: '4 KiB random read, QD 1',
    rw: 'randread',
    blockBytes: K4,
    depth: 1,
    flush: 'none',
    unit: 'iops',
  },
  {
    name: 'r4k-q32',
    title: '4 KiB random read, QD 32',
    rw: 'randread',
    blockBytes: K4,
    depth: 32,
    flush: 'none',
    unit: 'iops',
  },
  {
    name: 'w128k-q8',
    title: '128 KiB sequential write, QD 8',
    rw: 'write',
    blockBytes: K128,
    depth: 8,
    flush: 'none',
    unit: 'mbps',
  },
  {
    name: 'r128k-q8',
    title: '128 KiB sequential read, QD 8',
    rw: 'read',
    blockBytes: K128,
    depth: 8,
    flush: 'none',
    unit: 'mbps',
  },
];

const patterns = ['randread', 'randwrite', 'read', 'write'] as const;

function kbench(kind: string, blockBytes: number, depth: number, unit: Unit): Workload[] {
  return patterns.map((rw) => ({
    name: `kbench-${kind}-${rw}`,
    title: `${kind} ${rw}, ${blockBytes / 1024} KiB, QD ${depth}`,
    rw,
    blockBytes,
    depth,
    flush: 'none',
    unit,
  }));
}

/** The twelve of github.com/longhorn/kbench: IOPS, bandwidth, latency, each random and sequential, read and write. */
export const kbenchWorkloads: readonly Workload[] = [
  ...kbench('iops', K4, 64, 'iops'),
  ...kbench('bandwidth', K128, 64, 'mbps'),
  ...kbench('latency', K4, 1, 'iops'),
];

export function writes(workload: Workload): boolean {
  return workload.rw === 'write' || workload.rw === 'randwrite';
}
