import { describe, expect, it } from 'vitest';
import { silentLogger } from '../../../src/base/index.js';
import type { Endpoint, FromBridge, ToBridge } from '../../../src/platform/attach/bridge-messages.js';
import { BridgeSupervisor } from '../../../src/platform/attach/bridge-supervisor.js';
import type { Child, ChildOptions, Exec } from '../../../src/platform/index.js';
import { ManualClock } from '../nbd/manual-clock.js';

const settled = () => new Promise((resolve) => setImmediate(resolve));

class FakeBridge implements Child {
  readonly pid: number;
  readonly heard: ToBridge[] = [];
  readonly say: (message: FromBridge) => void;
  readonly exited: Promise<{ code: number | null; signal: string | null }>;
  alive = true;
  answers = true;
  #exit: (how: { code: number | null; signal: string | null }) => void = () => {};

  constructor(pid: number, options: ChildOptions) {
    this.pid = pid;
    this.say = options.onMessage;
    this.exited = new Promise((resolve) => {
      this.#exit = resolve;
    });
  }

  send(message: object): boolean {
    if (!this.alive) return false;
    this.heard.push(message as ToBridge);
    if (this.answers && (message as ToBridge).type === 'report') this.say({ type: 'report', counters: { reads: 1 } });
    return true;
  }

  kill(): void {
    this.die();
  }

  die(): void {
    this.alive = false;
    this.#exit({ code: null, signal: 'SIGKILL' });
  }
}

async function start(options: { ready?: Promise<{ endpoint: Endpoint; sizeBytes: number }> } = {}) {
  const clock = new ManualClock();
  const bridges: FakeBridge[] = [];
  const connections: boolean[] = [];
  const broken: string[] = [];
  const state = { startFails: false };
  const spawnChild: Exec['spawnChild'] = async (_program, _args, options) => {
    if (state.startFails) throw new Error('out of memory');
    // Two at a time would both answer the kernel.
    expect(bridges.filter((bridge) => bridge.alive)).toEqual([]);
    expect(Number(options.env?.UV_THREADPOOL_SIZE)).toBeGreaterThanOrEqual(12);
    const bridge = new FakeBridge(100 + bridges.length, options);
    bridges.push(bridge);
    return bridge;
  };
  const supervisor = new BridgeSupervisor({
    exec: { spawnChild } as Exec,
    clock,
    logger: silentLogger,
    command: { program: 'bridge', args: [] },
    fuseFd: 9,
    ready: options.ready ?? Promise.resolve({ endpoint: { socketPath: '/a', exportName: 'v' }, sizeBytes: 4096 }),
    clientId: 'c',
    readOnly: false,
    onConnection: (connected) => connections.push(connected),
    onBroken: (message) => broken.push(message),
  });
  const starting = supervisor.start();
  starting.catch(() => {});
  if (options.ready === undefined) await starting;
  const pass = async (ms: number, step = 10) => {
    for (let passed = 0; passed < ms; passed += step) {
      clock.pass(step);
      await settled();
    }
  };
  return { clock, bridges, connections, broken, state, supervisor, pass, starting };
}

describe('BridgeSupervisor', () => {
  it('starts a bridge while the export is still being opened, and ends it when that fails', async () => {
    let opened: (address: { endpoint: Endpoint; sizeBytes: number }) => void = () => {};
    let refused: (error: Error) => void = () => {};
    const soon = () =>
      new Promise<{ endpoint: Endpoint; sizeBytes: number }>((resolve, reject) => {
        [opened, refused] = [resolve, reject];
      });
    const good = await start({ ready: soon() });
    await good.pass(20);
    expect(good.bridges[0]!.heard).toEqual([]);
    // Before it was told anything it has nothing to lose: another one waits in its place.
    good.bridges[0]!.die();
    await good.pass(100);
    opened({ endpoint: { socketPath: '/a', exportName: 'v' }, sizeBytes: 4096 });
    await good.starting;
    await good.pass(20);
    expect(good.bridges[0]!.heard).toEqual([]);
    expect(good.bridges[1]!.heard).toMatchObject([{ type: 'start', sizeBytes: 4096 }]);
    const bad = await start({ ready: soon() });
    await bad.pass(20);
    refused(new Error('no engine'));
    await expect(bad.starting).rejects.toThrow('no engine');
    await bad.supervisor.stop();
    expect(bad.bridges.map((bridge) => bridge.alive)).toEqual([false]);
  });

  it('tells a successor all that the dead one had been told, and to take over', async () => {
    const { bridges, supervisor, connections, pass } = await start();
    expect(bridges[0]!.heard[0]).toMatchObject({ type: 'start', takeOver: false, failing: false, sizeBytes: 4096 });
    supervisor.setEndpoint({ socketPath: '/b', exportName: 'v' });
    supervisor.setSize(8192);
    supervisor.fail();
    bridges[0]!.die();
    await pass(100);
    expect(connections).toEqual([false]);
    expect(bridges[1]!.heard[0]).toEqual({
      type: 'start',
      endpoint: { socketPath: '/b', exportName: 'v' },
      clientId: 'c',
      sizeBytes: 8192,
      readOnly: false,
      takeOver: true,
      failing: true,
    });
    expect(supervisor.respawns).toBe(1);
  });

  it('starts one that keeps crashing at most about once a second, and forgets that after a good time', async () => {
    const { bridges, pass } = await start();
    const crash = async (ms: number) => {
      const before = bridges.length;
      for (let passed = 0; passed < ms; passed += 10) {
        bridges.at(-1)!.die();
        await pass(10);
      }
      return bridges.length - before;
    };
    await crash(3_000);
    expect(await crash(5_000)).toBeLessThanOrEqual(6);
    await pass(15_000, 100);
    bridges.at(-1)!.die();
    const before = bridges.length;
    await pass(50);
    expect(bridges.length).toBe(before + 1);
  });

  it('tries again when no process can be started', async () => {
    const { bridges, state, pass } = await start();
    state.startFails = true;
    bridges[0]!.die();
    await pass(5_000, 100);
    expect(bridges.length).toBe(1);
    state.startFails = false;
    await pass(1_100, 100);
    expect(bridges.length).toBe(2);
  });

  it('replaces a bridge that hangs, but not one that answers', async () => {
    const { bridges, pass } = await start();
    await pass(120_000, 1000);
    expect(bridges.length).toBe(1);
    bridges[0]!.answers = false;
    await pass(60_000, 1000);
    expect(bridges[0]!.alive).toBe(false);
    expect(bridges.length).toBe(2);
  });

  it('gives the connection up when requests are lost with the bridge, or when it was unmounted', async () => {
    const old = await start();
    old.bridges[0]!.say({ type: 'negotiated', canResend: false });
    old.bridges[0]!.die();
    await old.pass(5_000, 100);
    expect(old.bridges.length).toBe(1);
    expect(old.broken[0]).toContain('6.9');
    const unmounted = await start();
    unmounted.bridges[0]!.say({ type: 'ended', message: null });
    unmounted.bridges[0]!.die();
    await unmounted.pass(5_000, 100);
    expect(unmounted.bridges.length).toBe(1);
    expect(unmounted.broken.length).toBe(1);
  });

  it('does not listen to a dead bridge', async () => {
    const { bridges, connections, pass } = await start();
    bridges[0]!.die();
    await pass(100);
    bridges[0]!.say({ type: 'connection', connected: true, message: '' });
    expect(connections).toEqual([false]);
    bridges[1]!.say({ type: 'connection', connected: true, message: '' });
    expect(connections).toEqual([false, true]);
  });

  it('reports counters, or nothing when the bridge does not answer in time', async () => {
    const { bridges, supervisor, pass } = await start();
    expect(await supervisor.report()).toEqual({ reads: 1 });
    bridges[0]!.answers = false;
    const late = supervisor.report();
    await pass(1_100, 100);
    expect(await late).toEqual({});
  });

  it('stays stopped', async () => {
    const { bridges, supervisor, connections, pass } = await start();
    await supervisor.stop();
    await pass(60_000, 1000);
    expect(bridges.map((bridge) => bridge.alive)).toEqual([false]);
    expect(connections).toEqual([]);
  });
});
