// `npm run planted`: plants each bug of the lists in a copy of the source, one by one, and runs the simulator until it is caught, or, for those that are
// not its business, the tests that are there for them.
//
//   --only TEXT   those whose name holds the text      --from N   the list from the Nth on
//   --seeds N   seeds tried before a bug counts as missed (default 400)
//
// Ends with 1 when one was missed or could not be planted.

import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type PlantedBug, plantedBugs } from './bugs.js';
import { type MembershipBug, membershipBugs } from './membership.js';
import { parserBugs } from './parsers.js';

const root = process.cwd();

function argument(name: string): string | undefined {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

/** A tree that can be built: sources, and the native crate as it was built here. */
function copyTree(): string {
  const copy = mkdtempSync(join(tmpdir(), 'holdfast-planted-'));
  const crate = join(root, 'src/hotpath/native/target');
  for (const name of ['src', 'test', 'bench', 'proto', 'package.json', 'tsconfig.json'])
    cpSync(join(root, name), join(copy, name), {
      recursive: true,
      filter: (path) => !path.startsWith(crate) || path.endsWith('libholdfast_native.so') || !/\.[a-z]+$/.test(path),
    });
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

function build(copy: string): string | null {
  const { status, stdout } = spawnSync(join(root, 'node_modules/.bin/tsc'), ['-p', 'tsconfig.json', '--noCheck'], {
    cwd: copy,
    encoding: 'utf8',
  });
  return status === 0 ? null : stdout;
}

interface Verdict {
  readonly caught: boolean;
  readonly how: string;
  readonly seconds: number;
}

function simulate(copy: string, seeds: number): Verdict {
  const started = Date.now();
  const { status, stdout } = spawnSync(
    process.execPath,
    ['dist/test/sim/main.js', '--seeds', `1-${seeds}`, '--failures', '1'],
    { cwd: copy, encoding: 'utf8', maxBuffer: 1 << 26 },
  );
  const seconds = (Date.now() - started) / 1000;
  const failed = stdout.split('\n').find((line) => line.startsWith('FAILED'));
  return { caught: status !== 0 && failed !== undefined, how: failed ?? `not caught by ${seeds} seeds`, seconds };
}

/** Runs the tests that are there for it. */
function test(copy: string, { tests }: MembershipBug): Verdict {
  const started = Date.now();
  const vitest = join(root, 'node_modules/.bin/vitest');
  const args = ['run', '-c', 'test/vitest.config.ts', '--bail=1', ...tests];
  const ran = spawnSync(vitest, args, { cwd: copy, encoding: 'utf8', maxBuffer: 1 << 26 });
  const { status, stdout, stderr } = ran;
  // Failures are told on standard error.
  const failed = `${stdout}\n${stderr}`.split('\n').find((line) => line.includes(' FAIL '));
  const seconds = (Date.now() - started) / 1000;
  return { caught: status !== 0 && failed !== undefined, how: failed?.trim() ?? 'no test failed', seconds };
}

function judge(copy: string, bug: PlantedBug | MembershipBug, seeds: number): Verdict {
  const path = join(copy, bug.file);
  const before = readFileSync(path, 'utf8');
  let changed = before;
  for (const [find, replace] of bug.edits) {
    if (changed.split(find).length !== 2)
      return { caught: false, how: `can't be planted: ${bug.file} does not hold its place once`, seconds: 0 };
    changed = changed.replace(find, () => replace);
  }
  writeFileSync(path, changed);
  try {
    if ('tests' in bug) return test(copy, bug);
    const broken = build(copy);
    return broken === null ? simulate(copy, seeds) : { caught: false, how: `does not compile: ${broken}`, seconds: 0 };
  } finally {
    writeFileSync(path, before);
  }
}

const only = argument('--only') ?? '';
const from = Number(argument('--from') ?? 1);
const seeds = Number(argument('--seeds') ?? 400);
const copy = copyTree();
let missed = 0;
let all = 0;
function tell(bug: PlantedBug, { caught, how, seconds }: Verdict): void {
  all++;
  if (!caught) missed++;
  process.stdout.write(
    `${caught ? 'caught' : 'MISSED'}  ${bug.name} (${bug.breaks})  ${seconds.toFixed(0)} s: ${how.slice(0, 260)}\n`,
  );
}

try {
  for (const bug of [...plantedBugs, ...membershipBugs, ...parserBugs]
    .slice(from - 1)
    .filter(({ name }) => name.includes(only)))
    tell(bug, judge(copy, bug, seeds));
} finally {
  rmSync(copy, { recursive: true, force: true });
}
process.stdout.write(`${all - missed} of ${all} planted bugs caught\n`);
process.exit(missed === 0 ? 0 : 1);
