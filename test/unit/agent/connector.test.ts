// Which way an engine gets to a replica, and what it does when the known address is no longer right.

import { expect, test } from 'vitest';
import { replicaConnector } from '../../../src/agent/index.js';
import { realClock, unavailable } from '../../../src/base/index.js';
import type { ReplicaPort } from '../../../src/engine/index.js';
import { nodeA, nodeB, replicaIds, volumeId } from './fakes.js';

function bench(published: { known: string; now: string | null }, alive: string) {
  const log: string[] = [];
  const port = (name: string) => ({ name }) as unknown as ReplicaPort;
  const connector = replicaConnector(volumeId, {
    nodeId: nodeA,
    clock: realClock,
    local: async (_volume, replicaId) => port(`local ${replicaId}`),
    async remote({ address }) {
      log.push(address);
      if (address !== alive) throw unavailable(`${address} refuses`);
      return port(address);
    },
    async address(_node, _volume, refresh) {
      if (!refresh) return published.known;
      log.push('refresh');
      if (published.now === null) throw unavailable('store away');
      return published.now;
    },
  });
  return { log, connect: (nodeId = nodeB) => connector.connect({ replicaId: replicaIds[0]!, nodeId }, 1_000) };
}

test('local is direct; remote uses what is known, and asks again only after a failure', async () => {
  const good = bench({ known: 'b:1', now: 'b:1' }, 'b:1');
  expect(await good.connect(nodeA)).toEqual({ name: `local ${replicaIds[0]}` });
  expect(await good.connect()).toEqual({ name: 'b:1' });
  expect(good.log).toEqual(['b:1']);
  const moved = bench({ known: 'b:1', now: 'b:2' }, 'b:2');
  expect(await moved.connect()).toEqual({ name: 'b:2' });
  expect(moved.log).toEqual(['b:1', 'refresh', 'b:2']);
  const down = bench({ known: 'b:1', now: 'b:1' }, '');
  await expect(down.connect()).rejects.toThrow('b:1 refuses');
  const alone = bench({ known: 'b:1', now: null }, '');
  await expect(alone.connect()).rejects.toThrow('b:1 refuses');
  expect(alone.log).toEqual(['b:1', 'refresh']);
});
