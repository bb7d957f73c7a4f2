// The replicas of a volume change under a load that checks every byte: more, fewer, one lost and made anew, a node drained by command.

import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError, MiB, realClock } from '../../src/base/index.js';
import { distFolder } from '../lib/build-once.js';
import { blockCapability, DevCluster, leftovers, type TestNode, type TestVolume } from '../lib/dev-cluster.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { NodeProcesses } from '../lib/respawn.js';
import { missingFor } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'findmnt']);
const say = (text: string) => process.stderr.write(`${text}\n`);
const size = 64 * MiB;

describe('membership', () => {
  let cluster: DevCluster;
  let load: VerifiedLoad | undefined;
  let processes: NodeProcesses[] = [];

  beforeEach((context) => context.skip(reason !== '', reason));

  afterEach(async (context) => {
    if (reason !== '') return;
    const failed = context.task.result?.state === 'fail';
    if (failed) say(cluster.logs(60));
    await load?.kill();
    const code = await cluster.stop();
    for (const one of processes) await one.stop();
    const left = leftovers(cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    load = undefined;
    processes = [];
    if (failed) return;
    expect(code).toBe(0);
    expect(left).toEqual([]);
  }, 120_000);

  async function loaded(replicas: number): Promise<{ volume: TestVolume; node: TestNode }> {
    const node = cluster.nodes[0]!;
    const parameters = { replicas: String(replicas) };
    const volume = await cluster.createVolume({ bytes: size, capability: blockCapability, parameters });
    load = new VerifiedLoad({
      ...{ name: 'device', path: await cluster.use(node, volume), bytes: size, unitBytes: 4096, requestUnits: 64 },
      ...{ direct: true, bytesPerSecond: 4 * MiB, folder: null, writers: 4, seed: randomInt(2 ** 31) },
    });
    await load.start();
    return { volume, node };
  }

  const dataOf = (node: TestNode, volume: TestVolume) => join(node.poolDir, 'replicas', volume.id);
  const holders = (volume: TestVolume) => cluster.nodes.filter((node) => existsSync(dataOf(node, volume)));

  /** Waits until the engine has so many replicas, all in sync, and no other node has data. Resolves with the milliseconds. */
  async function settled(node: TestNode, volume: TestVolume, count: number, avoided = ''): Promise<number> {
    const startMs = realClock.monotonicMs();
    let seen = '';
    while (realClock.monotonicMs() < startMs + 60_000) {
      load!.check();
      const status = await cluster.status(node, volume).catch(() => undefined);
      const replicas = status?.replicas ?? [];
      const data = holders(volume).map((one) => one.id);
      seen = JSON.stringify([replicas.map((one) => [one.node_id, one.state, one.message]), data]);
      const inSync = replicas.filter(({ state, node_id }) => state === 'in-sync' && node_id !== avoided);
      if (inSync.length === count && replicas.length === count && data.length === count)
        return Math.round(realClock.monotonicMs() - startMs);
      await realClock.sleep(100);
    }
    throw new Error(`volume ${volume.id} has not got its ${count} replicas: ${seen}`);
  }

  async function verified(node: TestNode, volume: TestVolume): Promise<void> {
    await load!.pause();
    const { bytes } = await load!.verify();
    // Through a new attach, so that nothing comes from a cache.
    await cluster.release(node, volume);
    await cluster.use(node, volume);
    await load!.verify();
    await cluster.healed(node, volume);
    await cluster.release(node, volume);
    const equal = compareReplicas(holders(volume), volume);
    const { writes, reads, flushes } = load!.counts;
    say(
      `${writes} writes, ${reads} checked reads, ${flushes} flushes; ${bytes / MiB} MiB verified, ${holders(volume).length} replicas equal in ${(equal.bytes / MiB).toFixed(1)} MiB`,
    );
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  }

  it('goes from two to three to two to three replicas by ControllerModifyVolume', async () => {
    cluster = await DevCluster.start(['--nodes', '4']);
    const { volume, node } = await loaded(2);
    await realClock.sleep(1_000);
    for (const count of [3, 2, 3]) {
      const { writes } = load!.counts;
      const volume_id = volume.id;
      await cluster.controller.ControllerModifyVolume({ volume_id, mutable_parameters: { replicas: String(count) } });
      const ms = await settled(node, volume, count);
      say(
        `${count} replicas after ${ms} ms on ${holders(volume)
          .map((one) => one.id)
          .join(', ')}`,
      );
      await load!.progress(realClock.wallMs());
      expect(load!.counts.writes).toBeGreaterThan(writes);
    }
    expect(load!.longestGap(0)).toBeLessThan(3_000);
    await verified(node, volume);
  });

  it('makes a lost replica anew on another node', async () => {
    cluster = await DevCluster.start(['--nodes', '4', '--no-restart']);
    const { volume, node } = await loaded(3);
    await realClock.sleep(1_000);
    const victim = holders(volume).find((one) => one.id !== node.id)!;
    const storage = new NodeProcesses(cluster, victim.id);
    processes = [storage];
    await storage.signal('SIGKILL', ['storage']);
    rmSync(dataOf(victim, volume), { recursive: true });
    storage.start('storage');
    const ms = await settled(node, volume, 3, victim.id);
    say(
      `replaced after ${ms} ms on ${holders(volume)
        .map((one) => one.id)
        .join(', ')}`,
    );
    expect(holders(volume).map((one) => one.id)).not.toContain(victim.id);
    await verified(node, volume);
  });

  /** `holdfast COMMAND ...` of the operator. */
  function holdfast(...args: string[]): { code: number | null; text: string } {
    const ready = cluster.events.find(({ event }) => event === 'ready') as
      | { controller?: { control: string } }
      | undefined;
    const controller = ready!.controller!.control;
    const program = join(distFolder, 'src/main/holdfast.js');
    const { status, stdout, stderr } = spawnSync(
      process.execPath,
      [program, ...args, '--insecure', '--controller', controller],
      {
        encoding: 'utf8',
        timeout: 60_000,
      },
    );
    say(`$ holdfast ${args.join(' ')}\n${stdout}${stderr}`);
    return { code: status, text: stdout + stderr };
  }

  it('empties a node by command, also the one where the volume is used', async () => {
    cluster = await DevCluster.start(['--nodes', '4']);
    const { volume, node } = await loaded(3);
    await realClock.sleep(1_000);
    expect(holders(volume)).toContain(node);
    const plan = holdfast('drain', node.id, '--dry-run');
    expect(plan).toMatchObject({ code: 0, text: expect.stringContaining('1 volumes with') });
    expect(plan.text).toContain('attached there');
    expect(holdfast('drain', node.id)).toMatchObject({ code: 0, text: expect.stringContaining('node-1 is empty') });
    expect(holders(volume).map((one) => one.id)).toEqual(['node-2', 'node-3', 'node-4']);
    await settled(node, volume, 3, node.id);
    await load!.progress(realClock.wallMs());
    const refused = holdfast('drain', 'node-2');
    expect(refused).toMatchObject({ code: 1, text: expect.stringContaining("CAN'T BE MOVED: another replica needs") });
    expect(holdfast('status')).toMatchObject({
      code: 0,
      text: expect.stringContaining('node node-1: alive, being drained'),
    });
    expect(holdfast('drain', node.id, '--undo').code).toBe(0);
    expect(holdfast('drain', 'node-2')).toMatchObject({ code: 0, text: expect.stringContaining('node-2 is empty') });
    await settled(node, volume, 3, 'node-2');
    await verified(node, volume);
  });

  /** As an orchestrator does while an earlier call is still under way. */
  async function repeated<T>(work: () => Promise<T>): Promise<T> {
    for (const endMs = realClock.monotonicMs() + 60_000; ; await realClock.sleep(500)) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof HoldfastError && error.code === 'ABORTED') || realClock.monotonicMs() > endMs)
          throw error;
      }
    }
  }

  it('keeps a volume offline until the last replica is back, or its loss is accepted', async () => {
    cluster = await DevCluster.start(['--nodes', '3', '--no-restart']);
    const [last, ...others] = cluster.nodes as [TestNode, TestNode, TestNode];
    const volume = await cluster.createVolume({ bytes: 16 * MiB, capability: blockCapability });
    const put = (device: string, byte: string) =>
      spawnSync('sh', [
        '-c',
        `head -c 4096 /dev/zero | tr '\\0' ${byte} | dd of=${device} bs=4096 oflag=direct conv=fsync,notrunc`,
      ]);
    const get = (device: string) =>
      spawnSync('dd', [`if=${device}`, 'bs=4096', 'count=1', 'iflag=direct']).stdout.toString('latin1');
    const device = await cluster.use(last, volume);
    put(device, 'A');
    processes = cluster.nodes.map((node) => new NodeProcesses(cluster, node.id));
    for (const one of processes.slice(1)) await one.signal('SIGKILL', ['storage']);
    put(device, 'B');
    expect(get(device)).toBe('B'.repeat(4096));
    await cluster.release(last, volume);
    await processes[0]!.signal('SIGKILL', ['storage']);
    for (const one of processes.slice(1)) one.start('storage');

    const [heir] = others;
    const publish = {
      ...{ volume_id: volume.id, node_id: heir.id, volume_capability: volume.capability },
      ...{ volume_context: volume.context, readonly: false, secrets: {} },
    };
    const { publish_context } = await cluster.controller.ControllerPublishVolume(publish);
    const stage = {
      ...{ volume_id: volume.id, volume_capability: volume.capability, publish_context },
      ...{ volume_context: volume.context, secrets: {}, staging_target_path: cluster.staging(heir, volume) },
    };
    await expect(heir.client.NodeStageVolume(stage, { deadlineMs: 15_000 })).rejects.toThrow();
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: heir.id });
    const asked = holdfast('accept-loss', volume.id);
    expect(asked).toMatchObject({ code: 1, text: expect.stringContaining('nothing was changed') });
    expect(asked.text).toContain('node-1: replica');
    expect(holdfast('accept-loss', volume.id, '--confirm')).toMatchObject({
      code: 0,
      text: expect.stringContaining('recorded as audit/'),
    });
    const moved = await repeated(() => cluster.use(heir, volume));
    expect(get(moved)).toBe('A'.repeat(4096));
    put(moved, 'C');

    // What was given up stays given up: its node gets a new replica of what the volume is now.
    processes[0]!.start('storage');
    await cluster.healed(heir, volume);
    const whole = async () => (await cluster.status(heir, volume))?.replicas.length === 3;
    for (const endMs = realClock.monotonicMs() + 60_000; !(await whole()); await realClock.sleep(200))
      if (realClock.monotonicMs() > endMs) throw new Error('the third replica was not made anew');
    await cluster.healed(heir, volume);
    expect(get(moved)).toBe('C'.repeat(4096));
    await cluster.release(heir, volume);
    compareReplicas(cluster.nodes, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });
});
