// A volume as a device of the kernel's NBD driver. This machine's kernel may lack it, so all of it happens in a virtual machine
// with Debian's (test/lib/virtual-machine.ts), whose root is this machine's: the compiled tree runs there as it stands.
// Each row of scenarios has a machine to itself; each scenario is a test here.

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { distFolder } from '../lib/build-once.js';
import { kernelNbdRows, kernelNbdScenarios, type ScenarioResult } from '../lib/kernel-nbd-scenarios.js';
import { missingTools } from '../lib/system-needs.js';
import { missingForVm, prepareVm, runInVm } from '../lib/virtual-machine.js';

/** Twice what it takes where nothing else runs. */
const machineMs = 300_000;

async function reasonToSkip(): Promise<string> {
  const crate = join(import.meta.dirname, '../../src/hotpath/native/target/release/libholdfast_native.so');
  if (!existsSync(crate) && !existsSync(join(distFolder, 'src/hotpath/holdfast-native.node'))) {
    return 'the native crate was not built';
  }
  const missing = missingForVm() || missingTools(['fio', 'mkfs.ext4', 'mkfs.xfs', 'blkdiscard']);
  if (missing !== '') return missing;
  try {
    await prepareVm();
    return '';
  } catch (error) {
    return `no virtual machine: ${error instanceof Error ? error.message : String(error)}`;
  }
}

const reason = await reasonToSkip();
if (reason !== '') process.stderr.write(`\nSKIPPED: kernel nbd tests cannot run here: ${reason}\n\n`);

const root = join(import.meta.dirname, '../..');
const quoted = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;

describe.skipIf(reason !== '')('kernel nbd, in a virtual machine', () => {
  const results = new Map<string, ScenarioResult>();
  let logs = '';

  async function runRow(names: readonly string[]): Promise<void> {
    const directory = mkdtempSync(join(tmpdir(), 'hf-vm-'));
    const guest = [
      process.execPath,
      '--enable-source-maps',
      join(distFolder, 'test/lib/kernel-nbd-guest.js'),
      ...names,
    ];
    const command = `cd ${quoted(root)} && ${guest.map(quoted).join(' ')} > /out/log 2>&1`;
    try {
      const { console } = await runInVm(command, directory, machineMs);
      const text = (name: string) =>
        existsSync(join(directory, name)) ? readFileSync(join(directory, name), 'utf8') : '';
      for (const line of text('results').split('\n').filter(Boolean)) {
        const result = JSON.parse(line) as ScenarioResult;
        results.set(result.name, result);
      }
      logs += `${console.slice(-2_000)}\n${text('log').slice(-4_000)}\n`;
    } finally {
      rmSync(directory, { recursive: true });
    }
  }

  beforeAll(async () => {
    await Promise.all(kernelNbdRows.map(runRow));
  }, machineMs + 10_000);

  it.each(kernelNbdScenarios)('%s', (name) => {
    const result = results.get(name);
    if (result === undefined) throw new Error(`the machine did not come to it:\n${logs}`);
    process.stdout.write(`${name}: ${result.ms} ms in the machine. ${result.detail}\n`);
    expect(result.error).toBe('');
  });
});
