import { describe, expect, it } from 'vitest';
import { SuperblockStore } from '../../../src/segment/superblock-store.js';
import { emptySuperblock } from '../../lib/memory-replica.js';
import { dropAll, keepAll, RecordingDisk, randomChoice } from '../../lib/recording-disk.js';

const id = (n: number) => `30000000-0000-4000-8000-00000000000${n}` as never;

describe('superblock on a full disk', () => {
  it('keeps one good slot over a failed update and a crash in the next', async () => {
    const disk = new RecordingDisk();
    disk.prepareDirectory('/replica');
    const first = emptySuperblock({
      volumeId: id(1),
      lineageId: id(2),
      replicaId: id(3),
      incarnationId: id(4),
      nodeId: 'n' as never,
      sizeBytes: 4096,
    });
    const store = await SuperblockStore.create(disk, '/replica', first);
    disk.failWrite = { after: 1, errno: 'ENOSPC', keepBytes: 100 };
    await expect(store.update({ ...first, setVersion: 2 })).rejects.toMatchObject({ code: 'RESOURCE_EXHAUSTED' });
    disk.failWrite = null;
    const from = disk.journal.length;
    await store.update({ ...first, setVersion: 3 });
    for (let at = from; at <= disk.journal.length; at++)
      for (const choice of [dropAll, keepAll, randomChoice(at), randomChoice(at + 100)])
        expect(SuperblockStore.open(disk.afterPowerCut(at, choice), '/replica').current.setVersion).toBeGreaterThan(1);
    for (let at = from; at < disk.journal.length; at++)
      expect(SuperblockStore.open(disk.afterKill(at, 50), '/replica').current.setVersion).toBeGreaterThan(1);
  });
});
