// The volumes of a run and the work on them, spread over the nodes.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { MiB } from '../../src/base/index.js';
import { blockCapability, mountCapability, type TestNode, type TestVolume } from '../lib/csi-cluster.js';
import type { FaultCluster } from './cluster.js';
import { DeviceLoad } from './loads/device-load.js';
import { FioLoad } from './loads/fio-load.js';
import type { Load } from './loads/load.js';
import { PostgresLoad } from './loads/postgres-load.js';
import { postgresMissing } from './loads/postgres-server.js';
import { SqliteLoad } from './loads/sqlite-load.js';

/** The smallest that mkfs.xfs makes. */
const xfsBytes = 300 * MiB;

/** Starts every load that this machine can run; `say` is told of those that it can't. The caller ends them. */
export async function startLoads(
  cluster: FaultCluster,
  seed: number,
  light: boolean,
  started: Load[],
  say: (text: string) => void,
): Promise<void> {
  const at = (i: number): TestNode => cluster.nodes[i % cluster.nodes.length]!;
  const start = async (load: Load) => {
    started.push(load);
    await load.start(await cluster.use(load.node, load.volume));
  };
  const raw = (bytes: number, extra: Partial<Parameters<FaultCluster['createVolume']>[0]> = {}): Promise<TestVolume> =>
    cluster.createVolume({ bytes, capability: blockCapability, ...extra });
  const mounted = (fsType: 'ext4' | 'xfs', bytes: number) =>
    cluster.createVolume({ bytes, capability: mountCapability(fsType) });

  const encrypted = await raw(65 * MiB, {
    parameters: { replicas: '3', encryption: 'aes-256-gcm' },
    secrets: { encryptionKey: randomBytes(32).toString('hex') },
  });
  const common = { bytes: 64 * MiB, bytesPerSecond: light ? MiB : 2 * MiB, seed };
  await start(new DeviceLoad({ name: 'device', volume: encrypted, node: at(0), ...common }));
  await start(new SqliteLoad('sqlite-ext4', await mounted('ext4', 128 * MiB), at(1), 'ext4', seed));
  if (light) return;
  const needs = (tool: string) => spawnSync('which', [tool]).status === 0;
  if (needs('mkfs.xfs'))
    await start(new SqliteLoad('sqlite-xfs', await mounted('xfs', xfsBytes), at(2), 'xfs', seed + 1));
  else say('NOT RUN: SQLite on xfs: there is no mkfs.xfs');
  if (needs('fio')) await start(new FioLoad(await raw(33 * MiB), at(3), 32 * MiB, seed));
  else say('NOT RUN: fio: not installed');
  const missing = postgresMissing();
  if (missing === '') await start(new PostgresLoad(await mounted('ext4', 512 * MiB), at(4), 'ext4'));
  else say(`NOT RUN: PostgreSQL: ${missing} (apt-get install postgresql)`);
}
