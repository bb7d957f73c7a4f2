// A process of its own that changes a SQLite store as fast as it can and says so after each acknowledgement. The test kills
// it in the middle.

import { writeSync } from 'node:fs';
import { realRandom } from '../../src/base/index.js';
import { openSqliteStore } from '../../src/meta/sqlite-store.js';

const store = await openSqliteStore({ file: process.argv[2]!, random: realRandom });

async function change(key: string): Promise<never> {
  let version = (await store.get(key))?.version ?? 0;
  for (let n = 0; ; n++) {
    const swapped = await store.compareAndSwap(key, version, { n, padding: 'x'.repeat((n * 37) % 3000) });
    if (!swapped.ok) throw new Error(`${key} changed behind our back`);
    version = swapped.version;
    writeSync(1, `${key} ${version} ${n}\n`);
  }
}

await Promise.all(['volume/a', 'volume/b', 'volume/c', 'snapshot/d'].map(change));
