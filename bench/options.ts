// Command line of the bench. Every number is bounded, so that a run has an end.

import { parseArgs } from 'node:util';
import { GiB, invalid, MiB, messageOf, parseQuantity, printable } from '../src/base/index.js';

export interface BenchOptions {
  readonly part: 'volume' | 'micro';
  /** Interleaved rounds over all workloads and systems. */
  readonly rounds: number;
  /** Of each measured run. */
  readonly seconds: number;
  /** Of each volume and peer file, in bytes. */
  readonly sizeBytes: number;
  /** Where pools and peer files are made; '' = the system's temporary directory. */
  readonly directory: string;
  /** The twelve workloads and the layout of kbench instead of our own. */
  readonly kbench: boolean;
  /** Append the results to bench/results. */
  readonly save: boolean;
  /** Workloads to run, by name; empty = all. */
  readonly workloads: readonly string[];
  /** Systems to run, by name; empty = all. */
  readonly systems: readonly string[];
  /** micro: directory for CPU profiles of the served process; '' = none. */
  readonly profile: string;
}

export const usage = `usage: npm run bench -- [micro] [flags]

Without a word: volumes of Holdfast with one and with three replicas beside other block servers, through NBD, in one table.
micro: the parts of the hot path one by one, and the NBD server and engine on memory.

  --rounds N        interleaved rounds, 1 to 50 (3; publish with 7)
  --seconds S       of each measured run, 1 to 600 (3; publish with 5)
  --size SIZE       of each volume, 64Mi to 64Gi (512Mi)
  --dir DIR         where the data goes (the system's temporary directory)
  --workloads A,B   only these
  --systems A,B     only these
  --kbench          kbench's twelve workloads and layout
  --no-save         do not append to bench/results
  --profile DIR     micro: keep CPU profiles of the served process there
`;

const flags = {
  rounds: { type: 'string' },
  seconds: { type: 'string' },
  size: { type: 'string' },
  dir: { type: 'string' },
  workloads: { type: 'string' },
  systems: { type: 'string' },
  kbench: { type: 'boolean' },
  'no-save': { type: 'boolean' },
  profile: { type: 'string' },
} as const;

/** Throws INVALID_ARGUMENT that names the flag. */
export function parseOptions(argv: readonly string[]): BenchOptions {
  const { values, positionals } = parse(argv);
  const part = positionals[0] ?? 'volume';
  if (positionals.length > 1 || (part !== 'volume' && part !== 'micro')) {
    throw invalid(`unknown part ${printable(positionals.join(' '))}: volume or micro`);
  }
  return {
    part,
    rounds: integer('rounds', values.rounds, 3, 50),
    seconds: integer('seconds', values.seconds, 3, 600),
    sizeBytes: size(values.size),
    directory: values.dir ?? '',
    kbench: values.kbench ?? false,
    save: !(values['no-save'] ?? false),
    workloads: names(values.workloads),
    systems: names(values.systems),
    profile: values.profile ?? '',
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({ args: [...argv], options: flags, allowPositionals: true });
  } catch (error) {
    throw invalid(messageOf(error));
  }
}

function integer(name: string, text: string | undefined, fallback: number, max: number): number {
  if (text === undefined) return fallback;
  const value = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 1 && value <= max))
    throw invalid(`--${name} must be a whole number from 1 to ${max}, not ${printable(text)}`);
  return value;
}

function size(text: string | undefined): number {
  if (text === undefined) return 512 * MiB;
  const bytes = parseQuantity(text) ?? Number.NaN;
  if (!(bytes >= 64 * MiB && bytes <= 64 * GiB) || bytes % MiB !== 0) {
    throw invalid(`--size must be a whole number of MiB from 64Mi to 64Gi, not ${printable(text)}`);
  }
  return bytes;
}

function names(text: string | undefined): string[] {
  return (text ?? '').split(',').filter((name) => name !== '');
}

/** The items of `all` that were asked for. Throws INVALID_ARGUMENT for a name that none has. */
export function chosen<T extends { readonly name: string }>(
  what: string,
  all: readonly T[],
  wanted: readonly string[],
): T[] {
  const unknown = wanted.find((name) => !all.some((item) => item.name === name));
  if (unknown !== undefined) {
    throw invalid(
      `--${what}: there is no ${printable(unknown)}; choose from ${all.map((item) => item.name).join(', ')}`,
    );
  }
  return wanted.length === 0 ? [...all] : all.filter((item) => wanted.includes(item.name));
}
