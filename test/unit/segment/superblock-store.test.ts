import { describe, expect, it } from 'vitest';
import type { Superblock } from '../../../src/format/index.js';
import { SuperblockStore } from '../../../src/segment/index.js';
import { reignOf } from '../../lib/frame-maker.js';
import { dropAll, keepAll, RecordingDisk, randomChoice } from '../../lib/recording-disk.js';
import { freshHost } from '../../lib/replica-setup.js';

async function store(): Promise<{ disk: RecordingDisk; directory: string; opened: SuperblockStore; base: Superblock }> {
  const { disk, pool, host } = await freshHost();
  const directory = pool.replicaPath(pool.volumes()[0]!);
  await host.close();
  const opened = SuperblockStore.open(disk, directory);
  return { disk, directory, opened, base: opened.current };
}

describe('superblock store', () => {
  it('holds the former or the new contents after a power cut at any point, the new ones once updated', async () => {
    const { disk, directory, opened, base } = await store();
    const start = disk.journal.length;
    const done: { at: number; epoch: number }[] = [{ at: start, epoch: 0 }];
    for (const epoch of [1, 2, 3]) {
      await opened.update({
        ...base,
        promised: reignOf(epoch),
        parameters: { padding: 'x'.repeat(epoch === 2 ? 5000 : 10) },
      });
      done.push({ at: disk.journal.length, epoch });
    }
    for (let at = start; at <= disk.journal.length; at++) {
      for (const choice of [dropAll, keepAll, ...[1, 2, 3, 4].map((seed) => randomChoice(at * 7 + seed))]) {
        const { epoch } = SuperblockStore.open(disk.afterPowerCut(at, choice), directory).current.promised;
        const updated = done.filter((mark) => mark.at <= at).at(-1)!.epoch;
        expect([updated, updated + 1]).toContain(epoch);
      }
    }
  });

  it('loses nothing when one slot rots, says so when both do', async () => {
    const { disk, directory, opened, base } = await store();
    for (const epoch of [1, 2, 3]) await opened.update({ ...base, promised: reignOf(epoch) });
    for (const slot of [0, 1]) {
      const rotten = disk.afterKill(disk.journal.length);
      const path = `${directory}/superblock.${slot}`;
      const size = rotten.contents(path).length;
      for (let byte = 0; byte < size; byte += 1 + Math.floor(size / 97)) {
        // Padding of the slot's header is not covered by anything.
        if (byte === 6 || byte === 7) continue;
        rotten.flipBit(path, byte, byte % 8);
        expect(SuperblockStore.open(rotten, directory).current.promised.epoch, `byte ${byte}`).toBe(3);
        rotten.flipBit(path, byte, byte % 8);
      }
      rotten.overwrite(path, Buffer.alloc(0));
      expect(SuperblockStore.open(rotten, directory).current.promised.epoch).toBe(3);
      rotten.flipBit(`${directory}/superblock.${1 - slot}`, 100, 1);
      expect(() => SuperblockStore.open(rotten, directory)).toThrow(
        /both superblocks are bad: .*superblock\.0 \(.*superblock\.1 \(/,
      );
    }
  });

  it('writes the bad slot first, so that the good one is never at risk', async () => {
    const { disk, directory, opened, base } = await store();
    await opened.update({ ...base, promised: reignOf(1) });
    disk.flipBit(`${directory}/superblock.1`, 50, 0);
    const again = SuperblockStore.open(disk, directory);
    const start = disk.journal.length;
    await again.update({ ...base, promised: reignOf(2) });
    for (let at = start; at <= disk.journal.length; at++) {
      const crashed = new RecordingDisk();
      expect(crashed.journal).toEqual([]);
      const epoch = SuperblockStore.open(disk.afterKill(at, 60), directory).current.promised.epoch;
      expect([1, 2]).toContain(epoch);
    }
  });

  it('does without a slot that can not be read, and makes it anew', async () => {
    const { disk, directory, opened, base } = await store();
    for (const epoch of [1, 2]) await opened.update({ ...base, promised: reignOf(epoch) });
    for (const slot of [0, 1]) {
      const failing = disk.afterKill(disk.journal.length);
      const path = `${directory}/superblock.${slot}`;
      failing.breakBlock(path, 0);
      const again = SuperblockStore.open(failing, directory);
      expect(again.current.promised.epoch).toBe(2);
      const start = failing.journal.length;
      await again.update({ ...base, promised: reignOf(3) });
      expect(failing.badBlocks(path)).toBe(0);
      for (let at = start; at <= failing.journal.length; at++) {
        const crashed = SuperblockStore.open(failing.afterPowerCut(at, randomChoice(at)), directory);
        expect([2, 3]).toContain(crashed.current.promised.epoch);
      }
      failing.breakBlock(`${directory}/superblock.${1 - slot}`, 0);
      expect(SuperblockStore.open(failing, directory).current.promised.epoch).toBe(3);
      failing.breakBlock(path, 0);
      expect(() => SuperblockStore.open(failing, directory)).toThrow(/both superblocks are bad: .*\(unreadable\)/);
    }
  });

  it('tells an absent replica from a damaged one', async () => {
    const { disk, directory } = await store();
    await disk.unlink(`${directory}/superblock.0`);
    expect(SuperblockStore.open(disk, directory).current.promised.epoch).toBe(0);
    await disk.unlink(`${directory}/superblock.1`);
    expect(() => SuperblockStore.open(disk, directory)).toThrow(
      expect.objectContaining({ code: 'NOT_FOUND', reason: 'ReplicaLost' }),
    );
  });
});
