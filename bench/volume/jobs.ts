// fio jobs against a volume: fill, measure, verify.

import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { KiB, MiB } from '../../src/base/index.js';
import { seeded } from '../micro/sample-data.js';
import type { FioTarget } from '../systems/system.js';
import { bufferSettings, COMPRESSIBLE_PERCENT, type FioJob } from './fio.js';
import type { Workload } from './workload.js';

const FILL_SECONDS_MAX = 300;
const VERIFY_BYTES = 64 * MiB;
const BLOCK = 4 * KiB;
/** A replayed log ends when its writes do: as many as the fastest system here could do, within bounds. */
const LOGGED_WRITES_PER_SECOND = 100_000;
const LOGGED_WRITES_MAX = 1_000_000;

/**
 * The end of each volume that measured jobs leave alone: written before them with blocks that name themselves, and checked
 * after them, so that what a store loses or mixes up under load shows.
 */
export const KEPT_BYTES = 16 * MiB;

function job(
  name: string,
  target: FioTarget,
  settings: Readonly<Record<string, string | number>>,
  seconds: number,
): FioJob {
  return { name, settings: { ...target.settings, ...settings }, env: target.env, seconds };
}

/** Writes every byte once, so that reads read something and writes overwrite. */
export function fillJob(target: FioTarget, sizeBytes: number, compressiblePercent = COMPRESSIBLE_PERCENT): FioJob {
  const data = bufferSettings(compressiblePercent);
  return job(
    'fill',
    target,
    { ...data, rw: 'write', bs: 128 * KiB, iodepth: 8, size: sizeBytes, end_fsync: 1 },
    FILL_SECONDS_MAX,
  );
}

export interface MeasureOptions {
  readonly sizeBytes: number;
  readonly seconds: number;
  /** From writeFlushLog. */
  readonly flushLog: string;
  /** Operations a second at most; 0 = as many as there can be. */
  readonly rate?: number;
}

export function measureJob(workload: Workload, target: FioTarget, options: MeasureOptions): FioJob {
  const { name } = workload;
  const common = {
    ...bufferSettings(workload.compressiblePercent ?? COMPRESSIBLE_PERCENT),
    size: options.sizeBytes - KEPT_BYTES,
    iodepth: workload.depth,
    runtime: options.seconds,
  };
  if (workload.flush === 'each-depth') {
    // fio's own fsync=N does not mean one flush per N writes with an asynchronous engine; a replayed log does.
    return job(name, target, { ...common, read_iolog: options.flushLog }, options.seconds);
  }
  const settings: Record<string, string | number> = {
    ...common,
    rw: workload.rw,
    bs: workload.blockBytes,
    randrepeat: 0,
  };
  // With its map of random blocks fio ends when each was read once.
  if (!workload.cold) Object.assign(settings, { norandommap: 1, time_based: 1 });
  if (workload.flush === 'each') settings.fsync = 1;
  if (workload.clients !== undefined)
    Object.assign(settings, { numjobs: workload.clients, thread: 1, group_reporting: 1 });
  if (options.rate) settings.rate_iops = options.rate;
  return job(name, target, settings, options.seconds);
}

/** fio's log format 2: random 4 KiB writes with a flush after every `every` of them. Returns its path. */
export async function writeFlushLog(
  directory: string,
  sizeBytes: number,
  seconds: number,
  every: number,
): Promise<string> {
  const path = join(directory, 'flush-each.log');
  const stream = createWriteStream(path);
  const next = seeded(11);
  const blocks = (sizeBytes - KEPT_BYTES) / BLOCK;
  const writes = Math.min(LOGGED_WRITES_MAX, seconds * LOGGED_WRITES_PER_SECOND);
  stream.write('fio version 2 iolog\nnbd add\nnbd open\n');
  for (let done = 0; done < writes; done += every) {
    let lines = '';
    for (let i = 0; i < every; i++) lines += `nbd write ${(next() % blocks) * BLOCK} ${BLOCK}\n`;
    stream.write(`${lines}nbd sync 0 0\n`);
  }
  stream.end('nbd close\n');
  await finished(stream);
  return path;
}

const verified = {
  rw: 'randwrite',
  verify: 'crc32c',
  verify_fatal: 1,
  // Else an interrupted fio leaves a file in the working directory.
  verify_state_save: 0,
} as const;

/** Random requests of 4 to 256 KiB over the volume, each read back and compared with its CRC-32C. */
export function verifyJob(target: FioTarget, sizeBytes: number): FioJob {
  const settings = {
    ...bufferSettings(COMPRESSIBLE_PERCENT),
    ...verified,
    bsrange: `${4 * KiB}-${256 * KiB}`,
    iodepth: 16,
    size: sizeBytes,
    io_size: Math.min(sizeBytes, VERIFY_BYTES),
    do_verify: 1,
  };
  return job('verify', target, settings, FILL_SECONDS_MAX);
}

/** Writes the kept end of a volume, or checks that it still holds exactly that. */
export function keepJob(what: 'write' | 'check', target: FioTarget, sizeBytes: number): FioJob {
  const settings = {
    ...bufferSettings(COMPRESSIBLE_PERCENT),
    ...verified,
    bs: 4 * KiB,
    iodepth: 16,
    offset: sizeBytes - KEPT_BYTES,
    size: KEPT_BYTES,
    randseed: 7,
    ...(what === 'write' ? { do_verify: 0, end_fsync: 1 } : { do_verify: 1, verify_only: 1 }),
  };
  return job(`keep-${what}`, target, settings, FILL_SECONDS_MAX);
}
