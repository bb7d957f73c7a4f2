// The controller as a process of its own: how it starts, why it does not, and how it ends. Needs neither root nor FUSE.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { realClock } from '../../src/base/index.js';
import { createClient, csiServices, holdfastServices } from '../../src/rpc/index.js';
import { distFolder } from '../lib/build-once.js';

let dir: string;
const running = new Set<ChildProcess>();
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'hfctl-'));
});
afterEach(() => {
  for (const child of running) child.kill('SIGKILL');
  running.clear();
  rmSync(dir, { recursive: true, force: true });
});

interface Ended {
  readonly code: number | null;
  readonly stderr: string;
}

function start(
  flags: Readonly<Record<string, string>>,
  security = ['--insecure'],
): { child: ChildProcess; ended: Promise<Ended> } {
  const args = Object.entries({
    'csi-address': `unix://${dir}/csi.sock`,
    'control-address': '127.0.0.1:0',
    database: `${dir}/metadata.db`,
    ...flags,
  }).map(([name, value]) => `--${name}=${value}`);
  const command = [join(distFolder, 'src/main/holdfast.js'), 'controller', ...args, ...security];
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'ignore', 'pipe'] });
  running.add(child);
  let stderr = '';
  child.stderr!.on('data', (chunk) => {
    stderr += chunk;
  });
  const ended = new Promise<Ended>((resolve) => child.once('close', (code) => resolve({ code, stderr })));
  return { child, ended };
}

const options = { clock: realClock, deadlineMs: 5_000, waitForReady: true };

async function probed(): Promise<void> {
  const client = createClient(`unix://${dir}/csi.sock`, csiServices.identity(), options);
  try {
    expect((await client.Probe({}, { deadlineMs: 20_000 })).ready?.value).toBe(true);
  } finally {
    client.close();
  }
}

describe('the controller', () => {
  it('ends with code 0 on SIGTERM and keeps what it was told', async () => {
    const port = await freePort();
    const description = {
      node_id: 'n1',
      control_address: '127.0.0.1:1',
      instance: 'one',
      pools: [],
      topology: {},
      tags: [],
      replica_addresses: [],
    };
    const first = start({ 'control-address': `127.0.0.1:${port}` });
    await probed();
    const node = createClient(`127.0.0.1:${port}`, holdfastServices.node(), options);
    await node.Register({ node: description });
    expect((await node.Heartbeat({ node: description })).known).toBe(true);
    first.child.kill('SIGTERM');
    expect((await first.ended).code).toBe(0);

    const second = start({ 'control-address': `127.0.0.1:${port}` });
    expect((await node.Heartbeat({ node: description })).known).toBe(true);
    node.close();
    second.child.kill('SIGTERM');
    expect((await second.ended).code).toBe(0);
  });

  it('says in one line why it does not start', async () => {
    const taken: Server = createServer();
    await new Promise<void>((resolve) => taken.listen(0, '127.0.0.1', resolve));
    const { port } = taken.address() as { port: number };
    mkdirSync(join(dir, 'folder'));
    writeFileSync(join(dir, 'text'), 'this is no database, but long enough to be taken for one at a glance'.repeat(40));
    const cases: [Record<string, string>, string][] = [
      [{ 'control-address': `127.0.0.1:${port}` }, `127.0.0.1:${port} is in use`],
      [{ 'csi-address': `unix://${dir}/text` }, 'is not a socket'],
      [{ 'csi-address': 'nonsense' }, 'nonsense'],
      [{ database: `${dir}/nowhere/metadata.db` }, `${dir}/nowhere`],
      [{ database: `${dir}/folder` }, `${dir}/folder`],
      [{ database: `${dir}/text` }, `${dir}/text`],
      [{ 'max-volumes-per-node': '-1' }, '--max-volumes-per-node'],
      [{ overcommit: '0.5' }, '--overcommit'],
      [{ 'log-level': 'loud' }, '--log-level'],
      [{ unknown: 'x' }, '--unknown'],
      [{ 'tls-dir': dir }, 'choose one'],
    ];
    try {
      for (const [flags, text] of cases) {
        const { code, stderr } = await start({ 'log-level': 'silent', ...flags }).ended;
        expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(text) });
        expect(stderr).toMatch(/^holdfast controller: [^\n]+\n$/);
      }
      // Without a word about security it wants certificates.
      for (const security of [
        ['--tls-dir', `${dir}/none`],
        ['--tls-dir', dir],
      ]) {
        const { code, stderr } = await start({ 'log-level': 'silent' }, security).ended;
        expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(security[1]!) });
        expect(stderr).toMatch(/make them with "holdfast certs"|ca\.crt can't be read/);
      }
    } finally {
      taken.close();
    }
  });

  it('leaves a database alone that another controller owns', async () => {
    const first = start({});
    await probed();
    const { code, stderr } = await start({ 'csi-address': `unix://${dir}/other.sock`, 'log-level': 'silent' }).ended;
    expect(code).toBe(1);
    expect(stderr).toContain('metadata.db');
    await probed();
    first.child.kill('SIGTERM');
    expect((await first.ended).code).toBe(0);
  });
});

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
