// A pool filled to the last byte under load, by real processes on a small filesystem: the writer gets ENOSPC, what was flushed is
// intact, no replica is dropped, and after a discard the volume is usable again. Also with volumes that share the pool.

import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { checkPieces, fillUntilFull } from '../../bench/targets/full-pool.js';
import { createExportSource } from '../../src/agent/index.js';
import { MiB, realClock, type VolumeId } from '../../src/base/index.js';
import { NbdClient } from '../../src/nbd/index.js';
import { blockCapability, DevCluster, leftovers, type TestNode, type TestVolume } from '../lib/dev-cluster.js';
import { missingFor, run } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'mkfs.ext4', 'mount', 'umount']);
if (reason !== '') process.stderr.write(`full-pool.test.ts is SKIPPED: ${reason}\n`);

const POOL = 512 * MiB;
const VOLUME = 1024 * MiB;
const AGAIN = 32 * MiB;

/** An ext4 of that size at `target`. Returns what undoes it. */
function mountSmall(target: string, sizeBytes: number): () => void {
  const image = join(tmpdir(), `hfpool-${randomBytes(4).toString('hex')}.img`);
  writeFileSync(image, '');
  truncateSync(image, sizeBytes);
  const loop = run('losetup', '--find', '--show', image).trim();
  run('mkfs.ext4', '-q', '-m', '0', '-E', 'lazy_itable_init=0,lazy_journal_init=0', loop);
  mkdirSync(target, { recursive: true });
  run('mount', '-t', 'ext4', loop, target);
  return () => {
    run('umount', target);
    run('losetup', '--detach', loop);
    rmSync(image, { force: true });
  };
}

describe('a pool filled to the last byte', () => {
  let cluster: DevCluster | undefined;
  let undo: (() => void) | undefined;

  beforeEach((context) => context.skip(reason !== '', reason));
  afterEach(async (context) => {
    if (context.task.result?.state === 'fail' && cluster) process.stderr.write(`${cluster.logs(20)}\n`);
    const code = await cluster?.stop();
    undo?.();
    undo = undefined;
    if (cluster === undefined) return;
    rmSync(cluster.dir, { recursive: true, force: true });
    const left = leftovers(cluster.dir);
    cluster = undefined;
    expect([code, left]).toEqual([0, []]);
  });

  async function start(nodes: number): Promise<DevCluster> {
    cluster = await DevCluster.start(['--nodes', String(nodes)], (dir) => {
      undo = mountSmall(join(dir, 'node-1', 'pool'), POOL);
    });
    return cluster;
  }

  async function open(node: TestNode, volume: TestVolume): Promise<NbdClient> {
    await cluster!.controller.ControllerPublishVolume({
      volume_id: volume.id,
      node_id: node.id,
      volume_capability: volume.capability,
      volume_context: volume.context,
      secrets: volume.secrets,
    });
    const source = createExportSource(join(node.runDir, 'storage.sock'), realClock);
    try {
      const address = await source.open(volume.id as VolumeId, null, false);
      return await NbdClient.connect({ address: { path: address.socketPath }, exportName: address.exportName });
    } finally {
      source.disconnect();
    }
  }

  const create = (replicas: number) =>
    cluster!.createVolume({
      bytes: VOLUME,
      parameters: { replicas: String(replicas) },
      capability: blockCapability,
    });

  /** Discards everything and writes again until that works, a minute at most. */
  async function usableAgain(client: NbdClient): Promise<void> {
    await client.trim(0, VOLUME);
    await client.flush();
    const piece = randomBytes(MiB);
    const deadline = realClock.monotonicMs() + 60_000;
    for (;;) {
      try {
        for (let at = 0; at < AGAIN; at += MiB) await client.write(at, piece);
        await client.flush();
        break;
      } catch (error) {
        if (realClock.monotonicMs() > deadline) throw error;
        await realClock.sleep(500);
      }
    }
    expect((await client.read(AGAIN - MiB, MiB)).equals(piece)).toBe(true);
  }

  it.each([1, 3])(
    'gives ENOSPC, keeps what was flushed and recovers by a discard: %d replicas',
    async (replicas) => {
      const { nodes } = await start(replicas);
      const volume = await create(replicas);
      const client = await open(nodes[0]!, volume);
      const filled = await fillUntilFull(client, VOLUME);
      expect(filled.error).toBe('ENOSPC');
      expect(filled.flushed.size).toBeGreaterThan(1000);
      expect(await checkPieces(client, filled.flushed)).toBe('');
      const before = (await cluster!.status(nodes[0]!, volume))!;
      expect(before.replicas.map(({ state }) => state)).toEqual(before.replicas.map(() => 'in-sync'));
      await usableAgain(client);
      await client.close();
    },
    240_000,
  );

  it('lets a volume go on after a discard of the other one in its pool', async () => {
    const { nodes } = await start(1);
    const [first, second] = [await create(1), await create(1)];
    const clients = [await open(nodes[0]!, first), await open(nodes[0]!, second)];
    const filled = await Promise.all(clients.map((client) => fillUntilFull(client, VOLUME)));
    expect(filled.map(({ error }) => error)).toEqual(['ENOSPC', 'ENOSPC']);
    for (const [i, client] of clients.entries()) expect(await checkPieces(client, filled[i]!.flushed)).toBe('');
    await usableAgain(clients[0]!);
    expect(await checkPieces(clients[1]!, filled[1]!.flushed)).toBe('');
    await usableAgain(clients[1]!);
    for (const client of clients) await client.close();
  }, 240_000);
});
