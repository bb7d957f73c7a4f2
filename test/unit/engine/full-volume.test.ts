// A full volume of 1 TiB: opening it reads no page of its map, and using it takes the memory that it is given.

import { describe, expect, it } from 'vitest';
import { type NodeId, TiB } from '../../../src/base/index.js';
import { PAGE_BYTES, PageCache } from '../../../src/hotpath/index.js';
import { EngineRig, read, request, rigLineage, rigVolume, seeded, write } from '../../lib/engine-rig.js';
import { FullReplica, fullConnector, snapshotOf } from '../../lib/full-volume.js';
import { emptySuperblock } from '../../lib/memory-replica.js';

const MAP_PAGES = TiB / (4 * 1024 * 1024);

function fullRig(versions: { snapshots: number; versions: number } = { snapshots: 0, versions: 0 }) {
  const rig = new EngineRig(1, { sizeBytes: TiB });
  const { replicaId, incarnationId } = rig.members()[0]!;
  const ids = { volumeId: rigVolume, lineageId: rigLineage, replicaId, incarnationId, nodeId: 'n0' as NodeId };
  const superblock = emptySuperblock({ ...ids, sizeBytes: TiB });
  const reignId = '70000000-0000-4000-8000-000000000001' as typeof superblock.promised.reignId;
  const replica = new FullReplica({
    superblock: { ...superblock, promised: { epoch: 1, reignId } },
    pages: MAP_PAGES,
    ...versions,
  });
  rig.epoch = 1;
  const pages = new PageCache(1024 * PAGE_BYTES);
  return { rig, replica, pages, open: () => rig.open({ connector: fullConnector(replica), pages }) };
}

describe('a full volume of 1 TiB', () => {
  it('opens without a page, and keeps to its memory while pages all over it change', async () => {
    const { replica, pages, open } = fullRig();
    const engine = await open();
    expect(engine.status().allocatedBytes).toBe(TiB);
    expect(replica.pagesRead).toBe(0);
    // Table, segment list, root: some 30 bytes for a page and for a segment.
    expect(replica.bytesRead).toBeLessThan(16 * 1024 * 1024);

    const random = seeded(5);
    const written = new Map<number, number>();
    for (let i = 0; i < 3000; i += 50) {
      const some = Array.from({ length: 50 }, (_, k) => [Math.floor(random() * (TiB / 4096)), (i + k) % 251] as const);
      await Promise.all(some.map(([block, byte]) => write(engine, block * 4096, Buffer.alloc(4096, byte))));
      for (const [block, byte] of some) written.set(block, byte);
      expect(pages.resident).toBeLessThan(pages.most + 100);
    }
    // One load for nearly every write, since nearly every one meets another page; and few of them stay.
    expect(replica.pagesRead).toBeGreaterThan(2500);
    expect(replica.pagesRead).toBeLessThan(3300);
    expect(replica.superblock.checkpoint!.segment.epoch).toBeGreaterThan(1);
    engine.depose('test');
    expect(pages.resident).toBe(0);
    expect(pages.dirty).toBe(0);

    const again = await open();
    expect(again.status().allocatedBytes).toBe(TiB);
    for (const [block, byte] of [...written].slice(-400))
      expect((await read(again, block * 4096, 4096)).equals(Buffer.alloc(4096, byte))).toBe(true);
    again.depose('test');
  }, 60_000);

  it('is trimmed whole by dropping pages, which are counted off in the background', async () => {
    const { replica, open } = fullRig();
    const engine = await open();
    expect(await request(engine, 'trim', 0, TiB)).toBeNull();
    expect(engine.status().allocatedBytes).toBe(0);
    // Not those between its ends; the background has read some by now.
    expect(replica.pagesRead).toBeLessThan(20_000);
    engine.depose('test');
  }, 60_000);

  it('takes and deletes snapshots above 10,000 others without reading the map', async () => {
    const { replica, open } = fullRig({ snapshots: 9_990, versions: 99_900 });
    const engine = await open();
    expect(engine.status().snapshotIds.length).toBe(9_990);
    const bytes = replica.bytesRead;
    for (let i = 9_990; i < 9_995; i++)
      await engine.freeze({ snapshotId: snapshotOf(i), groupId: null, holdToken: null });
    for (const i of [0, 5_000, 5_001, 9_989, 9_992]) await engine.deleteSnapshot(snapshotOf(i));
    // Only the background reads: what the four older ones alone held, ten pages each.
    expect(replica.pagesRead).toBeLessThanOrEqual(40);
    expect(replica.bytesRead - bytes).toBeLessThan(64 * 10 * 8256);
    const before = replica.superblock.checkpoint;
    await engine.close();
    expect(replica.superblock.checkpoint).toEqual(before);
    engine.depose('test');
  }, 60_000);
});
