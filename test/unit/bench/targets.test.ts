import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { bestFormer, parseResults, writeFormer } from '../../../bench/history.js';
import { parseOptions } from '../../../bench/options.js';
import { Processes } from '../../../bench/processes.js';
import { conditionsOf, Publication, whyNotPublishable } from '../../../bench/publish.js';
import type { BenchRun } from '../../../bench/run.js';
import { targets } from '../../../bench/targets/catalogue.js';
import { type PeersResult, ratioOf } from '../../../bench/targets/compared.js';
import { judge, loss, type Target, writeMeasured, writeTarget } from '../../../bench/targets/target.js';
import { changeLines, changesSince, summary, verdictTable } from '../../../bench/targets/verdicts.js';
import { whyLines } from '../../../bench/targets/why.js';
import { floorItems } from '../../../bench/volume/floor.js';
import { type Sample, Samples } from '../../../bench/volume/rounds.js';
import { workloadOf } from '../../../bench/volume/workload.js';
import { realClock, realRandom } from '../../../src/base/index.js';

const least: Target = { id: 'a', line: 1, text: 'speed', rule: 'at least', value: 1.3, aim: 2, unit: 'x' };
const most: Target = { id: 'b', line: 6, text: 'tax', rule: 'at most', value: 0.1, unit: '%' };
const yes: Target = { id: 'c', line: 11, text: 'intact', rule: 'at least', value: 1, unit: 'yes/no' };

const verdict = (target: Target, ...values: number[]) => judge(target, { id: target.id, values, beside: '' }).verdict;

describe('a verdict', () => {
  it('points the right way, and the bound itself holds', () => {
    expect(verdict(least, 1.3)).toBe('held');
    expect(verdict(least, 5)).toBe('held');
    expect(verdict(least, 1.29)).toBe('missed');
    expect(verdict(most, 0.1)).toBe('held');
    expect(verdict(most, -0.5)).toBe('held');
    expect(verdict(most, 0.101)).toBe('missed');
    expect(verdict(yes, 1)).toBe('held');
    expect(verdict(yes, 0)).toBe('missed');
  });

  it('is on the median of the rounds', () => {
    expect(verdict(least, 0.1, 1.4, 1.5)).toBe('held');
    expect(verdict(least, 9, 1.2, 1.1)).toBe('missed');
    expect(verdict(most, 0.05, 0.09, 9)).toBe('held');
  });

  it('is never "held" without a sound figure', () => {
    expect(verdict(least)).toBe('not measured');
    expect(judge(most, undefined).verdict).toBe('not measured');
    expect(verdict(most, Number.NaN)).toBe('missed');
    expect(verdict(most, 0.01, Number.NaN, 0.01)).toBe('missed');
    expect(verdict(least, Number.POSITIVE_INFINITY)).toBe('missed');
  });

  it('is written with target, spread and what stands behind it', () => {
    const judged = [
      judge(least, { id: 'a', values: [1.2, 1.4, 1.6], beside: '140k/s : 100k/s' }),
      judge(most, { id: 'b', values: [0.25], beside: '' }),
      judge(yes, undefined),
    ];
    const [first, second, third] = verdictTable(judged).split('\n').slice(2);
    expect(first).toMatch(/^1 +speed +>= 1\.30 \(aim 2\.00\) +1\.40 \(1\.20 to 1\.60\) +HELD +140k\/s : 100k\/s$/);
    expect(second).toMatch(/^6 +tax +<= 10\.0 % +25\.0 % +MISSED$/);
    expect(third).toMatch(/^11 +intact +yes +- +NOT MEASURED$/);
    expect(summary(judged)).toBe('1 held, 1 missed, 1 not measured');
    expect(writeMeasured(judge(most, { id: 'b', values: [-0.031], beside: '' }))).toBe('-3.1 %');
    expect(writeTarget({ ...most, unit: 'ms', value: 100 })).toBe('<= 100 ms');
  });
});

describe('the catalogue', () => {
  it('has every line from 1 to 11, each figure once', () => {
    expect([...new Set(targets.map(({ line }) => line))]).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    expect(new Set(targets.map(({ id }) => id)).size).toBe(targets.length);
  });

  it('asks for more of what is good and for less of what is not', () => {
    const rule = (id: string) => targets.find((target) => target.id === id)?.rule;
    expect(rule('w4k-q32.h1.nbdkit')).toBe('at least');
    expect(rule('r128k-q8.h3.luks')).toBe('at least');
    expect(rule('snapshot.reads')).toBe('at least');
    expect(rule('space.intact')).toBe('at least');
    for (const line of [6, 7, 8, 9])
      expect(targets.filter((target) => target.line === line && target.rule === 'at least')).toEqual([]);
    expect(rule('cpu.w4k-q32.h3.nbdkit')).toBe('at most');
    expect(rule('snapshot.last-first')).toBe('at most');
    expect(rule('space.discard')).toBe('at most');
  });
});

describe('a ratio to a peer', () => {
  const sample = (round: number, iops: number, cpuUs: number): Sample => ({
    ...{
      round,
      iops,
      cpuUs,
      operations: iops,
      mbPerSecond: iops / 10,
      p50Us: 1,
      p90Us: 1,
      p99Us: 2,
      p999Us: 2,
      meanUs: 1,
    },
    ...{ flushes: 0, flushP50Us: 0, clientCpuUs: 1 },
  });
  const samples = new Samples();
  const add = (workload: string, system: string, ...all: Sample[]) => {
    for (const one of all) samples.add({ name: workload }, { name: system }, one);
  };
  add('w4k-q32', 'holdfast-x3', sample(0, 800, 20), sample(1, 300, 30));
  // In the other order, as turns rotate.
  add('w4k-q32', 'nbdkit-file', sample(1, 600, 10), sample(0, 1000, 10));
  add('w128k-q8', 'holdfast-x1', sample(0, 600, 1));
  add('w128k-q8', 'qemu-nbd-luks', sample(0, 200, 1));
  add('w4k-c32-flush', 'holdfast-x3', sample(0, 900, 1), sample(1, 800, 1));
  add('w4k-q1-flush', 'holdfast-x3', sample(0, 100, 1), sample(1, 50, 1));
  const floor = new Map([
    ['sync', [1, 1]],
    ['sync-3', [200, 200]],
  ]);
  const result: PeersResult = { samples, floor, ceph: { cpuUs: 500, when: 'then' } };
  const ratio = (id: string, from = result) => ratioOf(targets.find((target) => target.id === id)!.compares!, from);

  it('divides ours by the peer of the same round', () => {
    expect(ratio('w4k-q32.h3.nbdkit')).toEqual({ values: [0.8, 0.5], beside: '550/s : 800/s' });
    expect(ratio('cpu.w4k-q32.h3.nbdkit')).toEqual({ values: [2, 3], beside: '25.0 us : 10.0 us' });
    expect(ratio('w128k-q8.h1.luks')).toEqual({ values: [3], beside: '60.0 MB/s : 20.0 MB/s' });
    expect(ratio('w4k-q1.h1.raw').values).toEqual([]);
  });

  it('divides by the floor of as many files, by one client, and by what Ceph took in a former run', () => {
    expect(ratio('w4k-q1-flush.h3.floor')).toEqual({ values: [0.5, 0.25], beside: '75.0/s : 200/s' });
    expect(ratio('w4k-c32-flush.h3.one').values).toEqual([9, 16]);
    expect(ratio('cpu.w4k-q32.h3.ceph')).toEqual({ values: [0.04, 0.06], beside: '25.0 us : 500 us of then' });
    expect(ratio('cpu.w4k-q32.h3.ceph', { ...result, ceph: undefined }).values).toEqual([]);
  });
});

describe('why a ratio was missed', () => {
  const samples = new Samples();
  const sample = (iops: number, own: number, client: number, roles?: Record<string, number>): Sample => ({
    ...{
      round: 0,
      iops,
      cpuUs: own,
      clientCpuUs: client,
      operations: iops,
      mbPerSecond: 1,
      p50Us: 1,
      p90Us: 1,
      p99Us: 2,
      p999Us: 2,
    },
    ...{ meanUs: 1, flushes: 0, flushP50Us: 0, busyShare: 1, ...(roles === undefined ? {} : { roles }) },
  });
  samples.add({ name: 'w4k-q32' }, { name: 'holdfast-x1' }, sample(50_000, 20, 10, { engine: 15, others: 2 }));
  samples.add({ name: 'w4k-q32' }, { name: 'nbdkit-file' }, sample(100_000, 8, 6));
  const result: PeersResult = { samples, floor: new Map(), ceph: undefined };
  const budget = {
    ...{ workload: workloadOf('w4k-q32'), replicas: 1, cpuUs: 11 },
    parts: new Map([
      ['parse', 0.5],
      ['seal', 4],
      ['append', 3],
      ['map', 0.2],
      ['reply', 1],
      ['send', 0.1],
      ['engine', 2.2],
    ]),
  };
  const judged = (values: Record<string, number>) =>
    targets.map((target) =>
      judge(target, { id: target.id, values: [values[target.id] ?? Number.NaN].filter(Number.isFinite), beside: '' }),
    );

  it('is said by what the stage found out, also without peers, and not of what was held', () => {
    const found = (id: string, value: number) => {
      const target = targets.find((one) => one.id === id)!;
      return judge(target, { id, values: [value], beside: '', why: [`where ${id} goes`] });
    };
    const all = [found('amplification.uniform-80', 3.1), found('snapshot.create', 5), found('latency.read.h1', 7)];
    expect(whyLines(all, undefined, []).map((line) => line.trim())).toEqual([
      expect.stringMatching(/^Why/),
      'line 8, write amplification, uniform, 80 % full: 3.10, target <= 3.00',
      'where amplification.uniform-80 goes',
      'line 7, p99 / p50 of 4K reads at 70 % of peak, H1: 7.00, target <= 5.00',
      'where latency.read.h1 goes',
    ]);
    expect(whyLines([found('snapshot.create', 5)], undefined, [])).toEqual([]);
  });

  it('is said by CPU time of each process, cores busy and the stages that took most, once for each side of ours', () => {
    const lines = whyLines(judged({ 'w4k-q32.h1.nbdkit': 0.5, 'cpu.w4k-q32.h1.nbdkit': 2.5, 'tax.lz4': 9 }), result, [
      budget,
    ]);
    expect(lines.map((line) => line.trim())).toEqual([
      expect.stringMatching(/^Why/),
      'line 1, 4 KiB random write, QD 32, H1 / nbdkit file: 0.50, target >= 1.30',
      expect.stringMatching(
        /^H1: 50\.0k\/s; CPU us: engine 15\.0, others 2\.00, the rest 3\.00, client 10\.0; 1\.50 of \d+ cores busy, [\d.]+ with other things$/,
      ),
      'stages of H1 in one process: seal 4.00, append 3.00, engine 2.20, reply 1.00, parse 0.50; 11.0 us in all',
      expect.stringMatching(/^nbdkit file: 100k\/s; CPU us: server 8\.00, client 6\.00; 1\.40 of \d+ cores busy, /),
      'line 5, CPU, 4 KiB random write, QD 32, H1 / nbdkit file: 2.50, target <= 1.00',
      'as above',
      expect.stringContaining('nbdkit file: 100k/s'),
    ]);
  });

  it('is not asked of what was held', () => {
    expect(whyLines(judged({ 'w4k-q32.h1.nbdkit': 1.4 }), result, [budget])).toEqual([]);
  });
});

describe('publishing', () => {
  const still = new Map(floorItems.map(({ name }) => [name, [100, 105, 110]]));
  const good = { rounds: 7, quick: false, loadAtStart: 0.5, commit: 'abc', leftOut: [] as string[] };

  it('is for whole runs of a committed tree, begun at rest', () => {
    expect(whyNotPublishable(good)).toEqual([]);
    const reasons = (change: Partial<typeof good>) => whyNotPublishable({ ...good, ...change }).join();
    expect(reasons({ loadAtStart: 0.51 })).toContain('load average was 0.51');
    expect(reasons({ loadAtStart: Number.NaN })).toContain('load average');
    expect(reasons({ rounds: 6 })).toContain('7 are the least');
    expect(reasons({ quick: true })).toContain('quick');
    expect(reasons({ commit: 'abc+' })).toContain('tree');
    expect(reasons({ commit: '' })).toContain('unknown');
    expect(whyNotPublishable({ ...good, leftOut: ['cold reads'] })).toEqual(['cold reads was left out']);
  });

  it('records what the machine did, and calls a floor that moved unsteady', () => {
    expect(conditionsOf(0.25, still, 0.012)).toMatchObject({
      ...{ steady: true, loadAtStart: 0.25, stolen: 0.012 },
      ...{ floorMoved: { sync: 0.04762 }, floor: { 'read-q32': [100, 105, 110] } },
    });
    const moving = new Map([...still, ['sync', [100, 60, 100]]]);
    expect(conditionsOf(0, moving, 0)).toMatchObject({ steady: false, floorMoved: { sync: 0.4 } });
    // CPU time alone: there is no floor to move.
    expect(conditionsOf(0, null, 0)).not.toHaveProperty('steady');
  });

  it('compares with a steady run rather than with a newer one', () => {
    const steady = { at: '2026-11-01T00:00:00Z', commit: '0123456789', steady: true };
    const shaky = { at: '2026-11-02T00:00:00Z', commit: 'abcdef0123', steady: false };
    expect(bestFormer([steady, shaky])).toBe(steady);
    expect(bestFormer([steady, { ...steady, at: 'later' }, shaky])?.at).toBe('later');
    expect(bestFormer([{ ...shaky, at: 'before' }, shaky])).toBe(shaky);
    expect(bestFormer([])).toBeUndefined();
    expect(writeFormer(steady)).toBe('2026-11-01, commit 01234567');
    expect(writeFormer(shaky)).toBe('2026-11-02, commit abcdef01, unsteady machine');
  });

  describe('of a run', () => {
    const directory = mkdtempSync(join(tmpdir(), 'hf-bench-test-'));
    afterAll(() => rmSync(directory, { recursive: true, force: true }));

    it('is refused before anything is measured when it can only be refused', async () => {
      const printed: string[] = [];
      const signal = new AbortController().signal;
      const run: BenchRun = {
        ...{ options: parseOptions(['targets', '--quick', '--publish']), clock: realClock, random: realRandom },
        ...{ directory, processes: new Processes(realClock, signal, directory) },
        ...{ print: (text) => void printed.push(text), progress: (text) => void printed.push(text) },
      };
      await expect(Publication.begin(run, 'none', [])).rejects.toThrow(/^not publishable: a quick run is for looking/);
      expect(printed).toEqual([]);
      const looking = { ...run, options: { ...run.options, publish: false } };
      const publication = await Publication.begin(looking, 'none', ['stage a']);
      await publication.conclude(still, ['stage a', 'stage b'], {});
      expect(printed.join('')).toMatch(
        /^not publishable: a quick run .* stage a was left out; stage b was left out\.\n$/,
      );
      const conditions = publication.conditions(new Map([...still, ['sync', [100, 60, 100]]]));
      expect(conditions).toMatch(
        /^commit [0-9a-f]{12}( with changes)?; load average [\d.]+ at the start; .* other guests; unsteady machine: floor moved by 40 % /,
      );
    });
  });

  it('flags what became worse by more than a tenth, whichever way is worse, and doubts an unsteady machine', () => {
    expect(loss('at least', 0.8, 1)).toBeCloseTo(0.2);
    expect(loss('at most', 1.2, 1)).toBeCloseTo(0.2);
    expect(loss('at most', 0.8, 1)).toBeCloseTo(-0.2);
    const judged = [
      judge(least, { id: 'a', values: [1.7], beside: '' }),
      judge(most, { id: 'b', values: [0.05], beside: '' }),
      judge(yes, undefined),
    ];
    const lines = (a: number, b: number, steady = true) =>
      changeLines(
        changesSince(judged, [
          { id: 'a', values: [a] },
          { id: 'b', values: [b] },
          { id: 'c', values: [1] },
        ]),
        'then',
        steady,
      );
    expect(lines(2, 0.05)).toEqual([
      expect.stringContaining('2 figures compared, 1 worse'),
      expect.stringMatching(/LOSS of 15 %: line 1, speed .*2\.00 then, 1\.70 now/),
    ]);
    expect(lines(2, 0.05, false)).toEqual([
      expect.stringContaining('the machine was not steady in both'),
      expect.stringContaining('LOSS? of 15 %'),
    ]);
    expect(lines(1.7, 0.04)).toHaveLength(2);
    expect(lines(1.0, 0.09)).toHaveLength(1);
  });

  it('reads a history that was cut off in the middle of a line', () => {
    expect(parseResults('{"a":1}\n\n{"b":\n[1]\n{"a":2}\n')).toEqual([{ a: 1 }, { a: 2 }]);
  });
});
