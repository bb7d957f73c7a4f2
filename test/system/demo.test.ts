// `npm run demo` as a user runs it: it succeeds, again and again, with a mount and without, and however it ends nothing is
// left: no process, no mount, no loop device, no file. Where volumes can't be mounted it drives them over NBD by itself.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { distFolder } from '../lib/build-once.js';

const runTimeoutMs = 400_000;
const interruptedTimeoutMs = 120_000;

function read(from: () => string): string {
  try {
    return from();
  } catch {
    return '';
  }
}

/** Everything in the system that has to do with `directory`, found in other ways than the demo's where there are others. */
function leftOf(directory: string): string[] {
  const processes = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      const command = read(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8'));
      const links = ['cwd', 'fd/1', 'fd/2'].map((name) => read(() => readlinkSync(`/proc/${pid}/${name}`)));
      return command.includes(directory) || links.some((link) => link.startsWith(directory));
    })
    .map((pid) => `process ${pid} ${read(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')).replaceAll('\0', ' ')}`);
  const mounts = read(() => readFileSync('/proc/mounts', 'utf8')).split('\n');
  const loops = read(() => readdirSync('/sys/block').join(' '))
    .split(' ')
    .filter((name) => name.startsWith('loop'))
    .map((name) => `${name} ${read(() => readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8'))}`);
  const files = readdirSync(directory).map((name) => `file ${join(directory, name)}`);
  return [...processes, ...files, ...[...mounts, ...loops].filter((line) => line.includes(directory))];
}

describe('the demo', () => {
  let directory: string;
  let demo: ChildProcess | undefined;
  let output: string;

  beforeEach(() => {
    directory = realpathSync(mkdtempSync(join(tmpdir(), 'hfd-')));
    output = '';
  });

  afterEach(() => {
    if (demo?.exitCode === null && demo.signalCode === null) demo.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  });

  /** Resolves to the exit code; `onOutput` sees all output so far. */
  function run(args: readonly string[], onOutput: (child: ChildProcess) => void = () => {}): Promise<number | null> {
    const program = join(distFolder, 'src/main/holdfast.js');
    const child = spawn(process.execPath, [program, 'demo', '--dir', directory, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    demo = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output += chunk.toString('utf8');
        onOutput(child);
      });
    }
    return new Promise((resolve) => child.once('close', resolve));
  }

  function expectSuccess(code: number | null): void {
    expect(code, output).toBe(0);
    const [, held, of] = /checks +(\d+) of (\d+) held/.exec(output) ?? [];
    expect(held, output).toBe(of);
    expect(Number(held), output).toBeGreaterThanOrEqual(38);
    expect(output).toContain('Every check held, and nothing is left behind.');
    // Plain lines for whoever is no terminal.
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
    expect(output).not.toMatch(/[\x1b\r]/);
    expect(leftOf(directory)).toEqual([]);
  }

  it('succeeds and leaves nothing behind', { timeout: runTimeoutMs }, async () => {
    expectSuccess(await run([]));
  });

  it('leaves nothing behind when it is interrupted under load', { timeout: interruptedTimeoutMs }, async () => {
    let interrupted = false;
    const code = await run([], (child) => {
      if (interrupted || !output.includes('kill -9')) return;
      interrupted = true;
      expect(leftOf(directory)).not.toEqual([]);
      child.kill('SIGINT');
    });
    expect(interrupted, output).toBe(true);
    expect(code, output).toBe(130);
    expect(output).toContain('Interrupted; nothing is left behind.');
    expect(leftOf(directory)).toEqual([]);
  });

  it('succeeds without mounting anything, and says so', { timeout: runTimeoutMs }, async () => {
    const code = await run(['--nbd']);
    expect(output.split('\n').slice(0, 4).join('\n')).toContain('NOT MOUNTED');
    expectSuccess(code);
  });
});
