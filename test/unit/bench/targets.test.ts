import { describe, expect, it } from 'vitest';
import { parseResults } from '../../../bench/history.js';
import { whyNotPublishable } from '../../../bench/publish.js';
import { targets } from '../../../bench/targets/catalogue.js';
import { ratioOf } from '../../../bench/targets/peers-stage.js';
import { judge, loss, type Target, writeMeasured, writeTarget } from '../../../bench/targets/target.js';
import { changeLines, changesSince, summary, verdictTable } from '../../../bench/targets/verdicts.js';
import { floorItems } from '../../../bench/volume/floor.js';
import { type Sample, Samples } from '../../../bench/volume/rounds.js';

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
    ...{ round, iops, cpuUs, operations: iops, mbPerSecond: iops / 10, p50Us: 1, p99Us: 2, meanUs: 1 },
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

  it('divides ours by the peer of the same round', () => {
    expect(ratioOf('w4k-q32.h3.nbdkit', samples)).toEqual({ values: [0.8, 0.5], beside: '550/s : 800/s' });
    expect(ratioOf('cpu.w4k-q32.h3.nbdkit', samples)).toEqual({ values: [2, 3], beside: '25.0 us : 10.0 us' });
    expect(ratioOf('w128k-q8.h1.luks', samples)).toEqual({ values: [3], beside: '60.0 MB/s : 20.0 MB/s' });
    expect(ratioOf('w4k-q1.h1.raw', samples).values).toEqual([]);
  });
});

describe('publishing', () => {
  const floor = new Map(floorItems.map(({ name }) => [name, [100, 105, 110]]));
  const good = { rounds: 7, quick: false, loadAtStart: 0.5, floor, commit: 'abc', leftOut: [] };

  it('is for whole runs of a committed tree on a quiet machine', () => {
    expect(whyNotPublishable(good)).toEqual([]);
    expect(whyNotPublishable({ ...good, floor: null })).toEqual([]);
    const reasons = (change: Partial<typeof good>) => whyNotPublishable({ ...good, ...change }).join();
    expect(reasons({ loadAtStart: 0.51 })).toContain('load average was 0.51');
    expect(reasons({ loadAtStart: Number.NaN })).toContain('load average');
    expect(reasons({ rounds: 6 })).toContain('7 are the least');
    expect(reasons({ quick: true })).toContain('quick');
    expect(reasons({ commit: 'abc+' })).toContain('tree');
    expect(reasons({ commit: '' })).toContain('unknown');
    expect(reasons({ floor: new Map() })).toContain('floor was not measured');
    expect(reasons({ floor: new Map([...floor, ['sync', [100, 60, 100]]]) })).toContain('moved by 40 %');
    expect(whyNotPublishable({ ...good, leftOut: ['cold reads'] })).toEqual(['cold reads was left out']);
  });

  it('flags what became worse by more than a tenth, whichever way is worse', () => {
    expect(loss('at least', 0.8, 1)).toBeCloseTo(0.2);
    expect(loss('at most', 1.2, 1)).toBeCloseTo(0.2);
    expect(loss('at most', 0.8, 1)).toBeCloseTo(-0.2);
    const judged = [
      judge(least, { id: 'a', values: [1.7], beside: '' }),
      judge(most, { id: 'b', values: [0.05], beside: '' }),
      judge(yes, undefined),
    ];
    const lines = (a: number, b: number) =>
      changeLines(
        changesSince(judged, [
          { id: 'a', values: [a] },
          { id: 'b', values: [b] },
          { id: 'c', values: [1] },
        ]),
        'then',
      );
    expect(lines(2, 0.05)).toEqual([
      expect.stringContaining('2 figures compared, 1 worse'),
      expect.stringMatching(/LOSS of 15 %: line 1, speed .*2\.00 then, 1\.70 now/),
    ]);
    expect(lines(1.7, 0.04)).toHaveLength(2);
    expect(lines(1.0, 0.09)).toHaveLength(1);
  });

  it('reads a history that was cut off in the middle of a line', () => {
    expect(parseResults('{"a":1}\n\n{"b":\n[1]\n{"a":2}\n')).toEqual([{ a: 1 }, { a: 2 }]);
  });
});
