// kill -9 of any one process, again and again, under loads that check every byte: a pause, never an error, never a wrong byte;
// and the death of a whole node with the volume going on at another.
//
//   HOLDFAST_KILLS=N   how often (50)
//   HOLDFAST_SEED=N    to repeat a run's choice of victims and moments

import { randomBytes, randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MiB } from '../../src/base/index.js';
import { blockCapability, DevCluster, leftovers } from '../lib/dev-cluster.js';
import { KillRun, type LoadedVolume, type Victim } from '../lib/kill-run.js';
import { seededRandom } from '../lib/load/contents.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { checkUnmounted, missingFor, onDevice } from '../lib/system-needs.js';

const kills = Number(process.env.HOLDFAST_KILLS ?? 50);
const seed = Number(process.env.HOLDFAST_SEED ?? randomInt(1, 2 ** 31));
const say = (text: string) => process.stderr.write(`${text}\n`);
const reason = missingFor(['losetup', 'findmnt', 'mkfs.ext4', 'e2fsck']);

const victims: readonly Victim[] = [
  { role: 'controller', node: '', weight: 3 },
  { role: 'node', node: 'node-1', weight: 3 },
  { role: 'storage', node: 'node-1', weight: 6 },
  { role: 'storage', node: 'node-2', weight: 5 },
  { role: 'storage', node: 'node-3', weight: 3 },
];

describe('kill -9', () => {
  let cluster: DevCluster;
  let loads: VerifiedLoad[] = [];

  beforeEach((context) => context.skip(reason !== '', reason));

  afterEach(async (context) => {
    if (reason !== '') return;
    const failed = context.task.result?.state === 'fail';
    if (failed) say(cluster.logs(60));
    for (const load of loads) await load.kill();
    loads = [];
    const code = await cluster.stop();
    const left = leftovers(cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    if (failed) return;
    expect(code).toBe(0);
    expect(left).toEqual([]);
  }, 120_000);

  /** A mounted ext4 on node-1 and an encrypted raw block volume on node-2, both with three replicas. */
  async function twoLoads(): Promise<LoadedVolume[]> {
    const [one, two] = cluster.nodes;
    const files = await cluster.createVolume({ bytes: 192 * MiB });
    const blocks = await cluster.createVolume({
      bytes: 96 * MiB,
      capability: blockCapability,
      parameters: { replicas: '3', encryption: 'aes-256-gcm' },
      secrets: { encryptionKey: randomBytes(32).toString('hex') },
    });
    const target = await cluster.use(one!, files);
    const device = await cluster.use(two!, blocks);
    const common = { writers: 4, seed };
    const fileLoad = new VerifiedLoad({
      ...common,
      ...{ name: 'ext4', path: join(target, 'data'), bytes: 64 * MiB, unitBytes: 512, requestUnits: 64 },
      ...{ direct: false, bytesPerSecond: MiB, folder: join(target, 'files') },
    });
    const blockLoad = new VerifiedLoad({
      ...common,
      ...{ name: 'device', path: device, bytes: 96 * MiB, unitBytes: 4096, requestUnits: 64 },
      ...{ direct: true, bytesPerSecond: 2 * MiB, folder: null },
    });
    loads = [fileLoad, blockLoad];
    for (const load of loads) await load.start();
    return [
      { volume: files, node: one!, load: fileLoad },
      { volume: blocks, node: two!, load: blockLoad },
    ];
  }

  it(`of any one process, ${kills} times, is a pause and nothing else`, {
    timeout: 120_000 + kills * 30_000,
  }, async () => {
    say(`kill run with HOLDFAST_SEED=${seed}`);
    cluster = await DevCluster.start(['--nodes', '3']);
    const [files, blocks] = await twoLoads();
    const run = new KillRun(cluster, [files!, blocks!], seededRandom(seed));
    try {
      for (let i = 1; i <= kills; i++) {
        const { line } = await run.kill(run.pick(victims));
        say(`${String(i).padStart(3)}/${kills} ${line}`);
      }
    } finally {
      say(run.summary());
      run.close();
    }
    for (const load of loads) {
      await load.pause();
      const { bytes, files: count } = await load.verify();
      const { writes, reads, flushes } = load.counts;
      say(
        `${load.options.name}: ${writes} writes, ${reads} checked reads, ${flushes} flushes; ${bytes / MiB} MiB and ${count} files verified`,
      );
      expect(writes).toBeGreaterThan(kills * 20);
    }
    await onDevice(cluster, files!, async (device) => checkUnmounted(device, 'ext4'));
    // Through a new attach, so that nothing comes from a page cache.
    for (const { volume, node, load } of [files!, blocks!]) {
      await cluster.release(node, volume);
      await cluster.use(node, volume);
      await load.verify();
      await cluster.healed(node, volume);
      await cluster.release(node, volume);
      const { segments, bytes } = compareReplicas(cluster.nodes, volume);
      say(
        `${load.options.name}: ${segments} segments, ${(bytes / MiB).toFixed(1)} MiB, equal on ${cluster.nodes.length} replicas`,
      );
      expect(segments).toBeGreaterThan(0);
      await cluster.controller.DeleteVolume({ volume_id: volume.id });
    }
  });
});
