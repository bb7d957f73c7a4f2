import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { createExec, ExecError } from '../../../src/platform/exec.js';

const exec = createExec();
const directory = mkdtempSync(join(tmpdir(), 'holdfast-exec-'));
afterAll(() => rmSync(directory, { recursive: true }));

const node = (script: string) => [process.execPath, ['-e', script]] as const;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe('run', () => {
  it('passes arguments as they are, no shell in between', async () => {
    const nasty = '$(id); `id` "x" \'y\' * \n z';
    const { stdout } = await exec.run('printf', ['%s', nasty], { timeoutMs: 5000 });
    expect(stdout).toBe(nasty);
  });

  it('hands over input, and an environment without ours', async () => {
    process.env.HOLDFAST_TEST_SECRET = 'leak';
    const [program, args] = node(
      'process.stdin.pipe(process.stdout); process.stdin.on("end", () => console.error(Object.keys(process.env).sort().join()))',
    );
    const result = await exec.run(program, args, { timeoutMs: 5000, input: 'in', env: { EXTRA: '1' } });
    delete process.env.HOLDFAST_TEST_SECRET;
    expect(result.stdout).toBe('in');
    expect(result.stderr.trim()).toBe('EXTRA,LC_ALL,PATH');
  });

  it('names program, code and last line of a failure', async () => {
    const [program, args] = node('console.error("first\\nthe reason\\n"); process.exit(3)');
    const error = await exec.run(program, args, { timeoutMs: 5000 }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(ExecError);
    expect((error as ExecError).message).toBe(`${process.execPath} failed with code 3: the reason`);
    expect((error as ExecError).result.code).toBe(3);
    expect((await exec.run(program, args, { timeoutMs: 5000, okCodes: [0, 3] })).code).toBe(3);
  });

  it('tells which package brings a missing tool', async () => {
    const missing = { timeoutMs: 1000, env: { PATH: directory } };
    await expect(exec.run('mkfs.xfs', [], missing)).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'ToolMissing',
      message: expect.stringContaining('"xfsprogs"'),
    });
  });

  it('kills what takes too long', async () => {
    const [program, args] = node('console.error(process.pid); setInterval(() => {}, 1000)');
    const started = performance.now();
    const error = await exec.run(program, args, { timeoutMs: 500 }).catch((e: unknown) => e as Error);
    expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED' });
    expect(performance.now() - started).toBeLessThan(2500);
    const pid = Number(/killed: (\d+)/.exec((error as Error).message)?.[1]);
    expect(isAlive(pid)).toBe(false);
  });

  it('stops a flood on stdout, keeps the end of a flood on stderr', async () => {
    await expect(exec.run('cat', ['/dev/zero'], { timeoutMs: 10_000, maxOutputBytes: 65536 })).rejects.toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
    });
    const [program, args] = node('process.stderr.write("x".repeat(300000) + "END")');
    const { stderr } = await exec.run(program, args, { timeoutMs: 5000, maxOutputBytes: 1000 });
    expect(stderr).toHaveLength(1000);
    expect(stderr.endsWith('END')).toBe(true);
  });
});

describe('spawnDetached', () => {
  it('starts a session leader that writes to a private log', async () => {
    const logFile = join(directory, 'log');
    const script = 'console.log("up", require("fs").readFileSync("/proc/self/stat","utf8").split(" ")[5]);';
    const pid = await exec.spawnDetached(process.execPath, ['-e', `${script} setTimeout(() => {}, 60000)`], {
      logFile,
    });
    try {
      await expect.poll(() => readFileSync(logFile, 'utf8'), { timeout: 5000 }).toBe(`up ${pid}\n`);
      expect(statSync(logFile).mode & 0o777).toBe(0o600);
    } finally {
      process.kill(pid, 'SIGKILL');
    }
  });

  it('rejects when the program is missing', async () => {
    await expect(exec.spawnDetached('no-such-program', [], { logFile: join(directory, 'log2') })).rejects.toMatchObject(
      { reason: 'ToolMissing' },
    );
  });
});

describe('spawnChild', () => {
  it('talks both ways and reports its end; a send after that is false', async () => {
    const heard: unknown[] = [];
    const child = await exec.spawnChild(
      process.execPath,
      ['-e', 'process.on("message", (m) => process.send({ echo: m }))'],
      { inheritFd: 2, onMessage: (message) => heard.push(message) },
    );
    expect(child.send({ a: 1 })).toBe(true);
    await expect.poll(() => heard, { timeout: 5000 }).toEqual([{ echo: { a: 1 } }]);
    child.kill('SIGKILL');
    expect(await child.exited).toEqual({ code: null, signal: 'SIGKILL' });
    expect(child.send({ a: 2 })).toBe(false);
  });
});
