import { describe, expect, it } from 'vitest';
import { realClock } from '../../../src/base/index.js';
import { openMemoryStore, update, type WatchEvent } from '../../../src/meta/index.js';

describe('a watcher that is left behind', () => {
  it('costs no memory and is told to resync, then sees all that follows', async () => {
    const store = openMemoryStore();
    const seen: WatchEvent[] = [];
    const stop = new AbortController();
    let letGo = () => {};
    const held = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    const done = store.watch(
      'volume/',
      0,
      (events) => {
        seen.push(...events);
        return held;
      },
      stop.signal,
    );
    await store.compareAndSwap('volume/a', 0, { n: 0 });
    await expect.poll(() => seen.length).toBe(1);
    let version = 1;
    for (let n = 1; n <= 5000; n++) {
      const swapped = await store.compareAndSwap('volume/a', version, { n });
      if (swapped.ok) version = swapped.version;
    }
    letGo();
    await expect.poll(() => seen.length).toBe(2);
    expect(seen[1]).toEqual({ type: 'resync', version: 5001 });
    await store.compareAndSwap('volume/b', 0, {});
    await expect.poll(() => seen.length).toBe(3);
    expect(seen[2]).toMatchObject({ type: 'put', version: 5002 });
    stop.abort();
    await done;
  });

  it('forgets by bytes too: few large changes push out the past', async () => {
    const store = openMemoryStore();
    const text = 'x'.repeat(250_000);
    for (let i = 0; i < 80; i++) await store.compareAndSwap(`volume/${i}`, 0, { text });
    const first: WatchEvent[] = [];
    const stop = new AbortController();
    const done = store.watch('', 0, (events) => void first.push(...events), stop.signal);
    await expect.poll(() => first.length).toBeGreaterThan(0);
    expect(first).toEqual([{ type: 'resync', version: 80 }]);
    const batches: number[] = [];
    const recent = store.watch('', 60, (events) => void batches.push(events.length), stop.signal);
    await expect.poll(() => batches.reduce((sum, length) => sum + length, 0)).toBe(20);
    expect(Math.max(...batches)).toBeLessThan(12);
    stop.abort();
    await Promise.all([done, recent]);
  });
});

describe('update', () => {
  it('writes, leaves, deletes; what the change throws ends it with nothing written', async () => {
    const store = openMemoryStore();
    const options = { clock: realClock };
    const set = (n: number) => update<{ n: number }>(store, 'volume/a', () => ({ n }), options);
    expect(await set(1)).toEqual({ changed: true, value: { n: 1 }, version: 1 });
    expect(await update(store, 'volume/a', () => 'unchanged', options)).toEqual({
      changed: false,
      value: { n: 1 },
      version: 1,
    });
    const throwing = update(
      store,
      'volume/a',
      () => {
        throw new Error('no');
      },
      options,
    );
    await expect(throwing).rejects.toThrow('no');
    expect(await update(store, 'volume/a', () => undefined, options)).toEqual({
      changed: true,
      value: undefined,
      version: 2,
    });
    expect(await update(store, 'volume/a', () => undefined, options)).toEqual({
      changed: false,
      value: undefined,
      version: 0,
    });
    expect(await store.version()).toBe(2);
  });

  it('gives up after a bounded number of conflicts', async () => {
    const store = openMemoryStore();
    let calls = 0;
    const meddle = async () => {
      const current = await store.get('volume/a');
      await store.compareAndSwap('volume/a', current?.version ?? 0, { by: 'other', calls });
    };
    const racing = {
      ...store,
      get: async (key: string) => {
        const entry = await store.get(key);
        await meddle();
        return entry;
      },
      compareAndSwap: store.compareAndSwap.bind(store),
    } as typeof store;
    const change = () => {
      calls++;
      return { by: 'me' };
    };
    await expect(update(racing, 'volume/a', change, { clock: realClock, attempts: 5 })).rejects.toMatchObject({
      code: 'ABORTED',
      reason: 'Conflict',
    });
    expect(calls).toBe(5);
    expect((await store.get<{ by: string }>('volume/a'))?.value.by).toBe('other');
  });
});
