// `npm run fuzz`: every target in a process of its own, two at a time, each for its share of the time. Prints cases, distinct outcomes
// and how much of the target's sources was reached; an input that broke a property, hung, ended the process or took all memory is
// kept in test/fuzz/corpus and named. Ends with 1 then.
//
//   --minutes N   in all (default 5)            --only TEXT   targets whose name holds the text
//   --seed N      other inputs (default: taken from the clock, printed)
//   --cases N     so many of each target instead of a time: the same seed is then the same run
//   --input FILE  runs one kept input; with --only

import { fork } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { keepInput } from './corpus.js';
import { startCoverage } from './coverage.js';
import { fuzz } from './driver.js';
import { fuzzTargets } from './targets/index.js';

const PROCESSES = 2;
const HEAP_MB = 768;
/** Resident memory a target may have gained: limits of the program are some hundred MiB at most. */
const RSS_GAIN_MAX = 1024 * 1024 * 1024;
const HANG_MS = 60_000;

interface Result {
  readonly cases: number;
  readonly outcomes: number;
  readonly reached: number;
  readonly error: string | null;
  /** base64 */
  readonly input: string | null;
}

function argument(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

const only = argument('--only') ?? '';
const chosen = fuzzTargets.filter(({ name }) => name.includes(only));

// --- One target's process ---------------------------------------------------------------------------------------------

async function child(name: string, seed: number, seconds: number, cases: number, place: string): Promise<void> {
  const target = fuzzTargets.find((one) => one.name === name)!;
  const coverage = startCoverage(target.sources);
  const file = openSync(place, 'w+');
  const head = Buffer.alloc(8);
  let current: Buffer = Buffer.alloc(0);
  let done = 0;
  const end = (result: Result) => process.send!(result, () => process.exit(0));
  const fail = (thrown: unknown) => {
    const error = thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown);
    end({ cases: done, outcomes: 0, reached: 0, error, input: current.toString('base64') });
  };
  // An exception that no call carries is the program's fault whatever the input was.
  process.on('uncaughtException', fail);
  process.on('unhandledRejection', fail);
  const startRss = process.memoryUsage.rss();
  const until = Date.now() + seconds * 1000;
  const report = await fuzz(target, {
    seed,
    cases: cases || Number.MAX_SAFE_INTEGER,
    enough: () => cases === 0 && Date.now() >= until,
    before: (input) => {
      current = input;
      head.writeUInt32LE(input.length, 0);
      head.writeUInt32LE(done, 4);
      writeSync(file, head, 0, 8, 0);
      writeSync(file, input, 0, input.length, 8);
    },
    after: ({ cases: made }) => {
      done = made;
      if (made % 256 === 0 && process.memoryUsage.rss() > startRss + RSS_GAIN_MAX)
        throw new Error(`${process.memoryUsage.rss() >> 20} MiB of memory are in use after ${made} cases`);
    },
  });
  closeSync(file);
  const { failure, outcomes } = report;
  end({
    cases: report.cases,
    outcomes: outcomes.size,
    reached: coverage(),
    error: failure === null ? null : (failure.error.stack ?? failure.error.message),
    input: failure === null ? null : failure.input.toString('base64'),
  });
}

// --- The parent -------------------------------------------------------------------------------------------------------

function run(name: string, seed: number, seconds: number, cases: number, scratch: string): Promise<Result> {
  const place = join(scratch, name);
  const args = ['--child', name, '--seed', String(seed), '--seconds', String(seconds), '--cases', String(cases)];
  return new Promise((resolve) => {
    const running = fork(fileURLToPath(import.meta.url), [...args, '--place', place], {
      execArgv: ['--enable-source-maps', `--max-old-space-size=${HEAP_MB}`],
    });
    let result: Result | null = null;
    let [seen, sinceMs] = ['', Date.now()];
    const watch = setInterval(() => {
      const at = existsSync(place) ? readFileSync(place).toString('latin1', 0, 8) : '';
      if (at !== seen) [seen, sinceMs] = [at, Date.now()];
      else if (Date.now() - sinceMs > HANG_MS) running.kill('SIGKILL');
    }, 2000);
    running.on('message', (message) => {
      result = message as Result;
    });
    running.on('exit', (code, signal) => {
      clearInterval(watch);
      if (result !== null) return resolve(result);
      const bytes = existsSync(place) ? readFileSync(place) : Buffer.alloc(8);
      const input = bytes.subarray(8, 8 + bytes.readUInt32LE(0));
      const error = `the process ended with ${signal ?? code} (it hung, ran out of memory, or crashed)`;
      resolve({ cases: bytes.readUInt32LE(4), outcomes: 0, reached: 0, error, input: input.toString('base64') });
    });
  });
}

async function parent(): Promise<number> {
  const seed = Number(argument('--seed') ?? Date.now() % 1_000_000);
  const cases = Number(argument('--cases') ?? 0);
  const seconds = (Number(argument('--minutes') ?? 5) * 60 * PROCESSES) / chosen.length;
  const scratch = mkdtempSync(join(tmpdir(), 'holdfast-fuzz-'));
  process.stdout.write(`seed ${seed}, ${chosen.length} targets, ${cases || `${seconds.toFixed(0)} s`} each\n`);
  const waiting = [...chosen];
  let [failed, all] = [0, 0];
  const lane = async () => {
    for (let target = waiting.shift(); target !== undefined; target = waiting.shift()) {
      const { cases: made, outcomes, reached, error, input } = await run(target.name, seed, seconds, cases, scratch);
      all += made;
      const line = `${target.name.padEnd(14)} ${String(made).padStart(9)} cases ${String(outcomes).padStart(6)} outcomes ${String(reached).padStart(4)} % of its sources`;
      process.stdout.write(`${error === null ? 'ok    ' : 'FAILED'} ${line}\n`);
      if (error === null) continue;
      failed++;
      const kept = keepInput(target.name, Buffer.from(input ?? '', 'base64'));
      process.stdout.write(`       input kept: ${kept}\n       ${error.split('\n').slice(0, 6).join('\n       ')}\n`);
    }
  };
  try {
    await Promise.all(Array.from({ length: PROCESSES }, lane));
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  process.stdout.write(`${all} cases, ${failed} targets failed\n`);
  return failed === 0 ? 0 : 1;
}

async function again(file: string): Promise<number> {
  const bench = await chosen[0]!.open();
  process.stdout.write(`${chosen[0]!.name}: ${await bench.run(readFileSync(file))}\n`);
  await bench.close();
  return 0;
}

const name = argument('--child');
const input = argument('--input');
if (name !== undefined) {
  const [seed, seconds, cases] = ['--seed', '--seconds', '--cases'].map((flag) => Number(argument(flag)));
  await child(name, seed!, seconds!, cases!, argument('--place')!);
} else process.exit(input === undefined ? await parent() : await again(input));
