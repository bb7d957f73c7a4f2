// A node is lost with a volume in use, another takes over: nothing acknowledged is missing there, the pause is measured, and
// what returns of the old node can do no harm.

import { spawn } from 'node:child_process';
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MiB, realClock } from '../../src/base/index.js';
import { blockCapability, DevCluster, leftovers, type TestNode, type TestVolume } from '../lib/dev-cluster.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { NodeProcesses } from '../lib/respawn.js';
import { checkUnmounted, missingFor, onDevice, run } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'findmnt', 'mkfs.ext4', 'e2fsck']);
const say = (text: string) => process.stderr.write(`${text}\n`);

/** In-flight replies that had left a process before it ended arrive within this. */
const settleMs = 500;
const writers = 4;
const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

/** One request at a device by a process of its own, which may hang. Resolves with how it ended. */
function probe(what: string, side: 'if' | 'of', device: string, ...more: string[]): Promise<string> {
  const args = [`${side}=${device}`, 'bs=4096', 'count=1', ...more];
  const dd = spawn('dd', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  dd.stderr.on('data', (chunk) => {
    said += chunk;
  });
  return new Promise((resolve) => {
    dd.once('close', (code) => {
      const refused = code !== 0 && said.includes('Input/output error');
      resolve(`${what} ${refused ? 'was refused' : `ended with ${code}: ${said}`}`);
    });
  });
}

describe('failover', () => {
  let cluster: DevCluster;
  let load: VerifiedLoad | undefined;
  let processes: NodeProcesses | undefined;

  beforeEach((context) => context.skip(reason !== '', reason));

  afterEach(async (context) => {
    if (reason !== '') return;
    const failed = context.task.result?.state === 'fail';
    if (failed) say(cluster.logs(60));
    await load?.kill();
    const code = await cluster.stop();
    await processes?.stop();
    const left = leftovers(cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    load = undefined;
    processes = undefined;
    if (failed) return;
    expect(code).toBe(0);
    expect(left).toEqual([]);
  }, 120_000);

  /** What the container orchestrator does for a volume of a node that is gone. Resolves with the milliseconds of each call. */
  async function moveVolume(from: TestNode, to: TestNode, volume: TestVolume): Promise<string> {
    const startMs = realClock.monotonicMs();
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: from.id });
    const unpublishedMs = realClock.monotonicMs();
    await cluster.use(to, volume);
    const usedMs = realClock.monotonicMs();
    return `ControllerUnpublish ${Math.round(unpublishedMs - startMs)} ms, Publish to NodePublish ${Math.round(usedMs - unpublishedMs)} ms`;
  }

  async function until(what: string, timeoutMs: number, test: () => boolean | Promise<boolean>): Promise<void> {
    for (const endMs = realClock.monotonicMs() + timeoutMs; !(await test()); await realClock.sleep(50)) {
      if (realClock.monotonicMs() > endMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    }
  }

  it.each([
    { what: 'killed', signal: 'SIGKILL' },
    { what: 'stopped, and goes on later', signal: 'SIGSTOP' },
  ] as const)('of a volume in use whose node is $what', async ({ what, signal }) => {
    cluster = await DevCluster.start(['--nodes', '3', '--no-restart']);
    const [old, heir] = [cluster.nodes[0]!, cluster.nodes[1]!];
    const blocks = await cluster.createVolume({ bytes: 64 * MiB, capability: blockCapability });
    const files = await cluster.createVolume({ bytes: 64 * MiB });
    load = new VerifiedLoad({
      ...{ name: 'device', path: await cluster.use(old, blocks), bytes: 64 * MiB, unitBytes: 4096, requestUnits: 64 },
      ...{ direct: true, bytesPerSecond: 4 * MiB, folder: null, writers, seed: randomInt(2 ** 31) },
    });
    const mounted = await cluster.use(old, files);
    await load.start();
    await realClock.sleep(1_500);
    writeFileSync(join(mounted, 'synced'), randomBytes(3 * MiB));
    run('sync', '-f', mounted);
    const synced = digest(join(mounted, 'synced'));
    processes = new NodeProcesses(cluster, old.id);

    await processes.signal(signal);
    const lostMs = realClock.monotonicMs();
    await realClock.sleep(settleMs);
    load.check();
    await load.move(cluster.target(heir, blocks));
    const times = await moveVolume(old, heir, blocks);
    const movedMs = realClock.monotonicMs() - lostMs;
    const { bytes } = await load.verify();
    // Asked after the new engine serves: whatever the old one still believes, it may not answer these with success.
    const probes = [
      probe('a read', 'if', cluster.target(old, blocks), 'of=/dev/null', 'iflag=direct'),
      probe('a write', 'of', cluster.target(old, blocks), 'if=/dev/zero', 'oflag=direct', 'conv=notrunc'),
    ];
    await load.resume();
    say(
      `failover, node ${what}: I/O goes on ${Math.round(movedMs)} ms after the loss; ${times}; ${bytes / MiB} MiB verified`,
    );
    const { replicas } = (await cluster.status(heir, blocks))!;
    expect(
      replicas
        .filter(({ state }) => state === 'in-sync')
        .map(({ node_id }) => node_id)
        .sort(),
    ).toEqual(['node-2', 'node-3']);
    await moveVolume(old, heir, files);
    expect(digest(join(cluster.target(heir, files), 'synced'))).toBe(synced);

    // The old node returns, with its holders that still have the devices, and an engine that thinks it reigns.
    const returnedMs = realClock.monotonicMs();
    if (signal === 'SIGKILL') {
      processes.start('storage');
      processes.start('node');
    } else await processes.signal('SIGCONT');
    await until('the old device answers what hung at it', 30_000, () => {
      load!.check();
      return load!.counts.refused + load!.counts.late === writers;
    });
    expect(await Promise.all(probes)).toEqual(['a read was refused', 'a write was refused']);
    say(
      `the old device fails its I/O ${Math.round(realClock.monotonicMs() - returnedMs)} ms after its node is back; ${load.counts.late} answers had been under way`,
    );
    for (const volume of [blocks, files]) await cluster.healed(heir, volume);
    say(`all replicas in sync ${Math.round(realClock.monotonicMs() - returnedMs)} ms after it is back`);
    const before = load.counts.writes;
    await realClock.sleep(1_000);
    load.check();
    expect(load.counts.writes).toBeGreaterThan(before + 10);
    for (const volume of [blocks, files]) await letGo(old, volume);

    await load.pause();
    await load.verify();
    await onDevice(cluster, { volume: files, node: heir }, (device) => checkUnmounted(device, 'ext4'));
    expect(digest(join(cluster.target(heir, files), 'synced'))).toBe(synced);
    for (const volume of [blocks, files]) {
      await cluster.release(heir, volume);
      expect(compareReplicas(cluster.nodes, volume).bytes).toBeGreaterThan(MiB);
      await cluster.controller.DeleteVolume({ volume_id: volume.id });
    }
  });

  /** Takes the failed device off the old node, once its plugin answers. */
  async function letGo(node: TestNode, volume: TestVolume): Promise<void> {
    const volume_id = volume.id;
    const target_path = cluster.target(node, volume);
    const options = { waitForReady: true, deadlineMs: 60_000 };
    await node.client.NodeUnpublishVolume({ volume_id, target_path }, options);
    await node.client.NodeUnstageVolume({ volume_id, staging_target_path: cluster.staging(node, volume) }, options);
  }
});
