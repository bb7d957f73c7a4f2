// fio jobs against an NBD export: fill, measure, verify.

import { createWriteStream } from 'node:fs';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { KiB, MiB } from '../../src/base/index.js';
import { seeded } from '../micro/sample-data.js';
import { bufferSettings, type FioJob, nbdSettings } from './fio.js';
import type { Workload } from './workload.js';

const FILL_SECONDS_MAX = 300;
const VERIFY_BYTES = 64 * MiB;
const BLOCK = 4 * KiB;
/** A replayed log ends when its writes do: as many as the fastest system here could do, within bounds. */
const LOGGED_WRITES_PER_SECOND = 100_000;
const LOGGED_WRITES_MAX = 1_000_000;

/** Writes every byte once, so that reads read something and writes overwrite. */
export function fillJob(uri: string, sizeBytes: number): FioJob {
  const settings = {
    ...nbdSettings(uri),
    ...bufferSettings,
    rw: 'write',
    bs: 128 * KiB,
    iodepth: 8,
    size: sizeBytes,
    end_fsync: 1,
  };
  return { name: 'fill', settings, seconds: FILL_SECONDS_MAX };
}

export interface MeasureOptions {
  readonly sizeBytes: number;
  readonly seconds: number;
  /** From writeFlushLog. */
  readonly flushLog: string;
}

export function measureJob(workload: Workload, uri: string, options: MeasureOptions): FioJob {
  const common = {
    ...nbdSettings(uri),
    ...bufferSettings,
    size: options.sizeBytes,
    iodepth: workload.depth,
    runtime: options.seconds,
  };
  if (workload.flush === 'each-depth') {
    // fio's own fsync=N does not mean one flush per N writes with an asynchronous engine; a replayed log does.
    return { name: workload.name, settings: { ...common, read_iolog: options.flushLog }, seconds: options.seconds };
  }
  const settings = {
    ...common,
    rw: workload.rw,
    bs: workload.blockBytes,
    norandommap: 1,
    randrepeat: 0,
    time_based: 1,
  };
  const flush: Record<string, number> = workload.flush === 'each' ? { fsync: 1 } : {};
  return { name: workload.name, settings: { ...settings, ...flush }, seconds: options.seconds };
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
  const blocks = sizeBytes / BLOCK;
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

/** Random requests of 4 to 256 KiB over the volume, each read back and compared with its CRC-32C. */
export function verifyJob(uri: string, sizeBytes: number): FioJob {
  const settings = {
    ...nbdSettings(uri),
    ...bufferSettings,
    rw: 'randwrite',
    bsrange: `${4 * KiB}-${256 * KiB}`,
    iodepth: 16,
    size: sizeBytes,
    io_size: Math.min(sizeBytes, VERIFY_BYTES),
    verify: 'crc32c',
    verify_fatal: 1,
    do_verify: 1,
    // Else an interrupted fio leaves a file in the working directory.
    verify_state_save: 0,
  };
  return { name: 'verify', settings, seconds: FILL_SECONDS_MAX };
}
