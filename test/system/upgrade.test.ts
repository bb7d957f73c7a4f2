// Real processes of two releases in one cluster: the daemons and node plugins of a volume's three nodes are replaced by the next
// release one after the other, under a load that checks every byte, while the controller and the holder stay what they are.

import { randomInt } from 'node:crypto';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, expect, it } from 'vitest';
import { MiB, realClock } from '../../src/base/index.js';
import { blockCapability, DevCluster, leftovers } from '../lib/dev-cluster.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { nextBuild } from '../lib/next-build.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { NodeProcesses } from '../lib/respawn.js';
import { missingFor } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'findmnt']);
const seed = Number(process.env.HOLDFAST_SEED ?? randomInt(1, 2 ** 31));

let cluster: DevCluster | null = null;
let load: VerifiedLoad | null = null;
let processes: NodeProcesses[] = [];

afterEach(async (context) => {
  if (cluster === null) return;
  const failed = context.task.result?.state === 'fail';
  if (failed) process.stderr.write(`${cluster.logs(40)}\n`);
  await load?.kill();
  await Promise.all(processes.map((one) => one.stop()));
  await cluster.stop();
  const left = leftovers(cluster.dir).filter((line) => line !== cluster!.dir);
  rmSync(cluster.dir, { recursive: true, force: true });
  if (!failed) expect(left).toEqual([]);
}, 120_000);

it('is replaced node by node by the next release under a verified load', { timeout: 180_000 }, async (context) => {
  context.skip(reason !== '', reason);
  cluster = await DevCluster.start(['--nodes', '3', '--no-restart']);
  const program = nextBuild(join(cluster.dir, 'next'));
  processes = cluster.nodes.map(({ id }) => new NodeProcesses(cluster!, id));
  const [one, two, three] = cluster.nodes;
  const size = 64 * MiB;
  const volume = await cluster.createVolume({
    bytes: size,
    capability: blockCapability,
    parameters: { replicas: '3' },
  });
  const device = await cluster.use(one!, volume);
  load = new VerifiedLoad({
    ...{ name: 'device', path: device, bytes: size, unitBytes: 4096, requestUnits: 64, writers: 4, seed },
    ...{ direct: true, bytesPerSecond: 2 * MiB, folder: null },
  });
  await load.start();
  // The engine's node in the middle: its daemon meets both releases as peers.
  for (const node of [two!, one!, three!]) {
    const own = processes[cluster.nodes.indexOf(node)]!;
    const since = realClock.wallMs();
    await own.signal('SIGKILL');
    for (const role of ['storage', 'node'] as const) own.start(role, program);
    await cluster.healed(one!, volume, 60_000);
    await load.progress(realClock.wallMs());
    load.check();
    process.stderr.write(`${node.id}: next release, longest pause ${load.longestGap(since)} ms\n`);
  }
  await load.pause();
  const { bytes } = await load.verify();
  expect(bytes).toBe(size);
  // Orders of the old controller to the new daemons.
  const { snapshot } = await cluster.controller.CreateSnapshot({ source_volume_id: volume.id, name: 'between' });
  await cluster.controller.DeleteSnapshot({ snapshot_id: snapshot!.snapshot_id });
  await cluster.release(one!, volume);
  await cluster.use(one!, volume);
  await load.verify();
  await cluster.healed(one!, volume);
  await cluster.release(one!, volume);
  expect(compareReplicas(cluster.nodes, volume).segments).toBeGreaterThan(0);
  await cluster.controller.DeleteVolume({ volume_id: volume.id });
});
