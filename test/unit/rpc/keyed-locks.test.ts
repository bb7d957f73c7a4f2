import { describe, expect, it } from 'vitest';
import type { Clock } from '../../../src/base/index.js';
import { KeyedLocks } from '../../../src/rpc/index.js';

let nowMs = 0;
const clock = { monotonicMs: () => nowMs } as Clock;

describe('KeyedLocks', () => {
  it('refuses a second operation on a held name, saying what runs and since when', async () => {
    const locks = new KeyedLocks(clock);
    let finish = () => {};
    const first = locks.run('CreateVolume', 'volume pvc-1', () => new Promise<void>((resolve) => (finish = resolve)));
    nowMs = 3210;
    let ran = false;
    const second = locks.run('DeleteVolume', ['snapshot s', 'volume pvc-1'], async () => {
      ran = true;
    });
    await expect(second).rejects.toMatchObject({
      code: 'ABORTED',
      reason: 'Busy',
      message: 'CreateVolume for volume pvc-1 has been running for 3.2 s; retry',
    });
    expect(ran).toBe(false);
    // The refused one holds nothing.
    await locks.run('CreateSnapshot', 'snapshot s', async () => {});
    finish();
    await first;
    expect(await locks.run('DeleteVolume', 'volume pvc-1', async () => 'done')).toBe('done');
    expect(locks.size).toBe(0);
  });

  it('lets go when the work fails, and takes a name given twice once', async () => {
    const locks = new KeyedLocks(clock);
    await expect(
      locks.run('CloneVolume', ['volume a', 'volume a'], async () => {
        throw new Error('no');
      }),
    ).rejects.toThrow('no');
    expect(locks.size).toBe(0);
  });

  it('shows control characters of a name escaped', async () => {
    const locks = new KeyedLocks(clock);
    void locks.run('CreateVolume', 'volume a\nb', () => new Promise(() => {}));
    await expect(locks.run('CreateVolume', 'volume a\nb', async () => {})).rejects.toThrow('volume a\\nb has been');
  });
});
