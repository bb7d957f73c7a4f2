// Which replicas a volume may be opened with, when daemons and disks were lost one after the other, by real processes: never with
// less than what was promised, however available that would be.

import { randomBytes } from 'node:crypto';
import { rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createExportSource } from '../../src/agent/index.js';
import { MiB, realClock, type VolumeId } from '../../src/base/index.js';
import { NbdClient } from '../../src/nbd/index.js';
import { LoopPool } from '../faults/pools.js';
import { blockCapability, DevCluster, leftovers, type TestNode, type TestVolume } from '../lib/dev-cluster.js';
import { NodeProcesses } from '../lib/respawn.js';
import { missingFor } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'mkfs.ext4', 'mount', 'umount', 'xfs_io']);
if (reason !== '') process.stderr.write(`last-replica.test.ts is SKIPPED: ${reason}\n`);

const size = 64 * MiB;
const pieceBytes = 64 * 1024;

describe('the replicas that are left', () => {
  let cluster: DevCluster;
  let processes: NodeProcesses[] = [];
  let pools: LoopPool[] = [];

  beforeEach(async (context) => {
    context.skip(reason !== '', reason);
    const image = join(tmpdir(), `hfpool-${randomBytes(4).toString('hex')}`);
    cluster = await DevCluster.start(['--nodes', '3', '--no-restart'], (dir) => {
      pools = [1, 2, 3].map(
        (i) => new LoopPool(`${image}-${i}.img`, join(dir, `node-${i}`, 'pool'), 'ext4', 512 * MiB),
      );
    });
    processes = cluster.nodes.map(({ id }) => new NodeProcesses(cluster, id));
  });

  afterEach(async (context) => {
    if (reason !== '') return;
    if (context.task.result?.state === 'fail') process.stderr.write(`${cluster.logs(20)}\n`);
    await Promise.all(processes.map((one) => one.stop()));
    await cluster.stop();
    for (const pool of pools) pool.close();
    processes = [];
    pools = [];
    const left = leftovers(cluster.dir).filter((line) => line !== cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    expect(left).toEqual([]);
  });

  const create = () =>
    cluster.createVolume({ bytes: size, capability: blockCapability, parameters: { replicas: '3' } });

  const source = (node: TestNode) => createExportSource(join(node.runDir, 'storage.sock'), realClock);

  async function publish(node: TestNode, volume: TestVolume): Promise<void> {
    await cluster.controller.ControllerPublishVolume({
      ...{ volume_id: volume.id, node_id: node.id, volume_capability: volume.capability },
      ...{ volume_context: volume.context, readonly: false, secrets: {} },
    });
  }

  async function open(node: TestNode, volume: TestVolume): Promise<NbdClient> {
    const exports = source(node);
    try {
      const address = await exports.open(volume.id as VolumeId, null, false);
      return await NbdClient.connect({ address: { path: address.socketPath }, exportName: address.exportName });
    } finally {
      exports.disconnect();
    }
  }

  /** Tries to open it for so long, as a holder does. Rejects when it could be opened. */
  async function staysClosed(node: TestNode, volume: TestVolume, ms: number): Promise<string> {
    let said = '';
    for (const endMs = realClock.monotonicMs() + ms; realClock.monotonicMs() < endMs; await realClock.sleep(100)) {
      const exports = source(node);
      const late = realClock.sleep(ms).then(() => Promise.reject(new Error('it waits')));
      late.catch(() => {});
      try {
        await Promise.race([exports.open(volume.id as VolumeId, null, false), late]);
        throw new TypeError(`${volume.id} was opened on ${node.id}`);
      } catch (error) {
        if (error instanceof TypeError) throw error;
        said = (error as Error).message;
      } finally {
        exports.disconnect();
      }
    }
    return said;
  }

  async function opened(node: TestNode, volume: TestVolume): Promise<NbdClient> {
    for (const endMs = realClock.monotonicMs() + 60_000; ; await realClock.sleep(200)) {
      try {
        return await open(node, volume);
      } catch (error) {
        if (realClock.monotonicMs() > endMs) throw error;
      }
    }
  }

  const kill = (i: number) => processes[i]!.signal('SIGKILL', ['storage']);
  const inSync = async (node: TestNode, volume: TestVolume): Promise<string> =>
    ((await cluster.status(node, volume))?.replicas ?? [])
      .filter(({ state }) => state === 'in-sync')
      .map(({ node_id }) => node_id)
      .sort()
      .join(' ');

  async function until(what: string, test: () => Promise<boolean>): Promise<void> {
    for (const endMs = realClock.monotonicMs() + 60_000; !(await test()); await realClock.sleep(50)) {
      if (realClock.monotonicMs() > endMs) throw new Error(`not within 60 s: ${what}`);
    }
  }

  it('stay offline after all but one and then that one were killed, until the last one comes back', async () => {
    const [one, two, three] = cluster.nodes as [TestNode, TestNode, TestNode];
    const volume = await create();
    await publish(one, volume);
    const client = await open(one, volume);
    const pieces = Array.from({ length: 30 }, () => randomBytes(pieceBytes));
    for (const [i, piece] of pieces.slice(0, 10).entries()) await client.write(i * pieceBytes, piece);
    await kill(1);
    for (const [i, piece] of pieces.slice(10, 20).entries()) await client.write((10 + i) * pieceBytes, piece);
    await kill(2);
    for (const [i, piece] of pieces.slice(20).entries()) await client.write((20 + i) * pieceBytes, piece);
    await until('the set is one replica', async () => (await inSync(one, volume)) === one.id);
    await kill(0);
    await client.close().catch(() => {});

    processes[1]!.start('storage');
    processes[2]!.start('storage');
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: one.id });
    await publish(two, volume);
    const said = await staysClosed(two, volume, 8_000);
    expect(said).not.toBe('');
    processes[0]!.start('storage');
    const after = await opened(two, volume);
    for (const [i, piece] of pieces.entries()) {
      expect((await after.read(i * pieceBytes, pieceBytes)).equals(piece), `piece ${i}`).toBe(true);
    }
    await until('all three in sync', async () => (await inSync(two, volume)) === `${one.id} ${two.id} ${three.id}`);
    await after.close();
  });

  it('lose nothing that was flushed when writes were accepted, a flush could not end, and all lost their power', async () => {
    const [one, , three] = cluster.nodes as [TestNode, TestNode, TestNode];
    const volume = await create();
    await publish(one, volume);
    const client = await open(one, volume);
    const flushed = Array.from({ length: 20 }, () => randomBytes(pieceBytes));
    for (const [i, piece] of flushed.entries()) await client.write(i * pieceBytes, piece);
    await client.flush();
    // Accepted by all three, over what was flushed as well as beside it; the third can't sync any more.
    const later = Array.from({ length: 10 }, () => randomBytes(pieceBytes));
    for (const [i, piece] of later.entries()) await client.write((i + 15) * pieceBytes, piece);
    await processes[2]!.signal('SIGSTOP', ['storage']);
    let answered = false;
    const flush = client.flush().then(
      () => {
        answered = true;
      },
      () => {},
    );
    await realClock.sleep(1_000);
    expect(answered, 'a flush was answered that one replica can not have done').toBe(false);
    await Promise.all([0, 1, 2].map(kill));
    await client.close().catch(() => {});
    await flush;
    for (const pool of pools) pool.cutPower();
    for (const pool of pools) pool.restore();
    for (const one of processes) one.start('storage');

    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: one.id });
    await publish(three, volume);
    const after = await opened(three, volume);
    // The writes after the flush are there up to some point and no further.
    let lost = false;
    for (let i = 0; i < 25; i++) {
      const found = await after.read(i * pieceBytes, pieceBytes);
      const before = flushed[i] ?? Buffer.alloc(pieceBytes);
      const newer = later[i - 15];
      if (newer === undefined) expect(found.equals(before), `flushed piece ${i}`).toBe(true);
      else {
        lost ||= !found.equals(newer);
        expect(found.equals(lost ? before : newer), `piece ${i}, ${lost ? 'after' : 'before'} the first lost one`).toBe(
          true,
        );
      }
    }
    await until('all three in sync', async () => (await inSync(three, volume)).split(' ').length === 3);
    await after.close();
  });

  it('are no source when the only one that is back lost what was not synced', async () => {
    const [one, two, three] = cluster.nodes as [TestNode, TestNode, TestNode];
    const volume = await create();
    await publish(one, volume);
    const client = await open(one, volume);
    const pieces = Array.from({ length: 20 }, () => randomBytes(pieceBytes));
    for (const [i, piece] of pieces.entries()) await client.write(i * pieceBytes, piece);
    await Promise.all([0, 1, 2].map(kill));
    await client.close().catch(() => {});
    // As a filesystem does that met an I/O error, and is mounted again by hand: same boot, same number of the mount.
    pools[2]!.cutPower();
    pools[2]!.restore();
    processes[2]!.start('storage');
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: one.id });
    await publish(three, volume);
    await staysClosed(three, volume, 8_000);
    processes[0]!.start('storage');
    processes[1]!.start('storage');
    const after = await opened(three, volume);
    for (const [i, piece] of pieces.entries()) {
      expect((await after.read(i * pieceBytes, pieceBytes)).equals(piece), `piece ${i}`).toBe(true);
    }
    await until('all three in sync', async () => (await inSync(three, volume)) === `${one.id} ${two.id} ${three.id}`);
    await after.close();
  });
});
