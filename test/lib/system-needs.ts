// What system tests need of the machine, and what they do to the device under an attached volume.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import type { CsiCluster, TestNode, TestVolume } from './csi-cluster.js';

/** Why volumes can't be attached here or which tools are not installed; empty when all is there. */
export function missingFor(tools: readonly string[]): string {
  if (process.getuid?.() !== 0) return 'not root';
  if (!existsSync('/dev/fuse')) return 'no /dev/fuse';
  if (!existsSync('/dev/loop-control')) return 'no /dev/loop-control';
  return missingTools(tools);
}

export function missingTools(tools: readonly string[]): string {
  const missing = tools.filter((tool) => spawnSync('which', [tool]).status !== 0);
  return missing.length > 0 ? `missing: ${missing.join(', ')}` : '';
}

export function fioKnowsNbd(): boolean {
  return spawnSync('fio', ['--enghelp'], { encoding: 'utf8' }).stdout?.includes('nbd') ?? false;
}

/** Runs a program; throws with what it said when it fails. */
export function run(program: string, ...args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(program, args, { encoding: 'utf8', maxBuffer: 64 << 20 });
  if (status === 0) return stdout;
  throw new Error(
    `${program} ${args.join(' ')} ended with ${status ?? error?.message}: ${`${stdout}${stderr}`.slice(-2_000)}`,
  );
}

/** The same for a program that may wait for a volume: nothing else is held up meanwhile. */
export async function runBeside(program: string, ...args: string[]): Promise<string> {
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [out, said] = ['', ''];
  child.stdout.on('data', (chunk) => {
    out = (out + chunk).slice(-(1 << 20));
  });
  child.stderr.on('data', (chunk) => {
    said = (said + chunk).slice(-2_000);
  });
  const ended = await new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(code ?? signal));
  });
  if (ended === 0) return out;
  throw new Error(`${program} ${args.join(' ')} ended with ${ended}: ${`${out}${said}`.slice(-2_000)}`);
}

/** The device on which a mounted path lies. */
export const deviceUnder = (path: string): string => run('findmnt', '-n', '-o', 'SOURCE', '--mountpoint', path).trim();

/** The filesystem's own check, which may find nothing to say. */
export async function checkUnmounted(device: string, fsType: 'ext4' | 'xfs'): Promise<void> {
  if (fsType === 'ext4') await runBeside('e2fsck', '-f', '-n', device);
  else await runBeside('xfs_repair', '-n', device);
}

/** Unmounts a volume while its device stays attached, works on the device, and stages and publishes it again. */
export async function onDevice(
  cluster: CsiCluster,
  { volume, node }: { readonly volume: TestVolume; readonly node: TestNode },
  work: (device: string) => void | Promise<void>,
): Promise<void> {
  const staging = cluster.staging(node, volume);
  const device = deviceUnder(staging);
  await node.client.NodeUnpublishVolume({ volume_id: volume.id, target_path: cluster.target(node, volume) });
  await runBeside('umount', staging);
  await work(device);
  await cluster.use(node, volume);
}
