import { describe, expect, it } from 'vitest';
import { currentCommit, describeMachine, rounded } from '../../../bench/history.js';
import { Processes } from '../../../bench/processes.js';
import type { BenchSystem } from '../../../bench/systems/system.js';
import { floorItems, moved, movementOf, steadiness } from '../../../bench/volume/floor.js';
import { kbenchReport } from '../../../bench/volume/kbench.js';
import { type ReportInput, report } from '../../../bench/volume/report.js';
import { type Sample, Samples } from '../../../bench/volume/rounds.js';
import { kbenchWorkloads, type Workload, workloads } from '../../../bench/volume/workload.js';
import { realClock } from '../../../src/base/index.js';

function system(name: string, title: string, copies: number): BenchSystem {
  const unused = () => Promise.reject(new Error('not opened in this test'));
  const flush = copies === 1 ? 'yes' : `yes, on all ${copies}`;
  return {
    name,
    title,
    copies,
    flush,
    features: 'none',
    open: unused,
    close: unused,
    target: () => ({ settings: {}, env: {} }),
    pids: () => [],
  };
}

const peer = system('peer', 'Peer', 1);
const own = system('own', 'Own', 3);

function sample(round: number, iops: number, cpuUs: number): Sample {
  const latency = { p50Us: 1, p90Us: 1, p99Us: 2, p999Us: 2, meanUs: 100, flushes: 0, flushP50Us: 0, clientCpuUs: 1 };
  return { ...latency, round, iops, cpuUs, operations: iops, mbPerSecond: iops / 10 };
}

function input(workload: Workload, changes: Partial<ReportInput> = {}): ReportInput {
  const samples = new Samples();
  // Everything was half as fast in the second round: the ratio must not notice.
  for (const [round, speed] of [1, 0.5, 1].entries()) {
    samples.add(workload, peer, sample(round, 1000 * speed, 10));
    samples.add(workload, own, sample(round, 3000 * speed, 25 + round));
  }
  const floor = new Map(floorItems.map(({ name }) => [name, [100, 105, 110]]));
  const basics = {
    systems: [peer, own],
    absent: [],
    baselines: ['peer'],
    workloads: [workload],
    settings: 'settings.',
  };
  return { ...basics, samples, floor, ...changes };
}

const write = workloads[0]!;

describe('the report', () => {
  it('shows copies, flush, rate, ratio by round and CPU time, one column a system', () => {
    const lines = report(input(write)).split('\n');
    const cells = (start: string) =>
      lines
        .find((line) => line.startsWith(start))
        ?.split(/ {2,}/)
        .slice(-2);
    expect(cells('copies')).toEqual(['1', '3']);
    expect(cells('flush honoured')).toEqual(['yes', 'yes, on all 3']);
    expect(cells('  per second')).toEqual(['1000 (500-1000)', '3000 (1500-3000)']);
    expect(cells('  ratio to Peer')).toEqual(['1', '3.00 (3.00-3.00)']);
    expect(cells('  CPU us per operation')).toEqual(['10.0 (10.0-10.0)', '26.0 (25.0-27.0)']);
    expect(lines.join('\n')).not.toContain('moved by');
  });

  it('says which floor moved and by how much, and names what is left out and why', () => {
    const floor = new Map(floorItems.map(({ name }) => [name, [100, 151]]));
    floor.set('sync', [100, 119, 100]);
    const absent = [{ name: 'gone', title: 'Gone', reason: 'install the Debian package gone' }];
    const text = report(input(write, { floor, absent }));
    expect(text).toContain('Gone is left out: install the Debian package gone.');
    expect(text.match(/moved by 20 %/g)).toHaveLength(floorItems.length - 1);
    expect(moved(floor).map(({ item }) => item.name)).not.toContain('sync');
    expect(steadiness(floor)).toMatch(/^unsteady machine: floor moved by 20 % \(the same, three files/);
    floor.set('read-q1', [100, 60, 100]);
    expect(steadiness(floor)).toMatch(/^unsteady machine: floor moved by 40 % \(O_DIRECT 4 KiB random read, QD 1/);
    const still = new Map(floorItems.map(({ name }) => [name, [100, 119, 100]]));
    expect(steadiness(still)).toMatch(/^steady machine: floor moved by 19 % /);
    expect(movementOf([100, 90, 115, 100])).toBeCloseTo(0.15);
    expect(movementOf([100, 60, 100])).toBeCloseTo(0.4);
    expect(movementOf([])).toBe(0);
  });

  it('leaves the ratio out when the baseline was not measured', () => {
    expect(report(input(write, { systems: [own] }))).not.toContain('ratio to');
  });

  it('has a layout for those who compare with kbench', () => {
    const random = kbenchWorkloads.find(({ name }) => name === 'kbench-iops-randread')!;
    const text = kbenchReport(input(random));
    const line = text.split('\n').find((candidate) => candidate.trim().startsWith('Random:'));
    expect(line).toMatch(/1,000 \/ - +vs +3,000 \/ - +: +200\.00% \/ -/);
    expect(kbenchWorkloads).toHaveLength(12);
  });
});

describe('the history', () => {
  it('describes the machine without saying where it is', async () => {
    const processes = new Processes(realClock, new AbortController().signal);
    const machine = await describeMachine(processes, '/tmp', ['node', 'no-such-program']);
    expect(machine.kernel).toMatch(/^\d+(\.\d+)+$/);
    expect(machine.tools).toEqual({ node: process.versions.node });
    expect(JSON.stringify(machine)).not.toMatch(/\/(home|root|tmp|usr)\b/);
    expect(await currentCommit(processes)).toMatch(/^([0-9a-f]{40}\+?)?$/);
  });

  it('keeps four digits', () => {
    expect([0, 123456, 0.0123456].map(rounded)).toEqual([0, 123500, 0.01235]);
  });
});
