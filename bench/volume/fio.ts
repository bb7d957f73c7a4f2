// fio: its command lines and what is taken out of its JSON. Results go to a file, because the nbd engine writes on standard
// output, too.

import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { HoldfastError, precondition } from '../../src/base/index.js';
import { lastLine, type Processes } from '../processes.js';

/** Beyond the time a job is given: start, connection, the last requests, one flush of much dirty data. */
const SLACK_MS = 90_000;

export interface FioJob {
  readonly name: string;
  /** Everything but name and output, without dashes: {rw: 'randwrite', bs: 4096}. */
  readonly settings: Readonly<Record<string, string | number>>;
  /** Beside the bench's own environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** How long it should take; it is killed well after. */
  readonly seconds: number;
}

export interface FioResult {
  /** Reads and writes that ended. */
  readonly operations: number;
  readonly iops: number;
  readonly mbPerSecond: number;
  /** Of completion, in microseconds. */
  readonly p50Us: number;
  readonly p90Us: number;
  readonly p99Us: number;
  readonly p999Us: number;
  readonly meanUs: number;
  readonly flushes: number;
  readonly flushP50Us: number;
  /** CPU of fio itself, in microseconds per operation. */
  readonly clientCpuUs: number;
}

/** Of data, unless said otherwise. */
export const COMPRESSIBLE_PERCENT = 50;

/** Compressible as fio makes it: in each 512 bytes random ones, then zeroes. New ones for each request. */
export function bufferSettings(percent: number): Record<string, number> {
  return { buffer_compress_percentage: percent, refill_buffers: 1 };
}

export function fioArguments(job: FioJob, output: string): string[] {
  const settings = Object.entries(job.settings).map(([key, value]) => `--${key}=${value}`);
  return [`--name=${job.name}`, ...settings, '--output-format=json', `--output=${output}`];
}

type Fields = Readonly<Record<string, unknown>>;

function fieldsOf(value: unknown): Fields {
  return typeof value === 'object' && value !== null ? (value as Fields) : {};
}
function numberOf(value: unknown): number {
  return typeof value === 'number' && Number.isFinite(value) ? value : 0;
}

/** Parses fio's JSON. Throws when it is none, or when fio says that the job failed. */
export function parseFio(text: string): FioResult {
  let parsed: unknown;
  try {
    parsed = JSON.parse(text.slice(Math.max(0, text.indexOf('{'))));
  } catch {
    throw precondition(`fio wrote no JSON: ${lastLine(text)}`);
  }
  const jobs = fieldsOf(parsed).jobs;
  const job = fieldsOf(Array.isArray(jobs) ? jobs[0] : undefined);
  if (numberOf(job.error) !== 0) throw precondition(`fio's job failed with error ${numberOf(job.error)}`);
  const read = fieldsOf(job.read);
  const write = fieldsOf(job.write);
  const main = numberOf(write.total_ios) > numberOf(read.total_ios) ? write : read;
  const operations = numberOf(read.total_ios) + numberOf(write.total_ios);
  if (operations === 0) throw precondition('fio did nothing');
  const latency = fieldsOf(main.clat_ns);
  const percentiles = fieldsOf(latency.percentile);
  const sync = fieldsOf(job.sync);
  const syncLatency = fieldsOf(sync.lat_ns);
  const runtimeMs = Math.max(numberOf(read.runtime), numberOf(write.runtime));
  const busyPercent = numberOf(job.usr_cpu) + numberOf(job.sys_cpu);
  return {
    operations,
    iops: numberOf(main.iops),
    mbPerSecond: numberOf(main.bw_bytes) / 1e6,
    p50Us: numberOf(percentiles['50.000000']) / 1000,
    p90Us: numberOf(percentiles['90.000000']) / 1000,
    p99Us: numberOf(percentiles['99.000000']) / 1000,
    p999Us: numberOf(percentiles['99.900000']) / 1000,
    meanUs: numberOf(latency.mean) / 1000,
    flushes: numberOf(sync.total_ios),
    flushP50Us: numberOf(fieldsOf(syncLatency.percentile)['50.000000']) / 1000,
    clientCpuUs: (busyPercent * 10 * runtimeMs) / operations,
  };
}

/** Runs one job. Throws DATA_LOSS when its verification failed, FAILED_PRECONDITION when fio failed otherwise. */
export async function runFio(processes: Processes, directory: string, job: FioJob): Promise<FioResult> {
  const output = join(directory, `fio-${job.name}.json`);
  rmSync(output, { force: true });
  const run = await processes.run('fio', fioArguments(job, output), job.seconds * 1000 + SLACK_MS, job.env);
  const said = `${run.stderr}\n${run.stdout}`;
  if (run.code !== 0) {
    const text = `fio job ${job.name} failed with code ${run.code}: ${lastLine(said)}`;
    if (/verify:|verification/i.test(said)) throw new HoldfastError('DATA_LOSS', text, { reason: 'Corrupt' });
    throw precondition(text);
  }
  const result = parseFio(readFileSync(output, 'utf8'));
  rmSync(output, { force: true });
  return result;
}

/** Throws ToolMissing, with a sentence, when nothing can be driven here. */
export async function requireFio(processes: Processes): Promise<void> {
  if ((await processes.version('fio')) === undefined) {
    throw precondition('fio is not installed: install the Debian package fio', 'ToolMissing');
  }
  const engines = await processes.run('fio', ['--enghelp'], 10_000);
  if (!/\bnbd\b/.test(engines.stdout)) {
    throw precondition('this fio has no nbd engine: install the Debian package fio (3.33 or newer)', 'ToolMissing');
  }
}
