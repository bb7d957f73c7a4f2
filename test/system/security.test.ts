// A cluster with certificates on all connections: it works, fails over, takes renewed certificates while volumes are in use, and has
// nothing to say to those who have none.

import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { MiB, type NodeId, realClock, realRandom, silentLogger } from '../../src/base/index.js';
import { type NodeRecord, openRemoteStore } from '../../src/meta/index.js';
import { createClient, holdfastServices } from '../../src/rpc/index.js';
import { openNet } from '../../src/transport/index.js';
import { Certificates, parsePart } from '../../src/trust/index.js';
import { distFolder } from '../lib/build-once.js';
import { blockCapability, DevCluster, leftovers } from '../lib/dev-cluster.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { NodeProcesses } from '../lib/respawn.js';
import { missingFor } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'findmnt']);

describe('a cluster with certificates', () => {
  let cluster: DevCluster;
  let load: VerifiedLoad | undefined;
  let control = '';
  const processes: NodeProcesses[] = [];

  beforeAll(async () => {
    cluster = await DevCluster.start(['--nodes', '3', '--tls', '--no-restart']);
    const ready = cluster.events.find((one) => one.event === 'ready') as unknown as { controller: { control: string } };
    control = ready.controller.control;
  }, 120_000);

  afterEach(async (context) => {
    if (context.task.result?.state === 'fail') process.stderr.write(`${cluster.logs(40)}\n`);
    await load?.kill();
    load = undefined;
  });

  afterAll(async () => {
    const code = await cluster.stop();
    for (const one of processes) await one.stop();
    expect(code).toBe(0);
    const left = leftovers(cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    expect(left).toEqual([]);
  }, 120_000);

  const trustOf = (part: string) =>
    new Certificates({
      directory: join(cluster.dir, 'tls', part.replace('/', '-')),
      part: parsePart(part),
      clock: realClock,
      logger: silentLogger,
    });

  it('keeps its keys to their owner', () => {
    expect(statSync(join(cluster.dir, 'tls', 'ca.key')).mode & 0o777).toBe(0o600);
    expect(statSync(join(cluster.dir, 'tls', 'storage-node-1', 'tls.key')).mode & 0o777).toBe(0o600);
  });

  it('shows the store to an operator, and lets nobody in without a certificate', async () => {
    const options = { address: control, clock: realClock, random: realRandom, logger: silentLogger, deadlineMs: 3_000 };
    const store = openRemoteStore({
      ...options,
      security: { trust: trustOf('operator'), server: { role: 'controller', node: null } },
    });
    const { entries } = await store.list<NodeRecord>('node/');
    await expect(
      store.compareAndSwap('node/node-1', entries[0]!.version, { id: 'node-1' as NodeId }),
    ).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
    });
    await store.close();
    const nobody = createClient(control, holdfastServices.metadata(), { clock: realClock, deadlineMs: 3_000 });
    await expect(nobody.Get({ key: 'node/node-1' })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    nobody.close();
    // A node plugin may read, and not order daemons about; one node may not speak for another.
    const address = entries[0]!.value.controlAddress;
    const security = { trust: trustOf('node/node-2'), server: parsePart('storage/node-1') };
    const volumes = createClient(address, holdfastServices.volume(), { clock: realClock, deadlineMs: 3_000, security });
    await expect(volumes.Close({ volume_id: '00000000-0000-0000-0000-000000000000' })).rejects.toMatchObject({
      code: 'PERMISSION_DENIED',
      reason: 'WrongRole',
    });
    volumes.close();
    const asNode2 = { trust: trustOf('storage/node-2'), server: parsePart('controller') };
    const nodes = createClient(control, holdfastServices.node(), {
      clock: realClock,
      deadlineMs: 3_000,
      security: asNode2,
    });
    await expect(nodes.Heartbeat({ node: { node_id: 'node-1' } })).rejects.toMatchObject({ code: 'PERMISSION_DENIED' });
    nodes.close();
    // In plain text a replica port says nothing.
    const stream = await openNet(realClock).connect(entries[0]!.value.replicaAddresses[0]!, 3_000);
    const heard = await new Promise<number>((resolve) => {
      let bytes = 0;
      const end = () => {
        stream.destroy();
        resolve(bytes);
      };
      stream.start({
        wanted: 0,
        received: (_slab, from, to) => {
          bytes += to - from;
          return to - from;
        },
        drained() {},
        ended: end,
        closed: end,
      });
      stream.write(Buffer.alloc(4096, 'HELLO'));
    });
    expect(heard).toBe(0);
    const log = readFileSync(join(cluster.dir, 'logs', 'node-1-storage.log'), 'utf8');
    expect(log).toMatch(/a peer was refused/);
    expect(log).toMatch(/does not speak TLS/);
  });

  describe('with a volume in use', () => {
    beforeEach((context) => context.skip(reason !== '', reason));

    it('writes, takes renewed certificates, loses a node, fails over, and has all it acknowledged', async () => {
      const [first, second, third] = cluster.nodes as [
        (typeof cluster.nodes)[0],
        (typeof cluster.nodes)[0],
        (typeof cluster.nodes)[0],
      ];
      const others = new NodeProcesses(cluster, second.id);
      const lost = new NodeProcesses(cluster, first.id);
      processes.push(others, lost);
      const volume = await cluster.createVolume({ bytes: 64 * MiB, capability: blockCapability });
      load = new VerifiedLoad({
        ...{
          name: 'device',
          path: await cluster.use(first, volume),
          bytes: 64 * MiB,
          unitBytes: 4096,
          requestUnits: 64,
        },
        ...{ direct: true, bytesPerSecond: 4 * MiB, folder: null, writers: 4, seed: randomInt(2 ** 31) },
      });
      await load.start();
      await realClock.sleep(1_000);
      load.check();
      expect((await cluster.status(first, volume))!.replicas.map(({ state }) => state)).toEqual([
        'in-sync',
        'in-sync',
        'in-sync',
      ]);

      // Renewed under way. A daemon that is killed then comes back with the new ones, among those that stayed.
      const parts = ['controller', 'operator', ...cluster.nodes.flatMap(({ id }) => [`storage/${id}`, `node/${id}`])];
      const command = [join(distFolder, 'src/main/holdfast.js'), 'certs', '--dir', join(cluster.dir, 'tls'), ...parts];
      const made = spawnSync(process.execPath, command, { encoding: 'utf8' });
      expect([made.status, made.stderr, made.stdout.trim().split('\n').length]).toEqual([0, '', parts.length]);
      await realClock.sleep(6_000);
      for (const name of ['controller', 'node-1-storage', 'node-2-storage', 'node-3-node'])
        expect(readFileSync(join(cluster.dir, 'logs', `${name}.log`), 'utf8'), name).toMatch(
          /certificates were read anew/,
        );
      load.check();
      await others.signal('SIGKILL', ['storage']);
      others.start('storage');
      await cluster.healed(first, volume, 60_000);
      load.check();

      // The engine's node is lost, another one opens the volume, and the first returns.
      await lost.signal('SIGKILL');
      await realClock.sleep(500);
      load.check();
      await load.move(cluster.target(third, volume));
      await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: first.id });
      await cluster.use(third, volume);
      expect((await load.verify()).bytes).toBeGreaterThan(MiB);
      await load.resume();
      lost.start('storage');
      lost.start('node');
      await cluster.healed(third, volume, 60_000);
      load.check();
      await load.pause();
      await load.verify();
      const again = { waitForReady: true, deadlineMs: 60_000 };
      const target_path = cluster.target(first, volume);
      await first.client.NodeUnpublishVolume({ volume_id: volume.id, target_path }, again);
      const staging_target_path = cluster.staging(first, volume);
      await first.client.NodeUnstageVolume({ volume_id: volume.id, staging_target_path }, again);
      await load.kill();
      await cluster.release(third, volume);
      expect(compareReplicas(cluster.nodes, volume).bytes).toBeGreaterThan(MiB);
      await cluster.controller.DeleteVolume({ volume_id: volume.id });
    }, 120_000);
  });
});
