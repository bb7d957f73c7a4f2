// `npm run bench`: Holdfast beside other block servers, measured on this machine. Exit codes: 0 done; 1 failed, or a system
// gave back other bytes than were written; 2 wrong usage or nothing here to measure with; 130 interrupted.

import { mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HoldfastError, invalid, messageOf, realClock, realRandom } from '../src/base/index.js';
import { runCephBench } from './ceph/main.js';
import { runMicroBench } from './micro/main.js';
import { type BenchOptions, parseOptions, usage } from './options.js';
import { Processes } from './processes.js';
import type { BenchRun } from './run.js';
import { runTargets } from './targets/main.js';
import { runVolumeBench } from './volume/main.js';

const INTERRUPTED = 130;

const runners: Readonly<Record<BenchOptions['part'], (run: BenchRun) => Promise<void>>> = {
  volume: runVolumeBench,
  targets: runTargets,
  ceph: runCephBench,
  micro: runMicroBench,
};

function makeDirectory(parent: string): string {
  try {
    return realpathSync(mkdtempSync(join(parent, 'hf-bench-')));
  } catch (error) {
    throw invalid(`--dir ${parent} can't be used: ${messageOf(error)}`);
  }
}

async function run(options: BenchOptions, signal: AbortSignal): Promise<void> {
  const directory = makeDirectory(options.directory || tmpdir());
  const processes = new Processes(realClock, signal, directory);
  const remove = () => rmSync(directory, { recursive: true, force: true });
  process.on('exit', remove);
  const parts = {
    options,
    processes,
    directory,
    clock: realClock,
    random: realRandom,
    print: (text: string) => void process.stdout.write(text),
    progress: (text: string) => void process.stderr.write(`${text}\n`),
  };
  try {
    await runners[options.part](parts);
  } finally {
    await processes.stopAll();
    remove();
  }
}

async function main(argv: readonly string[]): Promise<number> {
  if (argv.includes('--help')) {
    process.stdout.write(usage);
    return 0;
  }
  const interrupted = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (interrupted.signal.aborted) process.exit(INTERRUPTED);
      interrupted.abort(new HoldfastError('CANCELLED', 'interrupted'));
    });
  }
  try {
    await run(parseOptions(argv), interrupted.signal);
    return 0;
  } catch (error) {
    process.stderr.write(`bench: ${messageOf(error)}\n`);
    if (interrupted.signal.aborted) return INTERRUPTED;
    if (!(error instanceof HoldfastError)) return 1;
    return error.code === 'INVALID_ARGUMENT' || error.reason === 'ToolMissing' ? 2 : 1;
  }
}

// Connections that are still being given up must not keep the process.
process.exit(await main(process.argv.slice(2)));
