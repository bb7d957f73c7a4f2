import { describe, expect, it } from 'vitest';
import { HoldfastError, silentLogger, unavailable, type VolumeId } from '../../../src/base/index.js';
import { ExportKeeper } from '../../../src/platform/attach/export-keeper.js';
import type { ExportAddress } from '../../../src/platform/index.js';
import { ManualClock } from '../nbd/manual-clock.js';

const volumeId = '11111111-2222-4333-8444-555555555555' as VolumeId;
const address: ExportAddress = { socketPath: '/s', exportName: 'v', sizeBytes: 4096 };
const settled = () => new Promise((resolve) => setImmediate(resolve));

function setUp() {
  const clock = new ManualClock();
  const key = Buffer.from('key');
  const opens: { at: number; key: Buffer | null }[] = [];
  const opened: ExportAddress[] = [];
  const deposed: HoldfastError[] = [];
  const script = { next: (): Promise<ExportAddress> => Promise.reject(unavailable('daemon is away')) };
  const keeper = new ExportKeeper({
    source: {
      open: (_volume, given) => {
        opens.push({ at: clock.monotonicMs(), key: given });
        return script.next();
      },
      close: async () => {},
    },
    clock,
    logger: silentLogger,
    volumeId,
    key,
    readOnly: false,
    onOpened: (at) => opened.push(at),
    onDeposed: (error) => deposed.push(error),
  });
  const pass = async (ms: number, step = 10) => {
    await settled();
    for (let passed = 0; passed < ms; passed += step) {
      clock.pass(step);
      await settled();
    }
  };
  return { clock, key, opens, opened, deposed, script, keeper, pass };
}

describe('ExportKeeper', () => {
  it('opens again with the key after a loss, ever more slowly up to a second, and never gives up', async () => {
    const { keeper, opens, key, pass } = setUp();
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'reset');
    await pass(10_000);
    const times = opens.map(({ at }) => at);
    expect(times.slice(0, 5)).toEqual([0, 100, 300, 700, 1500]);
    const gaps = times.slice(5).map((at, index) => at - times[index + 4]!);
    expect(new Set(gaps)).toEqual(new Set([1000]));
    expect(opens.every((open) => open.key === key)).toBe(true);
    expect(keeper.lastError).toContain('away');
    await pass(3_600_000, 1000);
    expect(opens.length).toBeGreaterThan(3000);
    void keeper.stop();
  });

  it('asks at a steady pace while no daemon runs, so that the next one is found at once', async () => {
    const { keeper, opens, script, pass } = setUp();
    script.next = () => Promise.reject(new HoldfastError('UNAVAILABLE', 'no one there', { reason: 'Unreachable' }));
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'reset');
    await pass(30_000);
    const gaps = opens.slice(1).map(({ at }, index) => at - opens[index]!.at);
    expect(new Set(gaps)).toEqual(new Set([100]));
    void keeper.stop();
  });

  it('stops asking once the bridge is connected, and starts again at the next loss', async () => {
    const { keeper, opens, opened, script, pass } = setUp();
    script.next = async () => address;
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'reset');
    await pass(100);
    expect(opened).toEqual([address]);
    keeper.setConnected(true, '');
    await pass(30_000, 1000);
    expect(opens.length).toBe(1);
    keeper.setConnected(false, 'reset');
    await pass(100);
    expect(opens.length).toBe(2);
    expect(keeper.reconnects).toBe(2);
    void keeper.stop();
  });

  it('asks again when the bridge can not connect to where the export was said to be', async () => {
    const { keeper, opens, script, pass } = setUp();
    script.next = async () => address;
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'reset');
    await pass(4_900, 100);
    expect(opens.length).toBe(1);
    await pass(400, 100);
    expect(opens.length).toBe(2);
    void keeper.stop();
  });

  it('never has two opens under way, however often the connection drops', async () => {
    const { keeper, opens, script, pass } = setUp();
    script.next = () => new Promise(() => {});
    for (let i = 0; i < 5; i++) {
      keeper.setConnected(true, '');
      keeper.setConnected(false, 'reset');
    }
    await pass(10_000, 100);
    expect(opens.length).toBe(1);
  });

  it('gives up at once when another node has the volume, and on nothing else', async () => {
    const { keeper, opens, deposed, script, pass } = setUp();
    const stale = new HoldfastError('FAILED_PRECONDITION', 'node b has it', { reason: 'StaleReign' });
    for (const passing of [
      new HoldfastError('FAILED_PRECONDITION', 'no key', { reason: 'WrongKey' }),
      new HoldfastError('NOT_FOUND', 'metadata is empty'),
      new HoldfastError('ABORTED', 'busy', { reason: 'Conflict' }),
      new Error('anything'),
    ]) {
      script.next = () => Promise.reject(passing);
      keeper.reopen();
      await pass(3_000, 100);
    }
    expect(deposed).toEqual([]);
    script.next = () => Promise.reject(stale);
    await pass(1_100, 100);
    expect(deposed).toEqual([stale]);
    const { length } = opens;
    await pass(10_000, 100);
    expect(opens.length).toBe(length);
  });

  it('after stop() has resolved no open is under way', async () => {
    const { keeper, opens, opened, script, pass } = setUp();
    let answer = (_address: ExportAddress) => {};
    script.next = () =>
      new Promise((resolve) => {
        answer = resolve;
      });
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'reset');
    let stopped = false;
    void keeper.stop().then(() => {
      stopped = true;
    });
    await pass(100);
    expect(stopped).toBe(false);
    answer(address);
    await pass(10);
    expect(stopped).toBe(true);
    expect(opened).toEqual([]);
    keeper.setConnected(true, '');
    keeper.setConnected(false, 'the bridge was ended');
    await pass(5_000, 100);
    expect(opens.length).toBe(1);
  });

  it('is patient at the first open with a daemon that is away only, and not for ever', async () => {
    const { keeper, opens, script, pass } = setUp();
    const first = keeper.openFirst(3_000).catch((error: unknown) => error);
    await pass(3_000);
    expect(await first).toMatchObject({ code: 'UNAVAILABLE' });
    expect(opens.length).toBeGreaterThan(3);
    script.next = () => Promise.reject(new HoldfastError('NOT_FOUND', 'no such volume'));
    const before = opens.length;
    await expect(keeper.openFirst(3_000)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(opens.length).toBe(before + 1);
  });
});
