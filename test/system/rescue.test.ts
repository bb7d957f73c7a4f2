// A cluster is stopped and its metadata lost: every volume is read out of the pools, the metadata is rebuilt from them, and a new
// cluster serves the volumes as they were. Real processes, the real command. Needs root and /dev/fuse.

import { spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { MiB } from '../../src/base/index.js';
import { distFolder } from '../lib/build-once.js';
import { blockCapability, DevCluster, leftovers } from '../lib/dev-cluster.js';
import { missingFor, run } from '../lib/system-needs.js';

const reason = missingFor(['losetup', 'findmnt', 'mkfs.ext4', 'e2fsck']);
const SIZE = 48 * MiB;

let cluster: DevCluster | undefined;
const folders: string[] = [];
beforeEach((context) => context.skip(reason !== '', reason));
afterEach(async () => {
  await cluster?.stop();
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
}, 120_000);

function rescue(...argv: string[]): { status: number | null; stdout: string; stderr: string } {
  const program = join(distFolder, 'src/main/holdfast.js');
  return spawnSync(process.execPath, [program, 'rescue', ...argv], { encoding: 'utf8', maxBuffer: 256 * MiB });
}

/** Names and bytes of everything below some directories. */
function digest(paths: readonly string[]): string {
  const hash = createHash('sha256');
  for (const path of paths) {
    for (const name of readdirSync(path, { recursive: true, encoding: 'utf8' }).sort()) {
      hash.update(`${name}\n`);
      if (statSync(join(path, name)).isFile()) hash.update(readFileSync(join(path, name)));
    }
  }
  return hash.digest('hex');
}

function writeDevice(path: string, offset: number, data: Buffer): void {
  const fd = openSync(path, 'r+');
  writeSync(fd, data, 0, data.length, offset);
  fsyncSync(fd);
  closeSync(fd);
}

function readDevice(path: string, length: number): Buffer {
  const data = Buffer.alloc(length);
  const fd = openSync(path, 'r');
  for (let at = 0; at < length; ) at += readSync(fd, data, at, length - at, at);
  closeSync(fd);
  return data;
}

async function start(args: readonly string[], prepare?: (dir: string) => void): Promise<DevCluster> {
  cluster = await DevCluster.start(['--nodes', '3', ...args], (dir) => {
    folders.push(dir);
    prepare?.(dir);
  });
  return cluster;
}

async function stop(): Promise<string> {
  const { dir } = cluster!;
  expect(await cluster!.stop()).toBe(0);
  expect(leftovers(dir).filter((line) => line !== dir)).toEqual([]);
  cluster = undefined;
  return dir;
}

it('reads volumes out of the pools of a lost cluster, and a new one serves them from rebuilt metadata', async () => {
  const first = await start(['--keep']);
  const [a, b] = [first.nodes[0]!, first.nodes[1]!];
  const encryptionKey = randomBytes(32).toString('hex');
  const parameters = { replicas: '3', encryption: 'aes-256-gcm' };
  const asked = { capability: blockCapability, secrets: { encryptionKey }, parameters };
  const secret = await first.createVolume({ bytes: SIZE, ...asked });
  const files = await first.createVolume({ bytes: 64 * MiB });
  const device = await first.use(a, secret);
  const model = Buffer.alloc(SIZE);
  const put = (offset: number, data: Buffer) => {
    writeDevice(device, offset, data);
    data.copy(model, offset);
  };
  put(0, randomBytes(12 * MiB));
  put(30 * MiB, randomBytes(64 * 1024));
  const { snapshot } = await first.controller.CreateSnapshot({ name: 'kept', source_volume_id: secret.id });
  const frozen = Buffer.from(model);
  put(3 * MiB, randomBytes(2 * MiB));
  const mounted = await first.use(b, files);
  const contents = randomBytes(5 * MiB);
  writeFileSync(join(mounted, 'file'), contents);
  run('sync', '-f', mounted);
  const pools = first.nodes.map((node) => node.poolDir);

  const busy = rescue('list', ...pools);
  expect(busy.status).toBe(1);
  expect(busy.stderr).toContain('a running daemon holds pool');
  await first.release(a, secret);
  await first.release(b, files);
  const dir = await stop();
  const before = digest(pools);

  const keyFile = join(dir, 'key');
  writeFileSync(keyFile, encryptionKey);
  const image = join(dir, 'image');
  const read = ['read', '--volume', secret.id, '--key-file', keyFile, '--out', image];
  const live = rescue(...read, ...pools);
  expect(live.stderr).toBe('');
  expect(live.status).toBe(0);
  expect(readFileSync(image).equals(model)).toBe(true);
  rmSync(image);
  const piped = spawnSync(
    'sh',
    ['-c', '"$0" "$@" > "$IMAGE"', process.execPath, join(distFolder, 'src/main/holdfast.js'), 'rescue']
      .concat(['read', '--volume', secret.id, '--key-file', keyFile, '--out', '-'])
      .concat(['--snapshot', snapshot!.snapshot_id, ...pools]),
    { encoding: 'utf8', env: { ...process.env, IMAGE: image } },
  );
  expect(piped.status).toBe(0);
  expect(readFileSync(image).equals(frozen)).toBe(true);
  rmSync(image);
  expect(rescue('read', '--volume', files.id, '--out', image, ...pools).status).toBe(0);
  run('e2fsck', '-f', '-n', image);

  const database = join(dir, 'rebuilt.db');
  const rebuilt = rescue('metadata', '--out', database, ...pools);
  process.stderr.write(rescue('list', ...pools).stdout + rebuilt.stdout);
  expect(rebuilt.stderr).toBe('');
  expect(rebuilt.status).toBe(0);
  expect(digest(pools)).toBe(before);

  const second = await start(['--keep'], (next) => {
    mkdirSync(join(next, 'controller'), { recursive: true });
    renameSync(database, join(next, 'controller', 'metadata.db'));
    // The daemons keep what they remember of the lost store.
    for (const node of ['node-1', 'node-2', 'node-3']) {
      mkdirSync(join(next, node));
      for (const name of ['pool', 'state']) renameSync(join(dir, node, name), join(next, node, name));
    }
  });
  const [c, d] = [second.nodes[2]!, second.nodes[0]!];
  expect(readDevice(await second.use(c, secret), SIZE).equals(model)).toBe(true);
  const path = await second.use(d, files);
  expect(readFileSync(join(path, 'file')).equals(contents)).toBe(true);
  writeFileSync(join(path, 'more'), contents);
  // By its name, as the provisioner asks again.
  expect((await second.createVolume({ bytes: SIZE, ...asked })).id).toBe(secret.id);
  await second.healed(d, files);
  await second.healed(c, secret);
  const made = await second.controller.CreateVolume({
    name: 'clone',
    capacity_range: { required_bytes: SIZE },
    volume_capabilities: [blockCapability],
    parameters,
    secrets: { encryptionKey },
    volume_content_source: { snapshot: { snapshot_id: snapshot!.snapshot_id } },
  });
  const { volume_id: id, volume_context: context } = made.volume!;
  const clone = { id, context, secrets: { encryptionKey }, capability: blockCapability };
  expect(readDevice(await second.use(c, clone), SIZE).equals(frozen)).toBe(true);
  await second.release(c, clone);
  await second.release(d, files);
  await second.release(c, secret);

  // A clone's log is its source's up to the snapshot, shared by hard links.
  const next = await stop();
  const left = second.nodes.map((node) => node.poolDir);
  const copy = join(next, 'image');
  const again = rescue('read', '--volume', clone.id, '--key-file', keyFile, '--out', copy, ...left);
  expect(again.status).toBe(0);
  expect(readFileSync(copy).equals(frozen)).toBe(true);
});
