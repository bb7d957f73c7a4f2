// One instant over two volumes on two nodes: somebody writes a number to the first volume, waits until that is acknowledged and
// durable, writes it to the second, and so on. Whenever a group snapshot is taken, the first volume may be one number ahead of the
// second and never behind. Needs root and /dev/fuse.

import { constants, existsSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { MiB, realClock } from '../../src/base/index.js';
import { createClient, csiServices } from '../../src/rpc/index.js';
import { blockCapability, DevCluster, leftovers, type TestVolume } from '../lib/dev-cluster.js';

const reason = process.getuid?.() !== 0 ? 'not root' : !existsSync('/dev/fuse') ? 'no /dev/fuse' : '';
if (reason !== '') process.stderr.write(`\nSKIPPED: group snapshot system tests cannot run here: ${reason}\n\n`);

const ROUNDS = 5;
const OFFSET = 8 * 4096;

async function writeNumber(file: FileHandle, number: number): Promise<void> {
  const bytes = Buffer.alloc(4096);
  bytes.writeBigUInt64LE(BigInt(number));
  await file.write(bytes, 0, bytes.length, OFFSET);
}

async function readNumber(path: string): Promise<number> {
  const file = await open(path, 'r');
  try {
    const { buffer } = await file.read(Buffer.alloc(4096), 0, 4096, OFFSET);
    return Number(buffer.readBigUInt64LE());
  } finally {
    await file.close();
  }
}

describe.skipIf(reason !== '')('a group snapshot of volumes on two nodes', () => {
  let cluster: DevCluster;
  beforeAll(async () => {
    cluster = await DevCluster.start(['--nodes', '3']);
  });
  afterAll(async () => {
    // Undefined when the cluster did not start: beforeAll says why.
    if (cluster === undefined) return;
    expect(await cluster.stop()).toBe(0);
    expect(leftovers(cluster.dir)).toEqual([]);
  });

  it('shows no write without those that were acknowledged before it', async () => {
    const ready = cluster.events.find((event) => event.event === 'ready') as unknown as { controller: { csi: string } };
    const groups = createClient(ready.controller.csi, csiServices.groupController(), { clock: realClock });
    const make = () => cluster.createVolume({ bytes: 16 * MiB, capability: blockCapability });
    const volumes = [await make(), await make()] as const;
    const [first, second, third] = cluster.nodes;
    const flags = constants.O_RDWR | constants.O_DSYNC;
    const files = [
      await open(await cluster.use(first!, volumes[0]), flags),
      await open(await cluster.use(second!, volumes[1]), flags),
    ] as const;
    let written = 0;
    let stop = false;
    const writer = (async () => {
      while (!stop) {
        written++;
        for (const file of files) await writeNumber(file, written);
      }
    })();
    const source_volume_ids = volumes.map((volume) => volume.id);
    const seen: number[] = [];
    try {
      for (let round = 0; round < ROUNDS; round++) {
        const before = written;
        const { group_snapshot } = await groups.CreateVolumeGroupSnapshot({ name: `g${round}`, source_volume_ids });
        const after = written;
        const clones: TestVolume[] = [];
        const numbers: number[] = [];
        for (const id of source_volume_ids) {
          const { snapshot_id } = group_snapshot!.snapshots.find((member) => member.source_volume_id === id)!;
          const source = { snapshot: { snapshot_id } };
          const clone = await cluster.createVolume({ bytes: 16 * MiB, capability: blockCapability, source });
          clones.push(clone);
          numbers.push(await readNumber(await cluster.use(third!, clone)));
        }
        const [ahead, behind] = numbers as [number, number];
        expect([0, 1]).toContain(ahead - behind);
        expect(behind).toBeGreaterThanOrEqual(before - 1);
        expect(ahead).toBeLessThanOrEqual(after);
        seen.push(ahead);
        for (const clone of clones) {
          await cluster.release(third!, clone);
          await cluster.controller.DeleteVolume({ volume_id: clone.id });
        }
        const group_snapshot_id = group_snapshot!.group_snapshot_id;
        await groups.DeleteVolumeGroupSnapshot({ group_snapshot_id, snapshot_ids: [] });
      }
    } finally {
      stop = true;
      await writer;
      for (const file of files) await file.close();
      groups.close();
    }
    expect(new Set(seen).size).toBe(ROUNDS);
    expect(await cluster.controller.ListSnapshots({})).toMatchObject({ entries: [] });
    await cluster.release(first!, volumes[0]);
    await cluster.release(second!, volumes[1]);
    for (const volume of volumes) await cluster.controller.DeleteVolume({ volume_id: volume.id });
  });
});
