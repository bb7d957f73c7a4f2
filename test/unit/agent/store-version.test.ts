// A metadata store that went back in time is refused, also after a restart of the daemon.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { StoreVersion } from '../../../src/agent/index.js';
import { realClock, silentLogger } from '../../../src/base/index.js';
import { openMemoryStore } from '../../../src/meta/index.js';

test('what was seen is remembered and compared', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'hf-store-version-'));
  const path = join(dir, 'store-version');
  const load = () => StoreVersion.load(path, realClock, silentLogger);
  try {
    const store = openMemoryStore();
    for (let i = 0; i < 3; i++) await store.compareAndSwap(`node/n${i}`, 0, {});
    const first = await load();
    await first.check(store);
    expect(first.highest).toBe(3);
    // An answer that was overtaken says what was true when it was asked for.
    let answer: (version: number) => void = () => {};
    const slow = { ...store, version: () => new Promise<number>((resolve) => (answer = resolve)) };
    const overtaken = first.check(slow);
    await store.compareAndSwap('node/n3', 0, {});
    await first.check(store);
    answer(3);
    await overtaken;
    expect(first.highest).toBe(4);
    await first.save();
    const older = openMemoryStore();
    await older.compareAndSwap('node/n0', 0, {});
    await expect((await load()).check(older)).rejects.toMatchObject({
      code: 'FAILED_PRECONDITION',
      reason: 'StoreWentBack',
    });
    await (await load()).check(store);
    writeFileSync(path, 'garbage');
    await expect(load()).rejects.toMatchObject({ code: 'DATA_LOSS' });
  } finally {
    rmSync(dir, { recursive: true });
  }
});
