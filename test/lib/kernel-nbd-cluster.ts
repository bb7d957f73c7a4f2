// In the virtual machine: a volume of two replicas from real daemons, each with a disk of its own, as a kernel nbd device by CSI.

import { readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { MiB } from '../../src/base/index.js';
import { LoopPool } from '../faults/pools.js';
import { DevCluster, leftovers, type TestNode, type TestVolume } from './dev-cluster.js';
import { FioLoad } from './fio-load.js';
import { checkUnmounted, deviceUnder, onDevice, runBeside } from './system-needs.js';

const syncs = 8;

/** Documentation/block/stat.rst of the kernel: flush requests that a disk has completed. */
const flushesOf = ({ device }: LoopPool): number =>
  Number(
    readFileSync(`/sys/block/${device.slice('/dev/'.length)}/stat`, 'utf8')
      .trim()
      .split(/\s+/)[15],
  );

/** Each of `syncs` writes must be a flush of every pool's disk. What the pools' own journals add is far less in that time. */
async function reachesDisks(what: string, pools: readonly LoopPool[], write: () => Promise<unknown>): Promise<void> {
  const before = pools.map(flushesOf);
  await write();
  const grown = pools.map((pool, i) => flushesOf(pool) - before[i]!);
  if (grown.some((flushes) => flushes < syncs)) {
    throw new Error(`${what}: ${syncs} writes, and flushes of the pools' disks: ${grown.join(', ')}`);
  }
}

async function use(cluster: DevCluster, node: TestNode, volume: TestVolume, pools: readonly LoopPool[]) {
  const target = await cluster.use(node, volume);
  const device = deviceUnder(target);
  if (!/^\/dev\/nbd\d+$/.test(device)) throw new Error(`the volume is ${device}`);
  const file = join(target, 'synced');
  const dd = (...args: string[]) => runBeside('dd', 'if=/dev/urandom', `of=${file}`, 'bs=4k', ...args);
  await dd(`count=${syncs}`, 'conv=fsync');
  await reachesDisks('fsync', pools, async () => {
    for (let i = 0; i < syncs; i++) await dd('count=1', `seek=${i}`, 'conv=notrunc,fsync');
  });
  // Of blocks that the file has: ext4 makes it a write with FUA and nothing else.
  await reachesDisks('FUA', pools, () => dd(`count=${syncs}`, 'oflag=direct,dsync', 'conv=notrunc'));
  const load = new FioLoad(target, 3, 100);
  const oldPid = cluster.pid('storage', node.id);
  cluster.kill('storage', node.id);
  const longestMs = await load.done();
  if (cluster.pid('storage', node.id) === oldPid) throw new Error('the storage daemon was not started again');
  await cluster.healed(node, volume, 60_000);
  await onDevice(cluster, { volume, node }, (again) => {
    if (again !== device) throw new Error(`the volume was ${device} and is ${again}`);
    return checkUnmounted(again, 'ext4');
  });
  await cluster.release(node, volume);
  return longestMs;
}

export async function replicatedVolume(): Promise<string> {
  const pools: LoopPool[] = [];
  let cluster: DevCluster | undefined;
  // Nothing has asked for a loop device yet.
  await runBeside('modprobe', 'loop');
  try {
    cluster = await DevCluster.start(['--nodes', '2'], (dir) => {
      for (const name of ['node-1', 'node-2'])
        pools.push(new LoopPool(`${dir}.${name}`, join(dir, name, 'pool'), 'ext4', 512 * MiB));
    });
    const volume = await cluster.createVolume({ bytes: 128 * MiB, parameters: { replicas: '2' } });
    const longestMs = await use(cluster, cluster.nodes[0]!, volume, pools).catch((error) => {
      throw new Error(`${(error as Error).message}\n${cluster!.logs(8)}`);
    });
    const code = await cluster.stop();
    for (const pool of pools.splice(0)) pool.close();
    rmSync(cluster.dir, { recursive: true, force: true });
    const left = leftovers(cluster.dir);
    if (code !== 0 || left.length > 0) throw new Error(`the cluster ended with ${code} and left ${left.join('; ')}`);
    return `longest write ${longestMs} ms`;
  } finally {
    await cluster?.stop();
    for (const pool of pools) pool.close();
  }
}
