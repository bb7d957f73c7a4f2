// A cluster of real processes, driven over CSI: made, used, broken, healed, gone without a trace. Needs root and /dev/fuse.

import { spawn, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { MiB, realClock } from '../../src/base/index.js';
import { distFolder } from '../lib/build-once.js';
import { blockCapability, DevCluster, leftovers, mountCapability } from '../lib/dev-cluster.js';

const missing = ['losetup', 'findmnt', 'mkfs.ext4', 'mkfs.xfs', 'fio'].filter(
  (tool) => spawnSync('which', [tool]).status !== 0,
);
const reason =
  process.getuid?.() !== 0
    ? 'not root'
    : !existsSync('/dev/fuse')
      ? 'no /dev/fuse'
      : missing.length > 0
        ? `missing: ${missing.join(', ')}`
        : '';
if (reason !== '') process.stderr.write(`\nSKIPPED: dev system tests cannot run here: ${reason}\n\n`);

const digest = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');

/** fio on a file or device: verified random writes, 8 MiB a second, then everything read back. Resolves when it is done. */
function load(filename: string, sizeMiB: number): Promise<void> {
  const args = [
    ...[
      '--name=load',
      `--filename=${filename}`,
      `--size=${sizeMiB}m`,
      '--rate=8m',
      '--rw=randwrite',
      '--bsrange=512-64k',
      '--bs_unaligned',
    ],
    ...['--direct=0', '--ioengine=psync', '--fsync=32', '--verify=crc32c', '--do_verify=1', '--verify_fatal=1'],
    ...['--verify_state_save=0', '--minimal', '--randrepeat=0'],
  ];
  return new Promise((resolve, reject) => {
    const fio = spawn('fio', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    fio.stderr.on('data', (chunk) => {
      said += chunk;
    });
    fio.once('exit', (code) => (code === 0 ? resolve() : reject(new Error(`fio: ${code} ${said.slice(0, 600)}`))));
  });
}

describe.skipIf(reason !== '')('dev', () => {
  let cluster: DevCluster;
  let failed = false;
  beforeAll(async () => {
    cluster = await DevCluster.start(['--nodes', '3', '--zones', 'a,b,c']);
  });
  afterEach((context) => {
    if (context.task.result?.state !== 'fail') return;
    failed = true;
    process.stderr.write(`${cluster.logs()}\n`);
  });
  afterAll(async () => {
    expect(await cluster.stop()).toBe(0);
    if (!failed) expect(leftovers(cluster.dir)).toEqual([]);
    rmSync(cluster.dir, { recursive: true, force: true });
  });

  it('has a volume with three replicas used, moved to another node, and deleted', async () => {
    const volume = await cluster.createVolume({ bytes: 128 * MiB });
    const [one, two] = cluster.nodes;
    const target = await cluster.use(one!, volume);
    const data = randomBytes(5 * MiB);
    writeFileSync(join(target, 'data'), data);
    const status = await cluster.status(one!, volume);
    expect(status).toMatchObject({ state: 'serving', exported: true, epoch: 1 });
    expect(status!.replicas.map((replica) => [replica.node_id, replica.state]).sort()).toEqual([
      ['node-1', 'in-sync'],
      ['node-2', 'in-sync'],
      ['node-3', 'in-sync'],
    ]);
    await cluster.release(one!, volume);
    expect(await cluster.status(one!, volume)).toBe(undefined);
    const moved = await cluster.use(two!, volume);
    expect(readFileSync(join(moved, 'data')).equals(data)).toBe(true);
    const { usage } = await two!.client.NodeGetVolumeStats({ volume_id: volume.id, volume_path: moved });
    expect(usage.find((one) => one.unit === 'BYTES')!.used).toBeGreaterThan(5 * MiB);
    await cluster.release(two!, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
    for (const node of cluster.nodes) expect(existsSync(join(node.poolDir, 'replicas', volume.id))).toBe(false);
  });

  it('encrypts: a wrong key fails before any I/O, the pools hold no plaintext', async () => {
    const secrets = { encryptionKey: randomBytes(32).toString('hex') };
    const parameters = { replicas: '2', encryption: 'aes-256-gcm', compression: 'none' };
    const volume = await cluster.createVolume({ bytes: 64 * MiB, parameters, secrets });
    const node = cluster.nodes[2]!;
    const marker = `holdfast plaintext marker ${randomBytes(8).toString('hex')}`;
    const target = await cluster.use(node, volume);
    writeFileSync(join(target, 'secret'), marker.repeat(200));
    await cluster.release(node, volume);
    const found = cluster.nodes.flatMap(({ poolDir }) =>
      spawnSync('grep', ['-rlaF', marker, poolDir], { encoding: 'utf8' }).stdout.trim(),
    );
    expect(found.join('')).toBe('');
    const wrong = { ...volume, secrets: { encryptionKey: randomBytes(32).toString('hex') } };
    await expect(cluster.use(node, wrong)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION', reason: 'WrongKey' });
    expect(await cluster.status(node, volume)).toBe(undefined);
    const again = await cluster.use(node, volume);
    expect(readFileSync(join(again, 'secret'), 'utf8')).toBe(marker.repeat(200));
    await cluster.release(node, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
    const logs = spawnSync('grep', ['-rl', secrets.encryptionKey, cluster.dir], { encoding: 'utf8' }).stdout;
    expect(logs).toBe('');
  });

  it('goes on when any one process is killed under load, and heals', async () => {
    const volume = await cluster.createVolume({
      bytes: 128 * MiB,
      parameters: { replicas: '3', encryption: 'aes-256-gcm', compression: 'lz4' },
      secrets: { encryptionKey: randomBytes(32).toString('base64') },
    });
    const node = cluster.nodes[0]!;
    const target = await cluster.use(node, volume);
    for (const [role, at, signal] of [
      ['storage', 'node-2', 'SIGKILL'],
      ['storage', 'node-1', 'SIGKILL'],
      // The end of an update: it closes its engine, and the next one opens it.
      ['storage', 'node-1', 'SIGTERM'],
      ['controller', '', 'SIGKILL'],
      ['node', 'node-1', 'SIGKILL'],
    ] as const) {
      const before = cluster.pid(role, at);
      const file = join(target, 'load');
      const running = load(file, 24);
      running.catch(() => {});
      await realClock.sleep(1_500);
      process.kill(before, signal);
      await running;
      rmSync(file);
      expect(cluster.pid(role, at)).not.toBe(before);
      await cluster.healed(node, volume);
    }
    await cluster.release(node, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  }, 240_000);

  it('moves from a daemon that hangs, whose engine then can neither write nor be read', async () => {
    const volume = await cluster.createVolume({ bytes: 64 * MiB });
    const [old, next] = [cluster.nodes[0]!, cluster.nodes[1]!];
    const target = await cluster.use(old, volume);
    writeFileSync(join(target, 'before'), 'written and flushed', { flush: true });
    const pid = cluster.pid('storage', old.id);
    process.kill(pid, 'SIGSTOP');
    let moved = '';
    try {
      // What the orchestrator does about a node that is lost: nothing is unpublished or unstaged there.
      await cluster.controller.ControllerUnpublishVolume({ volume_id: volume.id, node_id: old.id });
      moved = await cluster.use(next, volume);
      expect(readFileSync(join(moved, 'before'), 'utf8')).toBe('written and flushed');
      writeFileSync(join(moved, 'after'), 'by the new node', { flush: true });
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    expect(() => writeFileSync(join(target, 'late'), 'by the old node', { flush: true })).toThrow(/EIO|EROFS/);
    await expect
      .poll(
        async () => (await old.client.NodeGetVolumeHealth({ volume_id: volume.id })).volume_health?.health_statuses,
        {
          timeout: 20_000,
        },
      )
      .toMatchObject([{ status: 'INACCESSIBLE', reason: 'DeviceFailed' }]);
    await old.client.NodeUnpublishVolume({ volume_id: volume.id, target_path: cluster.target(old, volume) });
    await old.client.NodeUnstageVolume({ volume_id: volume.id, staging_target_path: cluster.staging(old, volume) });
    await cluster.healed(next, volume);
    await cluster.release(next, volume);
    // Back on the first node, whose replica has to have followed.
    const back = await cluster.use(old, volume);
    expect(readFileSync(join(back, 'after'), 'utf8')).toBe('by the new node');
    expect(existsSync(join(back, 'late'))).toBe(false);
    await cluster.release(old, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });

  it('publishes read-only down to the device', async () => {
    const volume = await cluster.createVolume({ bytes: 64 * MiB });
    const node = cluster.nodes[2]!;
    writeFileSync(join(await cluster.use(node, volume), 'data'), 'x');
    await cluster.release(node, volume);
    const target = await cluster.use(node, volume, { readOnly: true });
    expect(readFileSync(join(target, 'data'), 'utf8')).toBe('x');
    expect(() => writeFileSync(join(target, 'more'), 'y')).toThrow(/EROFS/);
    await cluster.release(node, volume);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });

  it('grows under a mounted xfs, and hands a snapshot to a clone', async () => {
    const volume = await cluster.createVolume({ bytes: 320 * MiB, capability: mountCapability('xfs') });
    const node = cluster.nodes[1]!;
    const target = await cluster.use(node, volume);
    writeFileSync(join(target, 'data'), randomBytes(MiB));
    spawnSync('sync', ['-f', target]);
    const before = digest(join(target, 'data'));
    const { snapshot } = await cluster.controller.CreateSnapshot({ source_volume_id: volume.id, name: 'snap-1' });
    writeFileSync(join(target, 'data'), 'changed after the snapshot');
    const size = 512 * MiB;
    const grown = await cluster.controller.ControllerExpandVolume({
      volume_id: volume.id,
      capacity_range: { required_bytes: size },
    });
    expect(grown).toMatchObject({ capacity_bytes: size, node_expansion_required: true });
    const range = { required_bytes: size };
    const expanded = await node.client.NodeExpandVolume({
      volume_id: volume.id,
      volume_path: target,
      capacity_range: range,
    });
    expect(expanded.capacity_bytes).toBe(size);
    const { usage } = await node.client.NodeGetVolumeStats({ volume_id: volume.id, volume_path: target });
    expect(usage.find((one) => one.unit === 'BYTES')!.total).toBeGreaterThan(400 * MiB);
    const clone = await cluster.createVolume({
      bytes: 320 * MiB,
      capability: mountCapability('xfs'),
      source: { snapshot: { snapshot_id: snapshot!.snapshot_id } },
    });
    // On the node where its source is mounted: two filesystems with one UUID.
    const cloned = await cluster.use(node, clone);
    expect(digest(join(cloned, 'data'))).toBe(before);
    for (const one of [clone, volume]) await cluster.release(node, one);
    await cluster.controller.DeleteSnapshot({ snapshot_id: snapshot!.snapshot_id });
    for (const one of [volume, clone]) await cluster.controller.DeleteVolume({ volume_id: one.id });
  });

  it('serves a raw block volume', async () => {
    const volume = await cluster.createVolume({ bytes: 64 * MiB, capability: blockCapability });
    const node = cluster.nodes[0]!;
    const target = await cluster.use(node, volume);
    await load(target, 16);
    await cluster.release(node, volume);
    expect(existsSync(target)).toBe(false);
    await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });
});

describe.skipIf(reason !== '')('dev, its end', () => {
  it('takes what is still attached with it', async () => {
    const cluster = await DevCluster.start(['--nodes', '1']);
    try {
      const volume = await cluster.createVolume({ bytes: 64 * MiB, parameters: { replicas: '1' } });
      writeFileSync(join(await cluster.use(cluster.nodes[0]!, volume), 'data'), 'x');
      expect(leftovers(cluster.dir).some((line) => line.includes(' attach '))).toBe(true);
    } finally {
      expect(await cluster.stop(), cluster.stderr).toBe(0);
    }
    expect(leftovers(cluster.dir)).toEqual([]);
  });

  it('says in one line why it does not start', () => {
    const run = (...args: string[]) =>
      spawnSync(process.execPath, [join(distFolder, 'src/main/holdfast.js'), ...args], {
        encoding: 'utf8',
        timeout: 30_000,
      });
    const dir = mkdtempSync(join(tmpdir(), 'hfbad-'));
    try {
      for (const [args, text] of [
        [['dev', '--nodes', '0'], '--nodes'],
        [['dev', '--dir', '/proc/nowhere'], '/proc/nowhere'],
        [
          [
            'storage',
            '--node-id',
            'n',
            '--controller',
            '127.0.0.1:1',
            '--run-dir',
            dir,
            '--state-dir',
            dir,
            '--pool',
            `${dir}/no`,
            '--insecure',
            '--log-level',
            'silent',
          ],
          `${dir}/no`,
        ],
        [['node', '--node-id', 'N!', '--controller', '127.0.0.1:1', '--csi-address', `${dir}/csi.sock`], 'node id'],
        [['certs', '--dir', dir, 'admin'], 'none of controller'],
        [['what'], 'no command'],
      ] as const) {
        const { status, stderr } = run(...args);
        expect([status, stderr.split('\n')[0]]).toEqual([1, expect.stringContaining(text)]);
        expect(stderr).not.toContain('    at ');
      }
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
});
