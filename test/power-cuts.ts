// `npm run power-cuts`: all short lives of test/crash/short-lives.test.ts, a process for each core, and one count over all of them.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { StateCounts } from './lib/crash/short-lives.js';

const processes = availableParallelism();
const scratch = mkdtempSync(join(tmpdir(), 'holdfast-power-cuts-'));
const countsFile = (share: number) => join(scratch, `${share}.json`);

function run(share: number): Promise<boolean> {
  const args = [
    'node_modules/vitest/vitest.mjs',
    'run',
    '-c',
    'test/vitest.crash.config.ts',
    'test/crash/short-lives.test.ts',
  ];
  const env = { ...process.env, HOLDFAST_LIVES: `${share}/${processes}`, HOLDFAST_COUNTS: countsFile(share) };
  const child = spawn(process.execPath, args, { env, stdio: ['ignore', 'inherit', 'inherit'] });
  return new Promise((resolve) => child.on('exit', (code) => resolve(code === 0)));
}

const shares = Array.from({ length: processes }, (_, share) => share);
const green = (await Promise.all(shares.map(run))).every((passed) => passed);
if (green) {
  const total: Partial<StateCounts> = {};
  for (const share of shares) {
    const counts = JSON.parse(readFileSync(countsFile(share), 'utf8')) as StateCounts;
    for (const [name, count] of Object.entries(counts) as [keyof StateCounts, number][])
      total[name] = (total[name] ?? 0) + count;
  }
  const states = total.power! + total.kills!;
  process.stdout.write(
    `\n${total.lives} lives, ${total.moments} changes, ${states} crash states (${total.power} power cuts, ${total.torn} of them with a torn write; ${total.kills} kills; ${total.again} went on until another power cut), 0 violations\n`,
  );
} else process.stdout.write('\na promise was broken: see above\n');
rmSync(scratch, { recursive: true, force: true });
process.exitCode = green ? 0 : 1;
