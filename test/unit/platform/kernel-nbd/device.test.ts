import { describe, expect, it } from 'vitest';
import { type HoldfastError, precondition, silentLogger, type VolumeId } from '../../../../src/base/index.js';
import { ExportKeeper } from '../../../../src/platform/attach/export-keeper.js';
import { chooseKernel } from '../../../../src/platform/attach/kernel-nbd/choice.js';
import { KernelNbdDevice } from '../../../../src/platform/attach/kernel-nbd/device.js';
import type { Exec, ExportAddress } from '../../../../src/platform/index.js';
import { ManualClock } from '../../nbd/manual-clock.js';
import { FakeKernel } from './fake-kernel.js';

const volumeId = '11111111-2222-4333-8444-555555555555' as VolumeId;
const identifier = `holdfast/0123456789abcdef/${volumeId}`;
const settled = () => new Promise((resolve) => setImmediate(resolve));
const noExec = { run: () => Promise.reject(new Error('not here')) } as unknown as Exec;

/** A kernel that stays, and holders that come and go. */
function machine() {
  const clock = new ManualClock();
  const kernel = new FakeKernel();
  const pass = async (ms: number, step = 10) => {
    await settled();
    for (let passed = 0; passed < ms; passed += step) {
      clock.pass(step);
      await settled();
    }
  };
  /** What of a holder is about the connection: the keeper that asks the daemon, the device. */
  const holder = (options: { readOnly?: boolean; identifier?: string } = {}) => {
    const { readOnly = false } = options;
    const events: string[] = [];
    const address = (): ExportAddress => ({ socketPath: '/s', exportName: 'v', sizeBytes: kernel.exportBytes });
    const state = { deposed: false, broken: '' };
    const keeper = new ExportKeeper({
      source: {
        open: async () => {
          if (state.deposed) throw precondition('another node has it', 'StaleReign');
          return address();
        },
        close: async () => {},
      },
      clock,
      logger: silentLogger,
      volumeId,
      key: null,
      readOnly,
      onOpened: (at) => device.moveTo(at),
      onDeposed: () => device.fail(),
    });
    const device = new KernelNbdDevice({
      kernel: kernel.port(),
      exec: noExec,
      clock,
      logger: silentLogger,
      identifier: options.identifier ?? identifier,
      clientId: volumeId,
      readOnly,
      onConnection: (connected, message) => {
        events.push(connected ? 'connected' : `lost: ${message}`);
        keeper.setConnected(connected, message);
      },
      onBroken: (message) => {
        state.broken = message;
      },
    });
    const connected = async () => {
      for (let tries = 0; !keeper.connected; tries++) {
        if (tries > 1_000) throw new Error('never connected');
        await pass(10);
      }
    };
    const up = () => device.setUp(keeper.open(), connected);
    const down = () => device.tearDown(() => keeper.stop());
    return { device, keeper, events, state, up, down };
  };
  return { clock, kernel, pass, holder };
}

describe('a kernel nbd device', () => {
  it('is made with the times and the name it needs, and goes without a trace', async () => {
    const { kernel, holder } = machine();
    const { device, up, down } = holder();
    await up();
    expect(device).toMatchObject({ devicePath: '/dev/nbd0', sizeBytes: 64 << 20, inherited: false });
    const made = kernel.devices.get(0)!;
    expect(made.options).toMatchObject({ identifier, blockBytes: 4096, serverFlags: 0x16d, timeoutS: 0 });
    // An hour without the daemon is no error; a request may take any time; a replaced connection is noticed within a second.
    expect(made.limits).toEqual({ timeoutS: 0, deadTimeoutS: 3600, lookMs: 1000 });
    expect(kernel.dials).toEqual([{ clientId: volumeId, socketPath: '/s' }]);
    await down();
    expect(kernel.devices.size).toBe(0);
    expect(made.socket.released).toBe(true);
    expect(kernel.log.at(-1)).toBe('closed');
  });

  it('limits requests where the driver cannot be told how often to look', async () => {
    const { kernel, holder, pass } = machine();
    kernel.sysWritable = false;
    const { keeper, up } = holder();
    await up();
    expect(kernel.devices.get(0)!.limits).toMatchObject({ timeoutS: 10, deadTimeoutS: 3600 });
    await pass(10_000);
    kernel.killDaemon();
    kernel.daemon = 'up';
    await pass(1_000);
    expect(keeper.connected).toBe(true);
    expect(kernel.devices.get(0)!.limits).toMatchObject({ timeoutS: 10, deadTimeoutS: 3600 });
  });

  it('connects again after each death of the daemon, once there is one, and says when it reads', async () => {
    const { kernel, holder, pass } = machine();
    const { device, keeper, events, up } = holder();
    await up();
    for (let death = 1; death <= 3; death++) {
      await pass(10_000);
      kernel.killDaemon();
      // What is in flight is put back at once, and does not fill the kernel's log.
      expect(kernel.devices.get(0)!.limits.timeoutS).toBe(1);
      await pass(7_000);
      expect(keeper.connected).toBe(false);
      const tries = kernel.dials.length;
      expect(tries).toBeGreaterThan(20 * death);
      kernel.daemon = 'up';
      await pass(300);
      expect(keeper.connected).toBe(true);
      expect(keeper.reconnects).toBe(death);
      const { dead, limits, sendLimitS } = kernel.devices.get(0)!;
      expect([dead, sendLimitS]).toEqual([false, 0]);
      expect(limits).toEqual({ timeoutS: 0, deadTimeoutS: 3600, lookMs: 1000 });
      await pass(30_000, 1_000);
      expect(kernel.dials.length).toBe(tries + 1);
    }
    expect(events.at(-1)).toBe('connected');
    expect(device.devicePath).toBe('/dev/nbd0');
  });

  it('makes one attempt at a time, however often the daemon says where the export is', async () => {
    const { kernel, holder, pass } = machine();
    const { keeper, up } = holder();
    await up();
    await pass(10_000);
    kernel.daemon = 'silent';
    kernel.devices.get(0)!.socket.alive = false;
    kernel.notice(0);
    await pass(30_000, 100);
    expect(kernel.dials.length).toBe(2);
    expect(keeper.connected).toBe(false);
  });

  it('is not fooled when the driver drops the new connection because it did not know of the death of the old', async () => {
    const { kernel, holder, pass } = machine();
    const first = holder();
    await first.up();
    const device = kernel.devices.get(0)!;
    // The holder is killed and the connection hangs: its successor dials, and the server drops the old one.
    device.socket.alive = false;
    kernel.slowToNotice = true;
    const second = holder();
    const up = second.up();
    await pass(3_000);
    expect(kernel.log.filter((line) => line.startsWith('reconnected'))).toEqual([]);
    expect(second.keeper.connected).toBe(false);
    kernel.slowToNotice = false;
    kernel.notice(0);
    await pass(3_000);
    await up;
    expect(device.dead).toBe(false);
    expect(device.socket.alive).toBe(true);
  });

  it('does not take late news of the former connection for the death of the new one', async () => {
    const { kernel, holder, pass } = machine();
    const { keeper, up } = holder();
    await up();
    await pass(10_000);
    kernel.killDaemon();
    kernel.daemon = 'up';
    await pass(300);
    const dials = kernel.dials.length;
    expect(keeper.connected).toBe(true);
    kernel.told(0);
    await pass(5_000);
    expect(kernel.dials.length).toBe(dials);
    expect(keeper.connected).toBe(true);
    // Another volume's device, and lost messages with a connection that is well.
    kernel.told(1);
    kernel.told(undefined);
    await pass(5_000);
    expect(kernel.dials.length).toBe(dials);
    // Lost messages, of which one was this.
    const device = kernel.devices.get(0)!;
    device.dead = true;
    device.socket.alive = false;
    kernel.told(undefined);
    await pass(5_000);
    expect(device.dead).toBe(false);
  });

  it('notices a connection that dies before it has heard that it stands, and one that just answers nothing', async () => {
    const { kernel, holder, pass } = machine();
    const { keeper, up } = holder();
    await up();
    await pass(10_000);
    kernel.reconnected = () => {
      kernel.reconnected = () => {};
      kernel.notice(0);
    };
    kernel.killDaemon();
    kernel.daemon = 'up';
    await pass(3_000);
    expect([keeper.connected, kernel.devices.get(0)!.dead]).toEqual([true, false]);
    // Dead without any news.
    kernel.reconnected = () => {
      kernel.reconnected = () => {};
      kernel.devices.get(0)!.dead = true;
    };
    await pass(10_000);
    const device = kernel.devices.get(0)!;
    kernel.killDaemon();
    await pass(1_000);
    const held = device.waiting.splice(0);
    kernel.daemon = 'up';
    await pass(1_000);
    expect([held.length, keeper.connected]).toEqual([1, false]);
    await pass(60_000, 100);
    held[0]!(true);
    await pass(1_000);
    expect([keeper.connected, device.dead]).toEqual([true, false]);
  });

  it('is taken over by a new holder, which leaves a connection that works alone', async () => {
    const { kernel, holder, pass } = machine();
    await holder().up();
    const { limits } = kernel.devices.get(0)!;
    Object.assign(limits, { timeoutS: 1, deadTimeoutS: 4, lookMs: 1 });
    const next = holder();
    await next.up();
    expect(next.device).toMatchObject({ devicePath: '/dev/nbd0', inherited: false });
    expect(kernel.dials.length).toBe(1);
    expect(kernel.devices.get(0)!.limits).toEqual({ timeoutS: 0, deadTimeoutS: 3600, lookMs: 1000 });
    expect(kernel.devices.size).toBe(1);
    // And which is the monitor from then on.
    await pass(10_000);
    kernel.killDaemon();
    await pass(1_000);
    kernel.daemon = 'up';
    await pass(1_000);
    expect(next.keeper.connected).toBe(true);
    await next.down();
    expect(kernel.devices.size).toBe(0);
  });

  it('is taken over with a dead connection, too', async () => {
    const { kernel, holder, pass } = machine();
    await holder().up();
    const device = kernel.devices.get(0)!;
    device.dead = true;
    device.socket.alive = false;
    const { limits } = device;
    const next = holder();
    const up = next.up();
    await pass(5_000);
    await up;
    expect(kernel.devices.size).toBe(1);
    expect(device.dead).toBe(false);
    expect(device.limits).toBe(limits);
    expect(limits).toEqual({ timeoutS: 0, deadTimeoutS: 3600, lookMs: 1000 });
  });

  it('is never taken over under another name, and others are left alone by its end', async () => {
    const { kernel, holder } = machine();
    const one = holder();
    await one.up();
    const two = holder({ identifier: `${identifier}0` });
    await two.up();
    expect([one.device.devicePath, two.device.devicePath]).toEqual(['/dev/nbd0', '/dev/nbd1']);
    // Somebody disconnected the first by hand, and its number was given to the third.
    kernel.devices.delete(0);
    const three = holder({ identifier: `${identifier}00` });
    await three.up();
    expect(three.device.devicePath).toBe('/dev/nbd0');
    await one.down();
    expect(kernel.devices.get(0)).toMatchObject({ identifier: `${identifier}00`, connected: true });
  });

  it('that cannot be taken over stays as it is', async () => {
    const { kernel, holder } = machine();
    await holder().up();
    const other = holder({ readOnly: true });
    await expect(other.up()).rejects.toMatchObject({ reason: 'Conflict' });
    expect(other.device.inherited).toBe(true);
    await other.device.undoSetUp(() => other.keeper.stop());
    kernel.exportBytes = 32 << 20;
    const smaller = holder();
    await expect(smaller.up()).rejects.toThrow(/another volume/);
    await smaller.device.undoSetUp(() => smaller.keeper.stop());
    expect(kernel.devices.get(0)).toMatchObject({ connected: true, dead: false });
    expect(kernel.log).toEqual(['closed', 'closed']);
  });

  it('of a dead holder is flushed and taken down by one that has no export, and left alone when that fails', async () => {
    const { kernel, holder } = machine();
    await holder().up();
    const orphan = async () => {
      const { device } = holder();
      device.inherit((await kernel.port().find(identifier))!);
      return device;
    };
    kernel.mounted = true;
    const first = await orphan();
    await expect(first.tearDown(async () => {})).rejects.toMatchObject({ reason: 'Busy' });
    await first.undoSetUp(async () => {});
    expect(kernel.devices.get(0)).toMatchObject({ connected: true, dead: false, openers: 0 });
    kernel.mounted = false;
    await (await orphan()).tearDown(async () => {});
    expect(kernel.devices.size).toBe(0);
  });

  it('is not given a smaller export on the way either', async () => {
    const { kernel, holder, pass } = machine();
    const { keeper, up } = holder();
    await up();
    await pass(10_000);
    kernel.killDaemon();
    kernel.exportBytes = 32 << 20;
    kernel.daemon = 'up';
    await pass(5_000);
    expect(keeper.connected).toBe(false);
    expect(keeper.lastError).toContain('another volume');
    expect(kernel.devices.get(0)!.dead).toBe(true);
    kernel.exportBytes = 64 << 20;
    await pass(5_000);
    expect(keeper.connected).toBe(true);
  });

  it('fails all I/O when another node took the volume, and keeps its number until it is taken down', async () => {
    const { kernel, holder, pass } = machine();
    const { device, state, up, down } = holder();
    await up();
    await pass(10_000);
    state.deposed = true;
    kernel.killDaemon();
    const waiting = kernel.devices.get(0)!.waiting.length;
    expect(waiting).toBeGreaterThan(0);
    await pass(2_000);
    expect(kernel.log).toContain('disconnected 0');
    // The socket first: with a daemon that hangs the command would wait for it.
    expect(kernel.log.indexOf('cut 1')).toBeLessThan(kernel.log.indexOf('disconnected 0'));
    expect(kernel.devices.get(0)).toMatchObject({ connected: false, openers: 1 });
    kernel.daemon = 'up';
    await pass(5_000);
    expect(kernel.log.filter((line) => line.startsWith('reconnected'))).toEqual([]);
    expect(device.devicePath).toBe('/dev/nbd0');
    await down();
    expect(kernel.devices.size).toBe(0);
  });

  it('that the kernel gave up, or that somebody disconnected, is said to be broken', async () => {
    const { kernel, holder, pass } = machine();
    const first = holder();
    await first.up();
    await pass(10_000);
    kernel.killDaemon();
    await pass(1_000);
    kernel.giveUp(0);
    await pass(100);
    expect(first.state.broken).toContain('gave /dev/nbd0 up');
    await first.down();
    kernel.daemon = 'up';
    const second = holder();
    await second.up();
    await pass(10_000);
    kernel.killDaemon();
    kernel.devices.get(0)!.connected = false;
    kernel.daemon = 'up';
    await pass(1_000);
    expect(second.state.broken).toContain('disconnected by somebody else');
  });

  it('is not taken down while it is mounted or open', async () => {
    const { kernel, holder, pass } = machine();
    const { keeper, up, down } = holder();
    await up();
    kernel.mounted = true;
    await expect(down()).rejects.toMatchObject({ reason: 'Busy' });
    expect(kernel.devices.get(0)).toMatchObject({ connected: true });
    expect(keeper.connected).toBe(true);
    kernel.mounted = false;
    kernel.devices.get(0)!.openers++;
    const slow = down();
    const refused: Promise<HoldfastError> = slow.then(
      () => Promise.reject(new Error('went')),
      (error) => error,
    );
    await pass(10_000, 100);
    expect(await refused).toMatchObject({ reason: 'Busy' });
    kernel.devices.delete(0);
    await down();
  });

  it('is connected also when the export answers with an error, and not given up when nothing can be asked', async () => {
    const { kernel, holder, pass } = machine();
    kernel.readErrors = true;
    const { keeper, state, up } = holder();
    await up();
    await pass(10_000);
    kernel.noReads = true;
    kernel.killDaemon();
    await pass(5_000);
    kernel.daemon = 'up';
    await pass(5_000);
    expect([keeper.connected, state.broken]).toEqual([false, '']);
    kernel.noReads = false;
    await pass(2_000);
    expect(keeper.connected).toBe(true);
  });

  it('grows', async () => {
    const { kernel, holder } = machine();
    const { device, up } = holder();
    await up();
    await device.grow(128 << 20);
    expect(device.sizeBytes).toBe(128 << 20);
    expect(kernel.devices.get(0)!.sizeBytes).toBe(128 << 20);
  });
});

describe('the choice', () => {
  const works = () => {
    const kernel = new FakeKernel();
    return { kernel, choice: { find: kernel.port().find, open: async () => kernel.port() } };
  };
  const none = { find: async () => undefined, open: () => Promise.reject(precondition('no module')) };

  it('is kernel nbd where it works and FUSE where not, and what was asked for or an error', async () => {
    const { choice } = works();
    expect(await chooseKernel(choice, 'auto', identifier, silentLogger)).toBeDefined();
    expect(await chooseKernel(choice, 'fuse-loop', identifier, silentLogger)).toBeUndefined();
    expect(await chooseKernel(none, 'auto', identifier, silentLogger)).toBeUndefined();
    await expect(chooseKernel(none, 'kernel-nbd', identifier, silentLogger)).rejects.toThrow('no module');
  });

  it('is never a second device beside one that exists', async () => {
    const { kernel, choice } = works();
    const port = kernel.port();
    const socket = await port.dial({ socketPath: '/s', exportName: 'v', sizeBytes: 1 }, volumeId, AbortSignal.abort());
    await port.connect(socket, {
      identifier,
      sizeBytes: 4096,
      blockBytes: 4096,
      serverFlags: 1,
      timeoutS: 0,
      deadTimeoutS: 1,
    });
    expect(await chooseKernel(choice, 'fuse-loop', identifier, silentLogger)).toBeDefined();
    expect(await chooseKernel(choice, 'fuse-loop', `${identifier}0`, silentLogger)).toBeUndefined();
    const broken = { ...choice, open: none.open };
    await expect(chooseKernel(broken, 'auto', identifier, silentLogger)).rejects.toThrow('no module');
  });
});
