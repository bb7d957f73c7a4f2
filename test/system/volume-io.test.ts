// A replicated volume under other people's tools: fio, nbdinfo, nbdcopy and qemu-img straight at the export's socket, and
// filesystems on the attached device, checked by their own fsck after unmount and after a daemon was killed under them.

import { spawn } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { mkdirSync, openSync, readFileSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { createExportSource } from '../../src/agent/index.js';
import { MiB, realClock, type VolumeId } from '../../src/base/index.js';
import {
  blockCapability,
  DevCluster,
  leftovers,
  mountCapability,
  type TestNode,
  type TestVolume,
} from '../lib/dev-cluster.js';
import { KillRun } from '../lib/kill-run.js';
import { VerifiedLoad } from '../lib/load/verified-load.js';
import { compareReplicas } from '../lib/replica-bytes.js';
import { checkUnmounted, fioKnowsNbd, missingFor, onDevice, run } from '../lib/system-needs.js';

const tools = [
  'losetup',
  'findmnt',
  'fio',
  'nbdinfo',
  'nbdcopy',
  'qemu-img',
  'mkfs.ext4',
  'e2fsck',
  'mkfs.xfs',
  'xfs_repair',
];
const reason = missingFor(tools) || (fioKnowsNbd() ? '' : 'fio was built without its nbd engine');
const say = (text: string) => process.stderr.write(`${text}\n`);

/** Not spawnSync: the daemons' events must be read meanwhile. */
function runLong(program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk) => {
        said += chunk;
      });
    }
    child.once('close', (code) =>
      code === 0 ? resolve(said) : reject(new Error(`${program} ended with ${code}: ${said.slice(-2_000)}`)),
    );
  });
}

/** fio says something about its connections before the report. */
const fioReport = (said: string) => JSON.parse(said.slice(said.indexOf('{'), said.lastIndexOf('}') + 1));
const mib = (bytes: number) => (bytes / MiB).toFixed(0);

describe('volume I/O', () => {
  let cluster: DevCluster;
  let failed = false;
  let loads: VerifiedLoad[] = [];
  const exported: { node: TestNode; volume: TestVolume }[] = [];

  beforeAll(async () => {
    if (reason === '') cluster = await DevCluster.start(['--nodes', '3']);
  });
  beforeEach((context) => context.skip(reason !== '', reason));
  afterEach(async (context) => {
    for (const load of loads) await load.kill();
    loads = [];
    if (context.task.result?.state !== 'fail') return;
    failed = true;
    say(cluster.logs(30));
  });
  afterAll(async () => {
    if (reason !== '') return;
    const code = await cluster.stop();
    const left = leftovers(cluster.dir);
    rmSync(cluster.dir, { recursive: true, force: true });
    if (failed) return;
    expect(code).toBe(0);
    expect(left).toEqual([]);
  });

  /** Publishes a volume to a node and opens its export there, as a holder does. Resolves with its URI. */
  async function openExport(node: TestNode, volume: TestVolume): Promise<string> {
    await cluster.controller.ControllerPublishVolume({
      volume_id: volume.id,
      node_id: node.id,
      volume_capability: volume.capability,
      volume_context: volume.context,
      secrets: volume.secrets,
    });
    exported.push({ node, volume });
    return reopen(node, volume);
  }

  async function reopen(node: TestNode, volume: TestVolume): Promise<string> {
    const source = createExportSource(join(node.runDir, 'storage.sock'), realClock);
    const secret = volume.secrets.encryptionKey;
    try {
      const key = secret === undefined ? null : Buffer.from(secret, 'hex');
      const address = await source.open(volume.id as VolumeId, key, false);
      expect(address.sizeBytes).toBeGreaterThan(0);
      return `nbd+unix:///${address.exportName}?socket=${address.socketPath}`;
    } finally {
      source.disconnect();
    }
  }

  /** Closes the engine and checks that its replicas are equal; then deletes the volume. */
  async function finish(node: TestNode, volume: TestVolume, replicas: number): Promise<void> {
    const holders = (await cluster.status(node, volume))!.replicas.map(({ node_id }) => node_id);
    expect(holders.length).toBe(replicas);
    await node.volumes.Close({ volume_id: volume.id, epoch: 0 });
    await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: node.id });
    const nodes = cluster.nodes.filter(({ id }) => holders.includes(id));
    expect(compareReplicas(nodes, volume).bytes).toBeGreaterThan(MiB);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  }

  const kinds = [
    { what: '1 replica', parameters: { replicas: '1' }, secrets: {} },
    { what: '3 replicas', parameters: { replicas: '3' }, secrets: {} },
    {
      what: '3 replicas, encrypted',
      parameters: { replicas: '3', encryption: 'aes-256-gcm' },
      secrets: { encryptionKey: randomBytes(32).toString('hex') },
    },
  ] as const;

  /** Four connections, each with a part of its own, written at random and read back. Resolves with the report of all. */
  async function fio(
    uri: string,
    { fromMiB, jobMiB, bsrange }: { fromMiB: number; jobMiB: number; bsrange: string },
    ...more: string[]
  ) {
    const said = await runLong('fio', [
      ...['--name=verify', '--ioengine=nbd', `--uri=${uri}`, '--numjobs=4', '--group_reporting', '--rw=randwrite'],
      ...[`--offset=${fromMiB}m`, `--size=${jobMiB}m`, `--offset_increment=${jobMiB}m`, `--bsrange=${bsrange}`],
      ...['--blockalign=512', '--iodepth=16', '--fsync=64', '--output-format=json', '--randseed=4711'],
      ...['--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--verify_state_save=0', ...more],
    ]);
    const { jobs } = fioReport(said);
    expect(jobs.length).toBe(1);
    return jobs[0];
  }

  it.each(kinds)('fio verifies random requests of 512 bytes to 1 MiB over four connections: $what', async (kind) => {
    const volume = await cluster.createVolume({ bytes: 128 * MiB, capability: blockCapability, ...kind });
    const node = cluster.nodes[1]!;
    // Most of the bytes come in large requests, most of the requests are small ones.
    const large = { fromMiB: 0, jobMiB: 24, bsrange: '512-1m' };
    const small = { fromMiB: 96, jobMiB: 6, bsrange: '512-16k' };
    let uri = await openExport(node, volume);
    for (const part of [large, small]) {
      const { error, write, read } = await fio(uri, part);
      expect(error).toBe(0);
      expect(write.io_bytes).toBeGreaterThan(4 * 0.9 * part.jobMiB * MiB);
      expect(read.io_bytes).toBe(write.io_bytes);
      say(`fio, ${kind.what}: ${mib(write.io_bytes)} MiB in ${write.total_ios} requests of ${part.bsrange}`);
    }
    // The same bytes come from what an engine of another reign finds on disk.
    await node.volumes.Close({ volume_id: volume.id, epoch: 0 });
    uri = await reopen(node, volume);
    for (const part of [large, small]) expect((await fio(uri, part, '--verify_only=1')).error).toBe(0);
    const status = await cluster.status(node, volume);
    expect(status!.counters!.reads).toBeGreaterThan(100);
    expect(status!.counters!.writes).toBe(0);
    await finish(node, volume, Number(kind.parameters.replicas));
  });

  it('nbdinfo, nbdcopy and qemu-img read, write and list the export', async () => {
    const bytes = 64 * MiB;
    const volume = await cluster.createVolume({ bytes, capability: blockCapability });
    const node = cluster.nodes[2]!;
    const uri = await openExport(node, volume);
    const folder = join(cluster.dir, 'images');
    mkdirSync(folder);
    const path = (name: string) => join(folder, name);

    expect(run('nbdinfo', uri)).toContain(`export="${volume.id}"`);
    const [about] = JSON.parse(run('nbdinfo', '--json', uri)).exports;
    expect(about).toMatchObject({
      'export-name': volume.id,
      'export-size': bytes,
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_multi_conn: true,
    });
    const list = JSON.parse(run('nbdinfo', '--json', '--list', uri)).exports;
    expect(list.map((one: Record<string, unknown>) => one['export-name'])).toEqual([volume.id]);

    // A file with data at its start, at odd places and at its end, and holes between.
    writeFileSync(path('image'), '');
    truncateSync(path('image'), bytes);
    const file = openSync(path('image'), 'r+');
    for (const at of [0, 10 * MiB + 512, 33 * MiB + 4096, bytes - 3 * MiB])
      writeSync(file, randomBytes(3 * MiB), 0, 3 * MiB, at);
    const image = readFileSync(path('image'));
    // Old content everywhere, which must not shine through the holes.
    writeFileSync(path('old'), Buffer.alloc(bytes, 0xee));
    await runLong('nbdcopy', ['--flush', '--connections=4', path('old'), uri]);
    await runLong('nbdcopy', ['--flush', '--connections=4', path('image'), uri]);
    await runLong('nbdcopy', ['--connections=4', uri, path('copied')]);
    expect(readFileSync(path('copied')).equals(image)).toBe(true);

    const info = JSON.parse(run('qemu-img', 'info', '--output=json', uri));
    expect(info['virtual-size']).toBe(bytes);
    expect(run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path('image'), uri)).toContain('identical');
    await runLong('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', uri, path('out.qcow2')]);
    expect(run('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', path('image'), path('out.qcow2'))).toContain(
      'identical',
    );
    await runLong('nbdcopy', ['--flush', path('old'), uri]);
    expect(() => run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path('image'), uri)).toThrow(/mismatch/);
    await runLong('qemu-img', ['convert', '-n', '-W', '-m', '8', '-f', 'qcow2', '-O', 'raw', path('out.qcow2'), uri]);
    expect(run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', path('image'), uri)).toContain('identical');

    await node.volumes.Close({ volume_id: volume.id, epoch: 0 });
    await runLong('nbdcopy', [await reopen(node, volume), path('reopened')]);
    expect(readFileSync(path('reopened')).equals(image)).toBe(true);
    await finish(node, volume, 3);
  });

  it.each(['ext4', 'xfs'] as const)('%s survives the death of its daemon, and its own fsck', async (fsType) => {
    const node = cluster.nodes[0]!;
    const volume = await cluster.createVolume({ bytes: 320 * MiB, capability: mountCapability(fsType) });
    const target = await cluster.use(node, volume);
    const load = new VerifiedLoad({
      ...{ name: fsType, path: join(target, 'data'), bytes: 48 * MiB, unitBytes: 512, requestUnits: 64, writers: 4 },
      ...{ direct: false, bytesPerSecond: 4 * MiB, folder: join(target, 'files'), seed: randomInt(2 ** 31) },
    });
    loads = [load];
    await load.start();
    const kills = new KillRun(cluster, [{ volume, node, load }], Math.random);
    try {
      for (let i = 0; i < 2; i++) say((await kills.kill({ role: 'storage', node: node.id, weight: 1 })).line);
    } finally {
      kills.close();
    }
    await load.pause();
    await onDevice(cluster, { volume, node }, (device) => checkUnmounted(device, fsType));
    expect(await load.verify()).toMatchObject({ bytes: 48 * MiB });
    // Killed while it is idle, and unmounted then: what the filesystem wrote back meets a new engine.
    await load.resume();
    await realClock.sleep(500);
    await load.pause();
    await kills.killIdle({ role: 'storage', node: node.id, weight: 1 });
    await onDevice(cluster, { volume, node }, (device) => checkUnmounted(device, fsType));
    await cluster.healed(node, volume);
    await cluster.release(node, volume);
    await cluster.use(node, volume);
    await load.verify();
    await cluster.release(node, volume);
    compareReplicas(cluster.nodes, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });
});
