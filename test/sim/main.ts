// `npm run sim`: runs seeds of the simulator and says what they did.
//
//   npm run sim -- --seed 17                 one seed; --verbose prints everything that happened in it
//   npm run sim -- --seeds 1-500             these seeds
//   npm run sim -- --minutes 20              as many seeds from --first (default 1) on as fit, on all cores
//   --regressions                            before them those that failed once (test/sim/regressions.json)
//   --check-determinism                      every seed twice, in two processes; the hashes of what happened must be equal
//   --without kind,kind  --writes N  --safety MS   a smaller run of the same seed
//   --shrink                                 of the first failing seed, the fewest faults and the shortest time that still fail
//   --complete                               fails when a kind of fault or a recovery case was reached less than a hundred times
//
// Ends with 1 when a promise was broken; the seed and the command to repeat it are printed.

import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { type Options, parseOptions, settingsFor } from './options.js';
import type { Outcome } from './outcome.js';
import { printReport, Totals } from './report.js';
import { shrink } from './shrink.js';
import { Sim } from './sim.js';

/** What a worker process tells. */
type Told = { readonly outcome: Outcome } | { readonly seed: number; readonly failure: string };

async function runOne(options: Options, seed: number): Promise<Told> {
  const onEvent = options.verbose ? (line: string) => process.stdout.write(`${line}\n`) : undefined;
  try {
    return { outcome: await new Sim(settingsFor(options, seed), { onEvent }).run() };
  } catch (error) {
    return { seed, failure: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}

/** A worker: runs the seeds that it is sent, one after the other. */
function serveSeeds(options: Options): void {
  process.on('message', (seed: number) => {
    runOne(options, seed).then((told) => process.send!(told));
  });
}

function regressions(): number[] {
  const kept = JSON.parse(readFileSync('test/sim/regressions.json', 'utf8')) as { seed: number }[];
  return kept.map(({ seed }) => seed);
}

/** Seeds of a run, in order; null when there are no more. */
function seedSource(options: Options): () => number | null {
  let next = options.first;
  const endMs = Date.now() + (options.minutes ?? 0) * 60_000;
  const before = options.regressions ? regressions() : [];
  return () => {
    const known = before.shift();
    if (known !== undefined) return known;
    if (options.minutes !== null ? Date.now() >= endMs : next > options.last) return null;
    return next++;
  };
}

function repeatCommand(options: Options, seed: number): string {
  return `npm run sim -- --seed ${seed}${options.extra.map((one) => ` ${one}`).join('')}`;
}

async function runAll(options: Options): Promise<Totals> {
  const totals = new Totals();
  const next = seedSource(options);
  const hashes = new Map<number, string>();
  const workers = Math.max(1, Math.min(cpus().length, options.workers));
  const again: number[] = [];
  const one = () =>
    new Promise<void>((resolve) => {
      const child = fork(process.argv[1]!, [...process.argv.slice(2), '--worker'], { stdio: 'inherit' });
      let current: number | null = null;
      const send = () => {
        current = again.shift() ?? (totals.failures.length >= options.failuresMost ? null : next());
        if (current === null) child.disconnect();
        else child.send(current);
      };
      child.on('message', (told: Told) => {
        if ('failure' in told) {
          totals.failed(told.seed, told.failure);
          process.stdout.write(
            `\nseed ${told.seed} FAILED\n${told.failure}\nrepeat: ${repeatCommand(options, told.seed)}\n`,
          );
        } else {
          const { seed, hash } = told.outcome;
          const before = hashes.get(seed);
          if (before === undefined) {
            totals.add(told.outcome);
            if (options.checkDeterminism) {
              hashes.set(seed, hash);
              again.push(seed);
            }
          } else if (before !== hash) {
            totals.failed(seed, `ran differently the second time: ${before}, then ${hash}`);
            process.stdout.write(`\nseed ${seed} is not deterministic: ${before}, then ${hash}\n`);
          } else totals.repeated++;
        }
        send();
      });
      child.on('exit', (code) => {
        if (code !== 0 && current !== null) {
          totals.failed(current, `the process ended with ${code}`);
          process.stdout.write(
            `\nseed ${current} FAILED: its process ended with ${code}\nrepeat: ${repeatCommand(options, current)}\n`,
          );
        }
        resolve();
      });
      send();
    });
  await Promise.all(Array.from({ length: workers }, one));
  return totals;
}

async function runSingle(options: Options): Promise<number> {
  const told = await runOne(options, options.first);
  if ('failure' in told) {
    process.stdout.write(`seed ${told.seed} FAILED\n${told.failure}\n`);
    if (options.shrink) await shrink(options, told.seed);
    return 1;
  }
  if (options.checkDeterminism) {
    const second = await runOne({ ...options, verbose: false }, options.first);
    if (!('outcome' in second) || second.outcome.hash !== told.outcome.hash) {
      process.stdout.write(`seed ${options.first} ran differently the second time\n`);
      return 1;
    }
  }
  process.stdout.write(`${JSON.stringify(told.outcome, null, 1)}\n`);
  return 0;
}

async function main(): Promise<number> {
  const options = parseOptions(process.argv.slice(2));
  if (options.worker) {
    serveSeeds(options);
    return new Promise<number>((resolve) => process.on('disconnect', () => resolve(0)));
  }
  if (options.first === options.last && options.minutes === null) return runSingle(options);
  const started = Date.now();
  const totals = await runAll(options);
  return printReport(totals, options, (Date.now() - started) / 1000);
}

process.exit(await main());
