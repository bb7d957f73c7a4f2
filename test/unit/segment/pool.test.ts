// Pools on the real filesystem: everything that can be wrong with a directory, each with its own sentence and nothing made.

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type HoldfastError, type NodeId, realClock, realRandom } from '../../../src/base/index.js';
import { NodeDisk, Pool, synced } from '../../../src/segment/index.js';
import { oldestMount, sysInode } from '../../../src/segment/mount-instance.js';

const nodeId = 'node-a' as NodeId;
const disk = new NodeDisk();

async function reasonOf(promise: Promise<unknown>): Promise<HoldfastError> {
  return await promise.then(
    () => Promise.reject(new Error('it did not fail')),
    (error) => error,
  );
}

describe('pool', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'holdfast-pool-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });
  const format = (path = directory) => Pool.format(disk, path, { nodeId, random: realRandom, clock: realClock });
  const open = (path = directory, exclusive = true, node = nodeId) =>
    Pool.open(disk, path, { nodeId: node, exclusive });

  it('is formatted once and opened with the same identity', async () => {
    mkdirSync(join(directory, 'lost+found'));
    const identity = await format();
    const pool = await open();
    expect([pool.id, pool.nodeId]).toEqual([identity.poolId, nodeId]);
    expect(pool.space().freeBytes).toBeGreaterThan(0);
    const shared = await open(directory, false);
    expect(shared.id).toBe(pool.id);
    pool.close();
    expect((await reasonOf(format())).code).toBe('ALREADY_EXISTS');
  });

  it('is not made where it can not be', async () => {
    const missing = join(directory, 'missing');
    expect(await reasonOf(format(missing))).toMatchObject({
      reason: 'PoolMissing',
      message: expect.stringContaining(missing),
    });
    expect(await reasonOf(open(missing))).toMatchObject({ reason: 'PoolMissing' });
    expect(existsSync(missing)).toBe(false);
    writeFileSync(join(directory, 'file'), '');
    expect(await reasonOf(format(join(directory, 'file')))).toMatchObject({
      reason: 'PoolMissing',
      message: expect.stringContaining('not a directory'),
    });
    expect(await reasonOf(format())).toMatchObject({
      code: 'FAILED_PRECONDITION',
      message: expect.stringContaining('"file"'),
    });
    expect(await reasonOf(open())).toMatchObject({
      reason: 'PoolMissing',
      message: expect.stringContaining('format it first'),
    });
    expect(readdirSync(directory)).toEqual(['file']);
    // /proc is read-only for directories even for root.
    expect(['PoolNotWritable', 'DiskFailed', 'Generic']).toContain((await reasonOf(format('/proc/sys'))).reason);
  });

  it("is refused when it is another node's, naming both", async () => {
    await format();
    const error = await reasonOf(open(directory, true, 'node-b' as NodeId));
    expect(error).toMatchObject({ reason: 'PoolForeign' });
    expect(error.message).toMatch(/node-a.*node-b/);
  });

  it('is refused while a daemon holds it, and free after', async () => {
    await format();
    const pool = await open();
    expect(await reasonOf(open())).toMatchObject({ reason: 'PoolInUse' });
    pool.close();
    (await open()).close();
  });

  it('is refused with a damaged identity, any bit of it', async () => {
    await format();
    const path = join(directory, 'pool.json');
    const good = readFileSync(path);
    for (let byte = 0; byte < good.length; byte++) {
      const bad = Buffer.from(good);
      bad[byte] = bad[byte]! ^ 4;
      writeFileSync(path, bad);
      const outcome = await open(directory, false).then(
        (pool) => pool.id,
        (error: HoldfastError) => error.code,
      );
      // White space may change without harm.
      if (outcome !== 'DATA_LOSS')
        expect(/\s/.test(String.fromCharCode(good[byte]!)), `byte ${byte}: ${outcome}`).toBe(true);
    }
  });

  it('is refused when its replicas are gone, instead of being taken for an empty one', async () => {
    await format();
    rmSync(join(directory, 'replicas'), { recursive: true });
    expect(await reasonOf(open())).toMatchObject({ reason: 'PoolMissing', message: expect.stringContaining('lost') });
    mkdirSync(join(directory, 'replicas/0a000000-0000-4000-8000-000000000001'), { recursive: true });
    rmSync(join(directory, 'pool.json'));
    expect((await reasonOf(format())).message).toMatch(/restore/);
  });

  it('clears what a crash left half made or half deleted, and nothing else', async () => {
    await format();
    const keep = 'replicas/0a000000-0000-4000-8000-000000000001';
    for (const name of [keep, 'replicas/.tmp-x', 'trash/y']) {
      mkdirSync(join(directory, name));
      writeFileSync(join(directory, name, 'superblock.0'), '');
    }
    const shared = await open(directory, false);
    expect(existsSync(join(directory, 'replicas/.tmp-x'))).toBe(true);
    expect(shared.volumes()).toEqual(['0a000000-0000-4000-8000-000000000001']);
    (await open()).close();
    expect(readdirSync(join(directory, 'replicas'))).toEqual(['0a000000-0000-4000-8000-000000000001']);
    expect(readdirSync(join(directory, 'trash'))).toEqual([]);
    expect(existsSync(join(directory, keep, 'superblock.0'))).toBe(true);
  });
});

describe('node disk', () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'holdfast-disk-'));
  });
  afterEach(() => {
    rmSync(directory, { recursive: true, force: true });
  });

  it('writes vectors of any number of buffers, reads, truncates, syncs', async () => {
    const path = join(directory, 'f');
    const file = disk.openFile(path, 'create');
    const buffers = Array.from({ length: 1200 }, (_, i) => Buffer.alloc(i % 7, i & 0xff));
    file.write(buffers, 10);
    const expected = Buffer.concat([Buffer.alloc(10), ...buffers]);
    await synced(file);
    expect(file.size()).toBe(expected.length);
    const into = Buffer.alloc(expected.length + 50);
    expect(file.read(into, 0)).toBe(expected.length);
    expect(into.subarray(0, expected.length).equals(expected)).toBe(true);
    expect(file.read(into, expected.length)).toBe(0);
    file.truncate(3);
    expect(file.size()).toBe(3);
    file.close();
    await disk.syncDirectory(directory);
    expect(() => disk.openFile(path, 'create')).toThrow(expect.objectContaining({ code: 'ALREADY_EXISTS' }));
    expect(() => disk.openFile(join(directory, 'g'), 'write')).toThrow(expect.objectContaining({ code: 'NOT_FOUND' }));
  });

  it('links, renames, counts names, and tells missing from failing', async () => {
    const [a, b, c] = ['a', 'b', 'c'].map((name) => join(directory, name)) as [string, string, string];
    const file = disk.openFile(a, 'create');
    file.write([Buffer.alloc(8192, 1)], 0);
    await synced(file);
    file.close();
    expect(disk.link(a, b)).toBe(true);
    expect(disk.stat(a)).toMatchObject({ links: 2, sizeBytes: 8192, directory: false });
    expect(disk.stat(a)!.storedBytes).toBeGreaterThanOrEqual(8192);
    disk.rename(b, c);
    expect(disk.list(directory)).toEqual(['a', 'c']);
    expect(await disk.unlink(c)).toBe(true);
    expect(await disk.unlink(c)).toBe(false);
    expect(disk.stat(c)).toBeUndefined();
    expect(() => disk.stat(`${a}/x`)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    await expect(disk.unlink(directory)).rejects.toThrow();
  });

  it('names boot and mount, the oldest mount of a device', () => {
    expect(disk.bootId()).toMatch(/^[0-9a-f-]{36}$/);
    expect(disk.mountId(directory)).toMatch(/^\d+:\d+\/(\d+|none)(\/\d+)?$/);
    const table = '36 25 254:0 / /a rw\n29 25 254:0 / / rw\n30 25 0:5 / /p rw\n';
    expect(oldestMount(table, '254:0')).toBe('29');
    expect(oldestMount(table, '9:9')).toBe('none');
  });

  it('tells a filesystem from the same one mounted anew by what the kernel makes for it', () => {
    // Laid out as /sys is.
    mkdirSync(join(directory, 'devices/sda1'), { recursive: true });
    mkdirSync(join(directory, 'dev/block'), { recursive: true });
    symlinkSync('../../devices/sda1', join(directory, 'dev/block/8:1'));
    mkdirSync(join(directory, 'fs/xfs/sdb1'), { recursive: true });
    expect(sysInode(directory, '8:1')).toBeUndefined();
    expect(sysInode(directory, '8:2')).toBeUndefined();
    const mounted = join(directory, 'fs/ext4/sda1');
    mkdirSync(mounted, { recursive: true });
    const first = sysInode(directory, '8:1');
    expect(first).toBe(statSync(mounted).ino);
    renameSync(mounted, join(directory, 'gone'));
    mkdirSync(mounted);
    expect(sysInode(directory, '8:1')).toBe(statSync(mounted).ino);
    expect(sysInode(directory, '8:1')).not.toBe(first);
  });
});
