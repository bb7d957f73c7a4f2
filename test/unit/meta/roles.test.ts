// What the store takes from whom, where certificates say who asks.

import { expect, it } from 'vitest';
import { realClock, realRandom, silentLogger } from '../../../src/base/index.js';
import { metadataService, openMemoryStore, openRemoteStore } from '../../../src/meta/index.js';
import { createServer } from '../../../src/rpc/index.js';
import { parsePart } from '../../../src/trust/index.js';
import { TestAuthority } from '../../lib/authority.js';

it('daemons change volumes, delete none, and change nothing else; an operator only looks', async () => {
  const authority = await TestAuthority.make();
  const store = openMemoryStore();
  const { ok } = await store.compareAndSwap('volume/a', 0, { size: 1 });
  expect(ok).toBe(true);
  const server = await createServer({
    address: '127.0.0.1:0',
    services: [metadataService(store)],
    logger: silentLogger,
    clock: realClock,
    trust: await authority.trust('controller'),
  });
  const as = async (part: string) =>
    openRemoteStore({
      address: server.address,
      clock: realClock,
      random: realRandom,
      logger: silentLogger,
      deadlineMs: 5_000,
      security: { trust: await authority.trust(part), server: parsePart('controller') },
    });
  for (const part of ['storage/node-1', 'node/node-1']) {
    const remote = await as(part);
    const { version } = (await store.get('volume/a'))!;
    expect(await remote.compareAndSwap('volume/a', version, { size: 2 })).toMatchObject({ ok: true });
    const after = (await store.get('volume/a'))!;
    await expect(remote.compareAndSwap('volume/a', after.version, undefined)).rejects.toThrow(/may not delete/);
    await expect(remote.compareAndSwap('node/node-1', 0, { id: 'x' })).rejects.toThrow(/may not change/);
    expect(await store.get('volume/a')).toEqual(after);
    await remote.close();
  }
  const operator = await as('operator');
  expect((await operator.get('volume/a'))?.value).toEqual({ size: 2 });
  await expect(operator.compareAndSwap('volume/a', 0, { size: 3 })).rejects.toMatchObject({
    code: 'PERMISSION_DENIED',
  });
  await operator.close();
  await server.close(100);
  await store.close();
});
