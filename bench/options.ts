// Command line of the bench. Every number is bounded, so that a run has an end.

import { parseArgs } from 'node:util';
import { GiB, invalid, MiB, messageOf, parseQuantity, printable } from '../src/base/index.js';

const parts = ['volume', 'targets', 'ceph', 'micro'] as const;

export interface BenchOptions {
  readonly part: (typeof parts)[number];
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
  /** Compressibility of written data, in percent. */
  readonly compressiblePercent: number;
  /** Append the results to bench/results, if the run deserves it. */
  readonly publish: boolean;
  /** Workloads to run, by name; empty = all. */
  readonly workloads: readonly string[];
  /** Systems to run, by name; empty = all. */
  readonly systems: readonly string[];
  /** targets: stages to run, by name; empty = all. */
  readonly stages: readonly string[];
  /** targets: fewer and shorter rounds, smaller scenarios; nothing to publish. */
  readonly quick: boolean;
  /** ceph: install Debian's packages where they are missing. */
  readonly install: boolean;
  /** micro: directory for CPU profiles of the served process; '' = none. */
  readonly profile: string;
}

export const usage = `usage: npm run bench -- [volume | targets | ceph | micro] [flags]

volume    (without a word) volumes of Holdfast with one and with three replicas beside other block servers, in one table
targets   every figure the project holds itself to, line by line, with its target beside it: held or missed
ceph      Ceph RBD with three OSDs beside Holdfast; kept in the history, where targets finds it
micro     the parts of the hot path one by one, a write's CPU time by stage, the NBD server and engine on memory

  --rounds N        interleaved rounds, 1 to 50 (3; targets 7)
  --seconds S       of each measured run, 1 to 600 (3; targets 2)
  --size SIZE       of each volume, 64Mi to 64Gi (512Mi)
  --dir DIR         where the data goes (the system's temporary directory)
  --workloads A,B   only these
  --systems A,B     only these
  --stages A,B      targets: only these
  --quick           targets: about five minutes, not to be published
  --compressible P  percent of the data that compresses away, 0 to 100 (50)
  --kbench          kbench's twelve workloads and layout
  --install         ceph: install the Debian packages it needs
  --publish         append to bench/results: whole runs of a committed tree, begun on a machine at rest
  --profile DIR     micro: keep CPU profiles of the served process there
`;

const flags = {
  rounds: { type: 'string' },
  seconds: { type: 'string' },
  size: { type: 'string' },
  dir: { type: 'string' },
  workloads: { type: 'string' },
  systems: { type: 'string' },
  stages: { type: 'string' },
  quick: { type: 'boolean' },
  compressible: { type: 'string' },
  kbench: { type: 'boolean' },
  install: { type: 'boolean' },
  publish: { type: 'boolean' },
  profile: { type: 'string' },
} as const;

interface Defaults {
  readonly rounds: number;
  readonly seconds: number;
}

const defaults: Readonly<Record<BenchOptions['part'], Defaults>> = {
  volume: { rounds: 3, seconds: 3 },
  targets: { rounds: 7, seconds: 2 },
  ceph: { rounds: 7, seconds: 2 },
  micro: { rounds: 3, seconds: 3 },
};
const quickDefaults: Defaults = { rounds: 1, seconds: 1 };

/** Throws INVALID_ARGUMENT that names the flag. */
export function parseOptions(argv: readonly string[]): BenchOptions {
  const { values, positionals } = parse(argv);
  const part = parts.find((name) => name === (positionals[0] ?? 'volume'));
  if (positionals.length > 1 || part === undefined) {
    throw invalid(`unknown part ${printable(positionals.join(' '))}: choose from ${parts.join(', ')}`);
  }
  const quick = values.quick ?? false;
  const usual = quick ? quickDefaults : defaults[part];
  return {
    part,
    rounds: integer('rounds', values.rounds, usual.rounds, 1, 50),
    seconds: integer('seconds', values.seconds, usual.seconds, 1, 600),
    sizeBytes: size(values.size),
    directory: values.dir ?? '',
    kbench: values.kbench ?? false,
    compressiblePercent: integer('compressible', values.compressible, 50, 0, 100),
    publish: values.publish ?? false,
    workloads: names(values.workloads),
    systems: names(values.systems),
    stages: names(values.stages),
    quick,
    install: values.install ?? false,
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

function integer(name: string, text: string | undefined, fallback: number, min: number, max: number): number {
  if (text === undefined) return fallback;
  const value = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= min && value <= max))
    throw invalid(`--${name} must be a whole number from ${min} to ${max}, not ${printable(text)}`);
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
