// A volume becomes a block device and stays one: real holder, real bridge, real loop device, a storage daemon that can be
// killed. Needs root, /dev/fuse and loop devices.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { HoldfastError, MiB } from '../../src/base/index.js';
import { cleanUpRigs, filesystems, mounter, newRig as newRigOf, sh, sleep } from '../lib/attach-rig.js';

const tools = ['losetup', 'findmnt', 'mkfs.ext4', 'mkfs.xfs', 'fio', 'blkdiscard', 'prlimit'];
const missing = tools.filter((tool) => spawnSync('which', [tool]).status !== 0);
const reason =
  process.getuid?.() !== 0
    ? 'not root'
    : !existsSync('/dev/fuse')
      ? 'no /dev/fuse'
      : !existsSync('/dev/loop-control')
        ? 'no /dev/loop-control'
        : missing.length > 0
          ? `missing: ${missing.join(', ')}`
          : '';
if (reason !== '') process.stderr.write(`\nSKIPPED: attach system tests cannot run here: ${reason}\n\n`);

/**
 * Random writes with a checksum in every block, then all of it read back: 48 MiB at 4000 writes a second at most, so that it is
 * still writing 3 s after its start, on a machine however quick. Rejects on any I/O error or wrong byte.
 */
function fioVerify(device: string): Promise<string> {
  return sh(
    'fio',
    '--name=verify',
    `--filename=${device}`,
    '--direct=1',
    '--ioengine=libaio',
    '--rw=randwrite',
    '--bs=4k',
    '--iodepth=16',
    '--size=48M',
    '--rate_iops=,4000',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--do_verify=1',
    '--fsync=64',
    '--minimal',
    '--verify_state_save=0',
  );
}

/** Also where the kernel has nbd; that is test/system/kernel-nbd.test.ts. */
const newRig = (sizeBytes: number) => newRigOf(sizeBytes, 'fuse-loop');

afterEach(cleanUpRigs);

describe.skipIf(reason !== '')('attach', () => {
  it('makes a device, passes flush and discard on, and leaves nothing behind', async () => {
    const rig = await newRig(256 * MiB);
    const device = await rig.up();
    expect(device).toMatchObject({ kind: 'fuse-loop', sizeBytes: 256 * MiB, volumeId: rig.volumeId });
    expect(await filesystems.deviceSize(device.devicePath)).toBe(256 * MiB);
    expect(await sh('blockdev', '--getss', device.devicePath)).toBe('4096');
    expect(await sh('losetup', '-n', '-l', '-O', 'DIO', device.devicePath)).toBe('1');
    // Again, and from a node plugin that has just been started.
    expect(await rig.up()).toEqual(device);
    const again = await rig.newPlugin().attach({ volumeId: rig.volumeId, key: rig.key, readOnly: false });
    expect(again).toEqual(device);
    expect((await rig.attach.list()).map(({ state, pid }) => [state, pid])).toEqual([['attached', device.pid]]);

    const data = randomBytes(3 * MiB);
    writeFileSync(rig.file('in'), data);
    await sh(
      'dd',
      `if=${rig.file('in')}`,
      `of=${device.devicePath}`,
      'bs=1M',
      'seek=7',
      'oflag=direct',
      'conv=notrunc',
    );
    expect(
      readFileSync(rig.file('disk'))
        .subarray(7 * MiB, 10 * MiB)
        .equals(data),
    ).toBe(true);
    rig.forgetOps();
    await sh('dd', 'if=/dev/zero', `of=${device.devicePath}`, 'bs=4k', 'count=1', 'conv=notrunc,fsync');
    expect(rig.ops().filter((op) => op.startsWith('flush')).length).toBeGreaterThan(0);
    rig.forgetOps();
    await sh('blkdiscard', '-o', String(8 * MiB), '-l', String(MiB), device.devicePath);
    expect(rig.ops()).toContain(`trim ${8 * MiB} ${MiB}`);
    expect(
      readFileSync(rig.file('disk'))
        .subarray(8 * MiB, 9 * MiB)
        .equals(Buffer.alloc(MiB)),
    ).toBe(true);
    expect(
      readFileSync(rig.file('disk'))
        .subarray(7 * MiB, 8 * MiB)
        .equals(data.subarray(0, MiB)),
    ).toBe(true);

    // Buffered, so that detach has something to flush.
    await sh('dd', `if=${rig.file('in')}`, `of=${device.devicePath}`, 'bs=1M', 'seek=20', 'conv=notrunc');
    rig.forgetOps();
    await rig.attach.detach(rig.volumeId);
    expect(
      readFileSync(rig.file('disk'))
        .subarray(20 * MiB, 23 * MiB)
        .equals(data),
    ).toBe(true);
    expect(rig.ops().at(0)).toMatch(/^flush/);
    expect(rig.ops().at(-1)).toBe('close');
    expect(await rig.traces()).toEqual([]);
    await rig.attach.detach(rig.volumeId);
    expect(await rig.status()).toBeUndefined();
  });

  it('keeps the key off disk, command lines, environments and logs, and allows no core dump', async () => {
    const rig = await newRig(64 * MiB);
    const device = await rig.up();
    const { bridgePid, pid } = (await rig.status())!;
    const hex = rig.key.toString('hex');
    for (const process of [pid, bridgePid]) {
      const limits = readFileSync(`/proc/${process}/limits`, 'utf8');
      expect(/Max core file size\s+(\d+)\s+(\d+)/.exec(limits)?.slice(1)).toEqual(['1', '1']);
      for (const name of ['cmdline', 'environ']) {
        expect(readFileSync(`/proc/${process}/${name}`, 'latin1')).not.toContain(hex);
      }
    }
    const log = readFileSync(join(rig.runDir, 'attach', `${rig.volumeId}.log`), 'utf8');
    expect(log).toContain('attached');
    expect(log).not.toContain(hex);
    expect(existsSync(device.devicePath)).toBe(true);
    const other = rig.attach.attach({ volumeId: rig.volumeId, key: randomBytes(32), readOnly: false });
    await expect(other).rejects.toMatchObject({ reason: 'WrongKey' });
    process.kill(pid, 'SIGTERM');
    process.kill(pid, 'SIGHUP');
    await sleep(300);
    expect((await rig.status())?.state).toBe('attached');
  });

  it('refuses an attach with a wrong key before any I/O, and cleans up', async () => {
    const rig = await newRig(64 * MiB);
    await expect(
      rig.attach.attach({ volumeId: rig.volumeId, key: randomBytes(32), readOnly: false }),
    ).rejects.toMatchObject({ reason: 'WrongKey' });
    await rig.attach.detach(rig.volumeId);
    expect(await rig.traces()).toEqual([]);
  });

  it.each(['ext4', 'xfs', 'btrfs'] as const)('carries %s: format, mount, write, check', async (fsType) => {
    const rig = await newRig(512 * MiB);
    const { devicePath } = await rig.up();
    expect(await filesystems.probe(devicePath)).toEqual({ kind: 'none' });
    await filesystems.proveBlank(devicePath, 512 * MiB);
    await filesystems.format(devicePath, fsType, rig.volumeId, []);
    expect(await filesystems.probe(devicePath)).toMatchObject({ kind: 'filesystem', fsType, uuid: rig.volumeId });
    await expect(filesystems.proveBlank(devicePath, 512 * MiB)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
    const mount = { device: devicePath, target: rig.mountPoint, fsType, options: ['noatime'], readOnly: false };
    await mounter.mountFilesystem(mount);
    await mounter.mountFilesystem(mount);
    const data = randomBytes(20 * MiB);
    writeFileSync(join(rig.mountPoint, 'data'), data);
    await sh('sync', '-f', rig.mountPoint);
    const { bytes, inodes } = await filesystems.stats(rig.mountPoint);
    expect(bytes.used).toBeGreaterThan(20 * MiB);
    expect(bytes.total).toBeGreaterThan(300 * MiB);
    expect(bytes.available).toBeLessThanOrEqual(bytes.total - bytes.used);
    if (fsType !== 'btrfs') expect(inodes.total).toBe(inodes.used + inodes.available);
    await expect(rig.attach.detach(rig.volumeId)).rejects.toMatchObject({ reason: 'Busy' });
    expect(await mounter.isMountPoint(rig.mountPoint)).toBe(true);
    await mounter.unmount(rig.mountPoint);
    await mounter.unmount(rig.mountPoint);
    if (fsType === 'ext4') await sh('e2fsck', '-f', '-n', devicePath);
    if (fsType === 'xfs') await sh('xfs_repair', '-n', devicePath);
    await rig.attach.detach(rig.volumeId);
    // The bytes come back through a new device.
    const second = await rig.up();
    await filesystems.check(second.devicePath, fsType);
    await mounter.mountFilesystem({ ...mount, device: second.devicePath, readOnly: true });
    expect(readFileSync(join(rig.mountPoint, 'data')).equals(data)).toBe(true);
    expect(() => writeFileSync(join(rig.mountPoint, 'x'), '')).toThrow(/EROFS/);
    await mounter.unmountAndRemove(rig.mountPoint);
    expect(existsSync(rig.mountPoint)).toBe(false);
  });

  it.each(['ext4', 'xfs'] as const)('grows under a mounted %s', async (fsType) => {
    const rig = await newRig(320 * MiB);
    const { devicePath } = await rig.up();
    await filesystems.format(devicePath, fsType, rig.volumeId, []);
    await mounter.mountFilesystem({ device: devicePath, target: rig.mountPoint, fsType, options: [], readOnly: false });
    await expect(rig.attach.grow(rig.volumeId, 640 * MiB)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
    truncateSync(rig.file('disk'), 640 * MiB);
    expect(await rig.attach.grow(rig.volumeId, 640 * MiB)).toMatchObject({ devicePath, sizeBytes: 640 * MiB });
    expect((await rig.attach.grow(rig.volumeId, 640 * MiB)).sizeBytes).toBe(640 * MiB);
    expect(await filesystems.deviceSize(devicePath)).toBe(640 * MiB);
    const mounted = await filesystems.growMounted(devicePath, fsType, rig.mountPoint).catch((error: unknown) => error);
    if (mounted instanceof HoldfastError) {
      // ext4 without CAP_SYS_RESOURCE: said clearly, and done before the next mount.
      expect(fsType).toBe('ext4');
      expect(mounted.message).toContain('CAP_SYS_RESOURCE');
      await mounter.unmount(rig.mountPoint);
      expect(await filesystems.growUnmounted(devicePath, fsType)).toBe('grown');
      await mounter.mountFilesystem({
        device: devicePath,
        target: rig.mountPoint,
        fsType,
        options: [],
        readOnly: false,
      });
    }
    expect((await filesystems.stats(rig.mountPoint)).bytes.total).toBeGreaterThan(500 * MiB);
    await sh('dd', 'if=/dev/urandom', `of=${join(rig.mountPoint, 'big')}`, 'bs=1M', 'count=100', 'conv=fsync');
    await mounter.unmount(rig.mountPoint);
    if (fsType === 'ext4') await sh('e2fsck', '-f', '-n', devicePath);
    else await sh('xfs_repair', '-n', devicePath);
  });

  it('goes on after kill -9 of the storage daemon under a verified load', async () => {
    const rig = await newRig(256 * MiB);
    const { devicePath } = await rig.up();
    let loading = true;
    const load = fioVerify(devicePath).finally(() => {
      loading = false;
    });
    await sleep(1_000);
    expect(loading).toBe(true);
    await rig.killDaemon();
    await sleep(500);
    expect((await rig.status())?.state).toBe('reconnecting');
    await sleep(1_500);
    expect(loading).toBe(true);
    await rig.startDaemon();
    await load;
    const status = (await rig.status())!;
    expect(status).toMatchObject({ state: 'attached', reconnects: 1, respawns: 0 });
    expect(status.counters.errors).toBe(0);
  });

  it('goes on after kill -9 of the bridge under a verified load, three times', async () => {
    const rig = await newRig(256 * MiB);
    const { devicePath } = await rig.up();
    for (let kill = 1; kill <= 3; kill++) {
      let loading = true;
      const load = fioVerify(devicePath).finally(() => {
        loading = false;
      });
      await sleep(400);
      const before = (await rig.status())!.bridgePid;
      expect(loading).toBe(true);
      process.kill(before, 'SIGKILL');
      await expect.poll(async () => (await rig.status())!.bridgePid, { timeout: 5000 }).not.toBe(before);
      await expect.poll(async () => (await rig.status())!.state, { timeout: 5000 }).toBe('attached');
      await load;
    }
    expect(await rig.status()).toMatchObject({ state: 'attached', respawns: 3 });
  });

  it('fails all I/O at once when another node took the volume, and is then detached and attached anew', async () => {
    const rig = await newRig(64 * MiB);
    const first = await rig.up();
    writeFileSync(rig.file('deposed'), '');
    await rig.killDaemon();
    const waiting = sh('dd', 'if=/dev/zero', `of=${first.devicePath}`, 'bs=4k', 'count=1', 'oflag=direct');
    const refused = expect(waiting).rejects.toThrow(/Input\/output error/);
    await sleep(300);
    await rig.startDaemon();
    await refused;
    const status = (await rig.status())!;
    expect(status.state).toBe('failed');
    expect(status.lastError).toContain('another node');
    const read = sh('dd', `if=${first.devicePath}`, 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct');
    await expect(read).rejects.toThrow(/Input\/output error/);
    // A device that answers EIO is neither blank nor formatted.
    await expect(filesystems.probe(first.devicePath)).rejects.toMatchObject({ reason: 'DiskFailed' });
    await expect(filesystems.proveBlank(first.devicePath, 64 * MiB)).rejects.toMatchObject({ reason: 'DiskFailed' });
    await expect(rig.up()).rejects.toMatchObject({ reason: 'StaleReign' });
    rmSync(rig.file('deposed'));
    const second = await rig.up();
    expect(second.pid).not.toBe(first.pid);
    expect(await filesystems.probe(second.devicePath)).toEqual({ kind: 'none' });
  });

  it('detaches by force while the storage daemon is away; what waited gets an error', async () => {
    const rig = await newRig(64 * MiB);
    const { devicePath } = await rig.up();
    await rig.killDaemon();
    const waiting = sh('dd', 'if=/dev/zero', `of=${devicePath}`, 'bs=4k', 'count=1', 'oflag=direct');
    const refused = expect(waiting).rejects.toThrow(/Input\/output error/);
    await sleep(500);
    await rig.attach.detach(rig.volumeId, { force: true });
    await refused;
    expect(await rig.traces()).toEqual([]);
  });

  it('keeps holder and device while daemon and bridge die together', async () => {
    const rig = await newRig(64 * MiB);
    const { devicePath } = await rig.up();
    await rig.killDaemon();
    const data = randomBytes(2 * MiB);
    writeFileSync(rig.file('in'), data);
    const waiting = sh('dd', `if=${rig.file('in')}`, `of=${devicePath}`, 'bs=1M', 'oflag=direct', 'conv=fsync');
    await sleep(300);
    process.kill((await rig.status())!.bridgePid, 'SIGKILL');
    await sleep(300);
    await rig.startDaemon();
    await waiting;
    expect(
      readFileSync(rig.file('disk'))
        .subarray(0, 2 * MiB)
        .equals(data),
    ).toBe(true);
    expect(await rig.status()).toMatchObject({ state: 'attached', respawns: 1 });
  });

  it('clears up after a holder that was killed, but not under a mounted filesystem', async () => {
    const rig = await newRig(320 * MiB);
    const { devicePath, pid } = await rig.up();
    const { bridgePid } = (await rig.status())!;
    await filesystems.format(devicePath, 'ext4', rig.volumeId, []);
    const mount = { target: rig.mountPoint, fsType: 'ext4' as const, options: [], readOnly: false };
    await mounter.mountFilesystem({ ...mount, device: devicePath });
    process.kill(pid, 'SIGKILL');
    await expect.poll(() => existsSync(`/proc/${bridgePid}`), { timeout: 5000 }).toBe(false);
    expect(await rig.status()).toMatchObject({ state: 'dead', devicePath });
    await expect(rig.up()).rejects.toMatchObject({ reason: 'Busy', message: expect.stringContaining(rig.mountPoint) });
    await expect(rig.attach.detach(rig.volumeId)).rejects.toMatchObject({ reason: 'Busy' });
    await mounter.unmount(rig.mountPoint);
    const second = await rig.up();
    expect(second.pid).not.toBe(pid);
    await filesystems.check(second.devicePath, 'ext4');
    process.kill(second.pid, 'SIGKILL');
    await rig.attach.detach(rig.volumeId);
    expect(rig.ops().at(-1)).toBe('close');
    expect(await rig.traces()).toEqual([]);
  });

  it('attaches six volumes at once, each to its own device', async () => {
    const many = await Promise.all([1, 2, 3, 4, 5, 6].map(() => newRig(16 * MiB)));
    const devices = await Promise.all(many.map((rig) => rig.up()));
    expect(new Set(devices.map(({ devicePath }) => devicePath)).size).toBe(6);
    for (const [index, rig] of many.entries()) {
      await sh('dd', 'if=/dev/urandom', `of=${devices[index]!.devicePath}`, 'bs=4k', 'count=1', 'oflag=direct');
      expect(
        readFileSync(rig.file('disk'))
          .subarray(0, 4096)
          .some((byte) => byte !== 0),
      ).toBe(true);
    }
  });

  it('attaches read-only', async () => {
    const rig = await newRig(16 * MiB);
    const { devicePath } = await rig.attach.attach({ volumeId: rig.volumeId, key: rig.key, readOnly: true });
    await expect(sh('dd', 'if=/dev/zero', `of=${devicePath}`, 'bs=4k', 'count=1', 'oflag=direct')).rejects.toThrow();
    await expect(rig.up()).rejects.toMatchObject({ code: 'ALREADY_EXISTS', reason: 'Conflict' });
  });
});

describe.skipIf(reason !== '')('bind mounts', () => {
  it('binds a directory read-only and a device to a file, repeatably, and refuses another source', async () => {
    const rig = await newRig(16 * MiB);
    const { devicePath } = await rig.up();
    const { directory } = rig;
    const source = join(directory, 'source');
    const target = join(directory, 'a b', 'target');
    mkdirSync(source);
    const bind = { source, target, readOnly: true };
    await mounter.bindMount(bind);
    await mounter.bindMount(bind);
    expect(() => writeFileSync(join(target, 'x'), '')).toThrow(/EROFS/);
    await expect(mounter.bindMount({ ...bind, readOnly: false })).rejects.toMatchObject({ reason: 'Conflict' });
    await expect(mounter.bindMount({ ...bind, source: directory })).rejects.toMatchObject({ reason: 'Conflict' });
    const file = join(directory, 'block');
    await mounter.bindMount({ source: devicePath, target: file, readOnly: false });
    await mounter.bindMount({ source: devicePath, target: file, readOnly: false });
    expect(await filesystems.deviceSize(file)).toBe(16 * MiB);
    // Detached under it, the number could become another volume's.
    const bound = { reason: 'Busy', message: expect.stringContaining(file) };
    await expect(rig.attach.detach(rig.volumeId)).rejects.toMatchObject(bound);
    for (const path of [target, file]) {
      await mounter.unmountAndRemove(path);
      await mounter.unmountAndRemove(path);
      expect(existsSync(path)).toBe(false);
    }
    await expect(mounter.bindMount({ source: '-o', target, readOnly: false })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });
});
