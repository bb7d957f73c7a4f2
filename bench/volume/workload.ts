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
  /** Clients at once, with a connection each; 1 unless said. */
  readonly clients?: number;
  /** Page caches are dropped before, and no block is read twice. */
  readonly cold?: boolean;
  /** Of the data written, instead of 50. */
  readonly compressiblePercent?: number;
}

const K4 = 4096;
const K128 = 128 * 1024;

const small = { blockBytes: K4, flush: 'none', unit: 'iops' } as const;
const large = { blockBytes: K128, depth: 8, flush: 'none', unit: 'mbps' } as const;

export const workloads: readonly Workload[] = [
  { ...small, name: 'w4k-q1', title: '4 KiB random write, QD 1', rw: 'randwrite', depth: 1 },
  {
    ...small,
    name: 'w4k-q1-flush',
    title: '4 KiB random write, QD 1, flush each',
    rw: 'randwrite',
    depth: 1,
    flush: 'each',
  },
  {
    ...small,
    name: 'w4k-c32-flush',
    title: '4 KiB random write, 32 clients, flush each',
    rw: 'randwrite',
    depth: 1,
    flush: 'each',
    clients: 32,
  },
  { ...small, name: 'w4k-q32', title: '4 KiB random write, QD 32', rw: 'randwrite', depth: 32 },
  {
    ...small,
    name: 'w4k-q32-flush',
    title: '4 KiB random write, QD 32, flush each 32',
    rw: 'randwrite',
    depth: 32,
    flush: 'each-depth',
  },
  { ...small, name: 'r4k-q1', title: '4 KiB random read, QD 1', rw: 'randread', depth: 1 },
  { ...small, name: 'r4k-q32', title: '4 KiB random read, QD 32', rw: 'randread', depth: 32 },
  {
    ...small,
    name: 'r4k-q1-cold',
    title: '4 KiB random read, QD 1, cold cache',
    rw: 'randread',
    depth: 1,
    cold: true,
  },
  {
    ...small,
    name: 'r4k-q32-cold',
    title: '4 KiB random read, QD 32, cold cache',
    rw: 'randread',
    depth: 32,
    cold: true,
  },
  { ...large, name: 'w128k-q8', title: '128 KiB sequential write, QD 8', rw: 'write' },
  { ...large, name: 'r128k-q8', title: '128 KiB sequential read, QD 8', rw: 'read' },
];

/** The same writes with data that compresses otherwise. */
export function withData(workload: Workload, compressiblePercent: number): Workload {
  const name = `${workload.name}-data${compressiblePercent}`;
  const title = `${workload.title}, data ${compressiblePercent} % compressible`;
  return { ...workload, name, title, compressiblePercent };
}

/** Throws for a name that no workload has. */
export function workloadOf(name: string): Workload {
  const found = workloads.find((workload) => workload.name === name);
  if (found === undefined) throw new Error(`there is no workload ${name}`);
  return found;
}

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
