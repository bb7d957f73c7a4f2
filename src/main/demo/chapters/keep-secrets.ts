// What lies on the disks can't be read without the key, and another key is refused before anything is opened.

import { randomBytes } from 'node:crypto';
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { HoldfastError, MiB } from '../../../base/index.js';
import type { Scene } from '../scene.js';
import type { VolumeView } from '../view.js';
import { classParameters } from './create-volume.js';

const markerBytes = 32;
const markerCopies = 64;
const spacingBytes = 8 * 1024;
const scanBytes = 4 * MiB;

/** Random bytes do not compress, so that without encryption the marker would lie in the pools as it is. */
function markedData(marker: Buffer): Buffer {
  const data = randomBytes(markerCopies * spacingBytes);
  for (let i = 0; i < markerCopies; i++) marker.copy(data, i * spacingBytes + 100 + i);
  return data;
}

export async function keepSecrets(scene: Scene, view: VolumeView, key: string): Promise<void> {
  const { report, place, cluster } = scene;
  const marker = randomBytes(markerBytes);
  await view.put('marked', markedData(marker), { durable: true });
  await view.flush();
  const pools = cluster.nodes.map(({ poolDir }) => poolDir);
  const keys = [Buffer.from(key, 'hex'), Buffer.from(key)];
  const inPools = await scan(scene, place.filesBelow(pools), [marker, ...keys]);
  report.check(
    inPools.hits.length === 0,
    `no plaintext in ${inPools.files} files of the pools`,
    inPools.hits.join(', '),
  );
  const plainPools = await plainMarker(scene, view, pools);
  report.check(plainPools === pools.length, 'the same search finds it in every pool after a write without encryption');
  const others = place
    .filesBelow([place.directory])
    .filter((path) => !pools.some((pool) => path.startsWith(`${pool}/`)));
  const elsewhere = await scan(scene, others, keys);
  report.check(
    elsewhere.hits.length === 0 && elsewhere.files > 0,
    `the key is in none of them, nor in ${elsewhere.files} files of metadata and logs`,
    elsewhere.hits.join(', '),
  );
}

/** Proves that the search can find something. Resolves to the number of pools in which it did. */
async function plainMarker(scene: Scene, view: VolumeView, pools: readonly string[]): Promise<number> {
  const { sidecars, consumer } = scene;
  const marker = randomBytes(markerBytes);
  const parameters = { ...classParameters, encryption: 'none' };
  const order = { name: 'pvc-plain', sizeBytes: 16 * MiB, parameters, key: null, use: 'block' } as const;
  const volume = await sidecars.createVolume(order, view.node);
  const plain = await consumer.attach(volume, view.node);
  try {
    await plain.put('marked', markedData(marker), { durable: true });
    const files = scene.place.filesBelow(pools).filter((path) => path.includes(`/${volume.id}/`));
    const found = await scan(scene, files, [marker]);
    return pools.filter((pool) => found.hits.some((path) => path.startsWith(`${pool}/`))).length;
  } finally {
    await consumer.detach(plain);
    await sidecars.deleteVolume(volume);
  }
}

interface Scan {
  readonly files: number;
  readonly hits: readonly string[];
}

/** Looks for the byte strings in the files; one with several names is read once. */
async function scan(scene: Scene, paths: readonly string[], needles: readonly Buffer[]): Promise<Scan> {
  const seen = new Set<number>();
  const hits: string[] = [];
  for (const [index, path] of paths.entries()) {
    scene.signal.throwIfAborted();
    scene.report.progress(`searching file ${index + 1} of ${paths.length}`);
    if (contains(path, needles, seen)) hits.push(path);
    await scene.clock.sleep(0);
  }
  return { files: seen.size, hits };
}

function contains(path: string, needles: readonly Buffer[], seen: Set<number>): boolean {
  const overlap = Math.max(...needles.map((needle) => needle.length));
  const window = Buffer.alloc(scanBytes + overlap);
  let fd: number;
  try {
    fd = openSync(path, 'r');
  } catch (error) {
    // Pools live on: a file that went while we looked holds nothing any more.
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false;
    throw error;
  }
  try {
    const { ino } = fstatSync(fd);
    if (seen.has(ino)) return false;
    seen.add(ino);
    for (let kept = 0; ; ) {
      const count = readSync(fd, window, kept, scanBytes, null);
      const text = window.subarray(0, kept + count);
      if (needles.some((needle) => text.includes(needle))) return true;
      if (count === 0) return false;
      kept = Math.min(overlap, text.length);
      text.copy(window, 0, text.length - kept);
    }
  } finally {
    closeSync(fd);
  }
}

/** Another key, and none, are refused; nothing was opened for them. The volume must not be in use. */
export async function refuseWrongKey(scene: Scene, volume: VolumeView['volume'], node: string): Promise<void> {
  const { report, sidecars, consumer, cluster } = scene;
  await sidecars.publish(volume, node);
  const promised = async () =>
    [...(await cluster.replicas(volume.id)).values()].flatMap((replicas) => replicas.map((one) => one.promised_epoch));
  const before = await promised();
  const wrong = await refusal(() => consumer.attachWith(randomBytes(32).toString('hex'), volume, node));
  report.check(wrong?.reason === 'WrongKey', `another key is refused: ${firstSentence(wrong)}`);
  const missing = await refusal(() => consumer.attachWith(null, volume, node));
  report.check(missing?.reason === 'MissingKey', `so is no key: ${firstSentence(missing)}`);
  const after = await promised();
  const untouched = before.length === 3 && before.join() === after.join() && !(await cluster.engine(node, volume.id));
  report.check(untouched, 'both before any I/O: no replica was asked for anything, no engine was opened');
  await sidecars.unpublish(volume, node);
}

async function refusal(attempt: () => Promise<void>): Promise<HoldfastError | undefined> {
  try {
    await attempt();
    return undefined;
  } catch (error) {
    if (error instanceof HoldfastError) return error;
    throw error;
  }
}

function firstSentence(error: HoldfastError | undefined): string {
  return (error?.message ?? 'it was accepted').split(/[:;] /)[0] ?? '';
}
