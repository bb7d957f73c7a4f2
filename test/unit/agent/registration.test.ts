// A node keeps itself known: over a controller that is away, that forgot it, and quickly when something changed.

import { expect, test } from 'vitest';
import { Registration } from '../../../src/agent/index.js';
import { realClock, silentLogger, unavailable } from '../../../src/base/index.js';
import { until } from './fakes.js';

test('registers through failures, registers again when forgotten, stops at once', async () => {
  const log: string[] = [];
  let known = true;
  let away = 2;
  const versions: number[] = [];
  const registration = new Registration({
    clock: realClock,
    logger: silentLogger,
    describe: async () => ({ node_id: 'node-a' }),
    storeVersion: (version) => versions.push(version),
    client: {
      async Register({ node }) {
        log.push(`register ${node?.node_id}`);
        if (away-- > 0) throw unavailable('controller away');
        return { heartbeat_interval_ms: 1, store_version: 7 };
      },
      async Heartbeat() {
        log.push('heartbeat');
        return { known, store_version: 8 };
      },
    },
  });
  registration.start();
  await until(() => registration.registered);
  expect(log).toEqual(['register node-a', 'register node-a', 'register node-a']);
  // The interval is bounded from below: announce() is what makes it quick.
  registration.announce();
  await until(() => log.length === 4);
  known = false;
  registration.announce();
  await until(() => log.length === 6);
  expect(log.slice(3)).toEqual(['heartbeat', 'heartbeat', 'register node-a']);
  expect(versions).toEqual([7, 8, 8, 7]);
  const begin = performance.now();
  await registration.stop();
  expect(performance.now() - begin).toBeLessThan(200);
  const { length } = log;
  await realClock.sleep(50);
  expect(log.length).toBe(length);
});
