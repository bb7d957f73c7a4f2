import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { parseMachine, parseStat, ticksOfTree } from '../../../bench/cpu-time.js';
import { chosen, parseOptions } from '../../../bench/options.js';
import { Processes } from '../../../bench/processes.js';
import { ratios, short, spreadOf, withSpread } from '../../../bench/statistics.js';
import { nbdTarget } from '../../../bench/systems/system.js';
import { fioArguments, parseFio, runFio } from '../../../bench/volume/fio.js';
import { fillJob, KEPT_BYTES, keepJob, measureJob, verifyJob, writeFlushLog } from '../../../bench/volume/jobs.js';
import { withData, workloadOf } from '../../../bench/volume/workload.js';
import { realClock } from '../../../src/base/index.js';

const statLine = (pid: number, name: string, parent: number, times: [number, number, number, number]) =>
  `${pid} (${name}) S ${parent} 1 1 0 -1 4194304 7 8 9 10 ${times.join(' ')} 20 0 11 0 12345 100 200 300\n`;

describe('CPU time of a process tree', () => {
  it('adds user and system time of a process and of the children it has reaped, whatever its name', () => {
    expect(parseStat(statLine(42, 'a) S 1 (b', 7, [100, 20, 3, 4]))).toEqual({ pid: 42, parent: 7, ticks: 127 });
    expect(parseStat('')).toBeUndefined();
    expect(parseStat('42 (cut off) S 7')).toBeUndefined();
  });

  it('counts every descendant once and nobody else', () => {
    const stat = (pid: number, parent: number, ticks: number) => ({ pid, parent, ticks });
    const processes = [
      stat(1, 0, 1000),
      stat(10, 1, 1),
      stat(11, 10, 2),
      stat(12, 11, 4),
      stat(13, 1, 8),
      stat(14, 13, 16),
    ];
    expect(ticksOfTree(processes, [10])).toBe(7);
    expect(ticksOfTree(processes, [10, 11])).toBe(7);
    expect(ticksOfTree(processes, [10, 14])).toBe(23);
    expect(ticksOfTree(processes, [99])).toBe(0);
  });
});

describe('CPU time of the machine', () => {
  it('counts guests once, waiting as idle, and what the host took', () => {
    // Time of guests (the last two) is part of user's and nice's.
    expect(parseMachine('cpu  100 20 30 400 5 6 7 8 50 9\ncpu0 1 2 3 4 5 6 7 8 0 0\n')).toEqual({
      all: 576,
      idle: 405,
      stolen: 8,
    });
  });
});

describe('statistics', () => {
  it('takes medians, and ratios within the same round only', () => {
    expect(spreadOf([5, 1, 3])).toEqual({ median: 3, least: 1, most: 5 });
    expect(spreadOf([4, 1, 3, 2])?.median).toBe(2.5);
    expect(spreadOf([])).toBeUndefined();
    // The second round was slow for both sides, the third lacks one of them.
    expect(ratios([100, 10, 7], [50, 5, undefined])).toEqual([2, 2]);
    expect(ratios([1], [0])).toEqual([]);
  });

  it('writes three digits', () => {
    expect([0.1234, 9.994, 9.996, 99.94, 123.4, 9994, 9996, 115_400, 1_234_000].map(short)).toEqual([
      '0.12',
      '9.99',
      '10.0',
      '99.9',
      '123',
      '9994',
      '10.0k',
      '115k',
      '1.23M',
    ]);
    expect(withSpread(spreadOf([1, 2, 4]))).toBe('2.00 (1.00-4.00)');
    expect(withSpread(undefined)).toBe('-');
  });
});

describe('fio', () => {
  const job = {
    error: 0,
    usr_cpu: 10,
    sys_cpu: 15,
    read: { total_ios: 0, iops: 0, bw_bytes: 0, runtime: 0 },
    write: {
      total_ios: 4000,
      iops: 2000,
      bw_bytes: 8_192_000,
      runtime: 2000,
      clat_ns: {
        mean: 1500,
        percentile: { '50.000000': 1000, '90.000000': 4000, '99.000000': 9000, '99.900000': 20_000 },
      },
    },
    sync: { total_ios: 4000, lat_ns: { percentile: { '50.000000': 250_000 } } },
  };

  it('is read whatever stands before its JSON', () => {
    const text = `nbd: connected\n${JSON.stringify({ jobs: [job] })}`;
    expect(parseFio(text)).toEqual({
      operations: 4000,
      iops: 2000,
      mbPerSecond: 8.192,
      p50Us: 1,
      p90Us: 4,
      p99Us: 9,
      p999Us: 20,
      meanUs: 1.5,
      flushes: 4000,
      flushP50Us: 250,
      // A quarter of a core for two seconds.
      clientCpuUs: 125,
    });
  });

  it('is not believed when it failed or did nothing', () => {
    expect(() => parseFio(JSON.stringify({ jobs: [{ ...job, error: 5 }] }))).toThrow('error 5');
    expect(() => parseFio(JSON.stringify({ jobs: [{ ...job, write: {} }] }))).toThrow('did nothing');
    expect(() => parseFio('fio: bad option')).toThrow('no JSON');
    expect(() => parseFio('{"jobs":')).toThrow('no JSON');
  });

  it('that found other bytes than were written voids the run', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'hf-bench-test-'));
    const path = process.env.PATH;
    const script = (text: string) => writeFileSync(join(directory, 'fio'), `#!/bin/sh\n${text}\n`, { mode: 0o755 });
    const processes = new Processes(realClock, new AbortController().signal);
    const run = () => runFio(processes, directory, { name: 'x', settings: {}, seconds: 1 });
    try {
      process.env.PATH = `${directory}:${path}`;
      script('echo "verify: bad header rand_seed 1, wanted 2" >&2; exit 1');
      await expect(run()).rejects.toMatchObject({ code: 'DATA_LOSS' });
      script('echo "nbd: cannot connect" >&2; exit 1');
      await expect(run()).rejects.toMatchObject({
        code: 'FAILED_PRECONDITION',
        message: expect.stringContaining('cannot connect'),
      });
    } finally {
      process.env.PATH = path;
      rmSync(directory, { recursive: true, force: true });
    }
  });

  const target = nbdTarget('nbd+unix:///v?socket=/s');
  const options = { sizeBytes: 1 << 28, seconds: 3, flushLog: '/log' };

  it('gets what each workload says', () => {
    const argumentsOf = (workload: Parameters<typeof measureJob>[0], more = {}) =>
      fioArguments(measureJob(workload, target, { ...options, ...more }), '/out');
    const flushed = argumentsOf(workloadOf('w4k-q1-flush'));
    expect(flushed).toContain('--fsync=1');
    expect(flushed).toContain('--iodepth=1');
    expect(flushed).toContain('--ioengine=nbd');
    expect(flushed).toContain('--buffer_compress_percentage=50');
    expect(flushed).toContain('--refill_buffers=1');
    expect(argumentsOf(workloadOf('w4k-q1')).join(' ')).not.toMatch(/fsync|rate_iops|numjobs/);
    expect(argumentsOf(workloadOf('w4k-q32-flush'))).toContain('--read_iolog=/log');
    expect(argumentsOf(workloadOf('r128k-q8'))).toEqual(
      expect.arrayContaining(['--rw=read', '--bs=131072', '--iodepth=8', '--time_based=1']),
    );
    expect(argumentsOf(workloadOf('w4k-c32-flush'))).toEqual(
      expect.arrayContaining(['--numjobs=32', '--group_reporting=1', '--fsync=1', '--iodepth=1']),
    );
    // A cold read that comes to a block again would find it in the cache.
    expect(argumentsOf(workloadOf('r4k-q32-cold')).join(' ')).not.toMatch(/norandommap|time_based/);
    expect(argumentsOf(withData(workloadOf('w4k-q32'), 0))).toContain('--buffer_compress_percentage=0');
    expect(argumentsOf(workloadOf('w4k-q32'), { rate: 700 })).toContain('--rate_iops=700');
  });

  it('verifies what it writes, and what it wrote before the measured jobs, which leave that alone', () => {
    expect(fioArguments(verifyJob(target, 1 << 28), '/out')).toEqual(
      expect.arrayContaining(['--verify=crc32c', '--verify_fatal=1', '--do_verify=1']),
    );
    const { offset, size, randseed, bs } = keepJob('write', target, 1 << 28).settings;
    expect(offset).toBe((1 << 28) - KEPT_BYTES);
    const check = keepJob('check', target, 1 << 28).settings;
    expect(check).toMatchObject({ offset, size, randseed, bs, verify: 'crc32c', verify_fatal: 1, verify_only: 1 });
    for (const name of ['w4k-q32', 'w128k-q8'])
      expect(measureJob(workloadOf(name), target, options).settings.size).toBe(offset);
    expect(fillJob(target, 1 << 28).settings.size).toBe(1 << 28);
  });
});

describe('the log with flushes', () => {
  const directory = mkdtempSync(join(tmpdir(), 'hf-bench-test-'));
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  it('flushes after every so many writes, all within the volume', async () => {
    const path = await writeFlushLog(directory, KEPT_BYTES + (1 << 20), 1, 32);
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    expect(lines.slice(0, 3)).toEqual(['fio version 2 iolog', 'nbd add', 'nbd open']);
    expect(lines.at(-1)).toBe('nbd close');
    const actions = lines.slice(3, -1);
    expect(actions.length % 33).toBe(0);
    expect(actions.every((line, i) => line.startsWith(i % 33 === 32 ? 'nbd sync ' : 'nbd write '))).toBe(true);
    const offsets = actions.filter((line) => line.includes('write')).map((line) => Number(line.split(' ')[2]));
    expect(offsets.every((offset) => offset % 4096 === 0 && offset + 4096 <= 1 << 20)).toBe(true);
    expect(new Set(offsets).size).toBe(256);
  });
});

describe('the command line', () => {
  it('has defaults and bounds', () => {
    expect(parseOptions([])).toMatchObject({
      part: 'volume',
      rounds: 3,
      seconds: 3,
      sizeBytes: 512 << 20,
      compressiblePercent: 50,
      publish: false,
    });
    expect(parseOptions(['targets'])).toMatchObject({ part: 'targets', rounds: 7, seconds: 2, quick: false });
    expect(parseOptions(['targets', '--quick', '--rounds', '4'])).toMatchObject({ rounds: 4, seconds: 1, quick: true });
    expect(parseOptions(['micro', '--size', '1Gi', '--compressible', '0', '--publish'])).toMatchObject({
      part: 'micro',
      sizeBytes: 2 ** 30,
      compressiblePercent: 0,
      publish: true,
    });
    for (const argv of [
      ['--rounds', '0'],
      ['--rounds', '1e3'],
      ['--seconds', '601'],
      ['--compressible', '101'],
      ['--size', '1Mi'],
      ['--size', 'x'],
      ['--what'],
      ['app'],
    ]) {
      expect(() => parseOptions(argv), argv.join(' ')).toThrow(/--|part/);
    }
  });

  it('refuses names that nothing has', () => {
    const all = [{ name: 'a' }, { name: 'b' }];
    expect(chosen('systems', all, [])).toEqual(all);
    expect(chosen('systems', all, ['b'])).toEqual([{ name: 'b' }]);
    expect(() => chosen('systems', all, ['c'])).toThrow('there is no "c"; choose from a, b');
  });
});
