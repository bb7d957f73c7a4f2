// In the virtual machine: a volume of two replicas from real daemons, each with a disk of its own, as a kernel nbd device by CSI.

import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MiB, realClock } from '../../src/base/index.js';
import { LoopPool } from '../faults/pools.js';
import { Service } from '../faults/service.js';
import { distFolder } from './build-once.js';
import { CsiCluster, type TestVolume } from './csi-cluster.js';
import { FioLoad } from './fio-load.js';
import { checkUnmounted, deviceUnder, onDevice, runBeside } from './system-needs.js';

/** Programs start slowly there, and four at once. */
const readyMs = 120_000;
/** Before the machine is ended, so that something can be said about it. */
const limitMs = 200_000;
const controlPort = 7480;

function say(what: string): void {
  process.stdout.write(`  ${Math.round(performance.now() / 1_000)} s: ${what}\n`);
}

/** As few processes as it takes: controller, two storage daemons, and one node plugin, where the volume is used. */
class SmallCluster extends CsiCluster {
  readonly pools: LoopPool[] = [];
  readonly services: Service[] = [];

  constructor() {
    super(mkdtempSync(join(tmpdir(), 'hf-cluster-')));
    mkdirSync(join(this.dir, 'logs'));
    const control = `127.0.0.1:${controlPort}`;
    const csi = `unix://${this.dir}/controller.sock`;
    this.#add('controller', '', [
      ...['--csi-address', csi, '--control-address', control, '--database', `${this.dir}/db`],
    ]);
    const places = [1, 2].map((place) => {
      const [id, home] = [`node-${place}`, join(this.dir, `node-${place}`)];
      const pool = new LoopPool(`${home}.img`, join(home, 'pool'), 'ext4', 512 * MiB);
      this.pools.push(pool);
      const runDir = join(home, 'run');
      const poolDir = join(pool.mountPoint, 'holdfast');
      mkdirSync(poolDir);
      const shared = ['--node-id', id, '--controller', control, '--run-dir', runDir];
      this.#add('storage', id, [
        ...[...shared, '--pool', poolDir, '--format-pools', '--state-dir', join(home, 'state'), '--workers', '1'],
        ...['--listen', `127.0.0.1:${controlPort + place}`, '--replica-port', String(controlPort + 10 + place)],
      ]);
      const nodeCsi = `unix://${home}/csi.sock`;
      if (place === 1) this.#add('node', id, [...shared, '--csi-address', nodeCsi]);
      return { id, csi: nodeCsi, poolDir, runDir };
    });
    this.connect(csi, places);
  }

  #add(role: string, node: string, args: readonly string[]): void {
    const command = [process.execPath, join(distFolder, 'src/main/holdfast.js'), role, '--insecure', ...args];
    this.services.push(new Service({ role, node, command, logFile: join(this.dir, 'logs', `${node}-${role}.log`) }));
  }

  /** Resolves with a volume that has a replica on both nodes. */
  async start(): Promise<TestVolume> {
    for (const service of this.services) await service.start();
    const endMs = realClock.monotonicMs() + readyMs;
    for (;;) {
      try {
        return await this.createVolume({ bytes: 128 * MiB, parameters: { replicas: '2' } });
      } catch (error) {
        if (realClock.monotonicMs() > endMs) throw error;
        await realClock.sleep(500);
      }
    }
  }

  async stop(): Promise<void> {
    await Promise.all(this.services.map((service) => service.end()));
    this.disconnect();
    for (const pool of this.pools) pool.close();
    rmSync(this.dir, { recursive: true });
  }
}

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

async function useVolume(cluster: SmallCluster, volume: TestVolume): Promise<number> {
  const node = cluster.nodes[0]!;
  const daemon = cluster.services.find(({ spec }) => spec.role === 'storage' && spec.node === node.id)!;
  say('the volume is there');
  const target = await cluster.use(node, volume);
  say('staged');
  const device = deviceUnder(target);
  if (!/^\/dev\/nbd\d+$/.test(device)) throw new Error(`the volume is ${device}`);
  const file = join(target, 'synced');
  const dd = (...args: string[]) => runBeside('dd', 'if=/dev/urandom', `of=${file}`, 'bs=4k', ...args);
  await dd(`count=${syncs}`, 'conv=fsync');
  await reachesDisks('fsync', cluster.pools, async () => {
    for (let i = 0; i < syncs; i++) await dd('count=1', `seek=${i}`, 'conv=notrunc,fsync');
  });
  // Of blocks that the file has: ext4 makes it a write with FUA and nothing else.
  await reachesDisks('FUA', cluster.pools, () => dd(`count=${syncs}`, 'oflag=direct,dsync', 'conv=notrunc'));
  say('flushes and FUA counted');
  const load = new FioLoad(target, 3, 100);
  await realClock.sleep(1_500);
  daemon.signal('SIGKILL');
  const longestMs = await load.done();
  say('daemon killed, load done');
  if (daemon.starts !== 2) throw new Error(`the storage daemon was started ${daemon.starts} times`);
  await cluster.healed(node, volume, 60_000);
  say('in sync again');
  await onDevice(cluster, { volume, node }, (again) => {
    if (again !== device) throw new Error(`the volume was ${device} and is ${again}`);
    return checkUnmounted(again, 'ext4');
  });
  say('checked');
  await cluster.release(node, volume);
  say('released');
  return longestMs;
}

export async function replicatedVolume(): Promise<string> {
  // Nothing has asked for a loop device yet.
  if (!existsSync('/dev/loop-control')) await runBeside('modprobe', 'loop');
  const cluster = new SmallCluster();
  const over = new AbortController();
  try {
    const late = realClock.sleep(limitMs, over.signal).then(() => {
      throw new Error(`not over within ${limitMs / 1_000} s`);
    });
    const longestMs = await Promise.race([late, cluster.start().then((volume) => useVolume(cluster, volume))]);
    return `longest write ${longestMs} ms`;
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${cluster.logs(8)}`);
  } finally {
    over.abort();
    await cluster.stop();
  }
}
