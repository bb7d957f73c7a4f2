// `npm test`: format, types, layers, unit, conformance and fuzz tests, a minute of the simulator, then crashes and tests of real processes; one count over all of them, and
// every test that did not run named with its reason. `--quick` leaves the real processes out.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Outcome {
  passed: number;
  failed: number;
  skipped: string[];
  failures: string[];
}

interface VitestReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly meta?: Record<string, unknown>;
    }[];
  }[];
}

const root = process.cwd();
const scratch = mkdtempSync(join(tmpdir(), 'holdfast-tests-'));
const total: Outcome = { passed: 0, failed: 0, skipped: [], failures: [] };

function run(program: string, args: string[]): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
    child.on('error', (error) => {
      process.stderr.write(`${program}: ${error.message}\n`);
      resolve(127);
    });
    child.on('exit', (code, signal) => resolve(code ?? (signal === null ? 1 : 128)));
  });
}

/** One command that passes or fails as a whole. */
async function step(name: string, program: string, args: string[]): Promise<void> {
  process.stdout.write(`\n== ${name}\n`);
  const code = await run(program, args);
  if (code === 0) total.passed++;
  else {
    total.failed++;
    total.failures.push(`${name} (exit ${code})`);
  }
}

async function vitest(name: string, config: string): Promise<void> {
  process.stdout.write(`\n== ${name}\n`);
  const report = join(scratch, `${name.replaceAll(/\W+/g, '-')}.json`);
  const code = await run(process.execPath, [
    join(root, 'node_modules/vitest/vitest.mjs'),
    'run',
    '--root',
    root,
    '-c',
    config,
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
  ]);
  let parsed: VitestReport;
  try {
    parsed = JSON.parse(readFileSync(report, 'utf8')) as VitestReport;
  } catch {
    total.failed++;
    total.failures.push(`${name}: no report (exit ${code})`);
    return;
  }
  const before = total.failed;
  for (const file of parsed.testResults) {
    if (file.status === 'failed' && file.assertionResults.length === 0) {
      total.failed++;
      total.failures.push(`${file.name}: ${file.message.split('\n')[0]}`);
    }
    for (const test of file.assertionResults) {
      if (test.status === 'passed') total.passed++;
      else if (test.status === 'failed') {
        total.failed++;
        total.failures.push(test.fullName);
      } else total.skipped.push(test.fullName);
    }
  }
  if (code !== 0 && total.failed === before) {
    total.failed++;
    total.failures.push(`${name}: exit ${code} without a failed test`);
  }
}

const quick = process.argv.includes('--quick');
const bin = (name: string) => join(root, 'node_modules/.bin', name);
await step('format and lint', bin('biome'), ['check', '--error-on-warnings']);
await step('types', bin('tsc'), ['-p', root, '--noEmit']);
await vitest('unit', 'test/vitest.config.ts');
await step('simulator', process.execPath, [
  '--enable-source-maps',
  fileURLToPath(new URL('sim/main.js', import.meta.url)),
  ...['--regressions', '--seeds', quick ? '1-20' : '1-80'],
]);
if (!quick) {
  await vitest('crash', 'test/vitest.crash.config.ts');
  await vitest('system', 'test/vitest.system.config.ts');
}
rmSync(scratch, { recursive: true, force: true });

if (total.skipped.length > 0)
  process.stdout.write(
    `\nNot run here (each says why above):\n${total.skipped.map((name) => `  - ${name}\n`).join('')}`,
  );
if (total.failures.length > 0)
  process.stdout.write(`\nFailed:\n${total.failures.map((name) => `  - ${name}\n`).join('')}`);
process.stdout.write(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped.length} skipped\n`);
process.exitCode = total.failed === 0 ? 0 : 1;
