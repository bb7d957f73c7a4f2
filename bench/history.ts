// Results that stay: one JSON object a line in bench/results, kept in git, so that a loss can be traced to its commit. They
// say what the machine is, never where it is: no host names, no paths, no names of users.

import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { GiB } from '../src/base/index.js';
import type { Processes } from './processes.js';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGib: number;
  /** Numbers only: what a distributor adds may name a place. */
  readonly kernel: string;
  readonly node: string;
  /** Of the data's directory. */
  readonly filesystem: string;
  /** Versions of the other programs. */
  readonly tools: Readonly<Record<string, string>>;
}

const GIT_MS = 10_000;
const STAT_MS = 10_000;

/** The source tree's root: the folder with package.json above this file, compiled or not. */
export function projectRoot(): string {
  let directory = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(directory, 'package.json'))) {
    const parent = dirname(directory);
    if (parent === directory) return process.cwd();
    directory = parent;
  }
  return directory;
}

function processor(): Pick<Machine, 'cpu' | 'cores'> {
  return { cpu: cpus()[0]?.model.trim() ?? 'unknown', cores: cpus().length };
}

export async function describeMachine(
  processes: Processes,
  directory: string,
  tools: readonly string[],
): Promise<Machine> {
  const filesystem = await processes.run('stat', ['--file-system', '--format=%T', directory], STAT_MS);
  const versions: Record<string, string> = {};
  for (const tool of tools) {
    const version = /\d+(\.\d+)+/.exec((await processes.version(tool)) ?? '')?.[0];
    if (version !== undefined) versions[tool] = version;
  }
  return {
    ...processor(),
    memoryGib: Math.round(totalmem() / GiB),
    kernel: /^\d+(\.\d+)*/.exec(release())?.[0] ?? '',
    node: process.versions.node,
    filesystem: filesystem.stdout.trim(),
    tools: versions,
  };
}

/** The commit, with '+' when the tree differs from it; '' outside a git checkout. */
export async function currentCommit(processes: Processes): Promise<string> {
  try {
    const git = (...args: string[]) => processes.run('git', ['-C', projectRoot(), ...args], GIT_MS);
    const head = await git('rev-parse', 'HEAD');
    if (head.code !== 0) return '';
    const changes = await git('status', '--porcelain', '--untracked-files=no', '--', ':!bench/results');
    return head.stdout.trim() + (changes.stdout.trim() === '' ? '' : '+');
  } catch {
    // Without git there is no commit to name.
    return '';
  }
}

/** Appends one line to bench/results/NAME.jsonl; returns the path within the project. */
export function appendResult(name: string, result: object): string {
  const relative = join('bench', 'results', `${name}.jsonl`);
  const path = resultsPath(name);
  mkdirSync(dirname(path), { recursive: true });
  appendFileSync(path, `${JSON.stringify(result)}\n`);
  return relative;
}

function resultsPath(name: string): string {
  return join(projectRoot(), 'bench', 'results', `${name}.jsonl`);
}

/** One line of a results file. */
export type Published = Readonly<Record<string, unknown>>;

/** The lines of a results file, in order; lines that are no JSON objects are left out. */
export function parseResults(text: string): Published[] {
  const results: Published[] = [];
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue;
    try {
      const value: unknown = JSON.parse(line);
      if (typeof value === 'object' && value !== null && !Array.isArray(value)) results.push(value as Published);
    } catch {
      // A line that an interrupted run left behind is no result.
    }
  }
  return results;
}

/** Of this processor, with as many cores: figures of other machines say nothing about a change. */
function sameMachine(): (result: Published) => boolean {
  const { cpu, cores } = processor();
  return ({ machine }) => {
    const other = (typeof machine === 'object' && machine !== null ? machine : {}) as Partial<Machine>;
    return other.cpu === cpu && other.cores === cores;
  };
}

/** Whether its floor stood still while it was measured, or it has none since it is CPU time only. */
export function isSteady({ steady }: Published): boolean {
  return steady !== false;
}

/** The newest of `results` from a steady machine, else the newest; undefined when there is none. */
export function bestFormer(results: readonly Published[]): Published | undefined {
  return results.findLast(isSteady) ?? results.at(-1);
}

/** What to compare with, of bench/results/NAME.jsonl from a machine like this one. */
export function formerRun(name: string): Published | undefined {
  const path = resultsPath(name);
  return existsSync(path) ? bestFormer(parseResults(readFileSync(path, 'utf8')).filter(sameMachine())) : undefined;
}

/** Date, commit, and whether the machine was steady then. */
export function writeFormer(result: Published): string {
  const text = `${String(result.at).slice(0, 10)}, commit ${String(result.commit).slice(0, 8)}`;
  return isSteady(result) ? text : `${text}, unsteady machine`;
}

/** Four digits that count: the rest is noise, and a history is read by people, too. */
export function rounded(value: number): number {
  return value === 0 ? 0 : Number(value.toPrecision(4));
}
