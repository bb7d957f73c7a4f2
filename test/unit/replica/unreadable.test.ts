// Sectors that can't be read are damage of their place; writes and syncs that fail are the end of a replica.

import { describe, expect, it } from 'vitest';
import { segmentFileName } from '../../../src/format/index.js';
import { BareReplica } from '../../../src/replica/index.js';
import { ReadOnlyDisk } from '../../../src/segment/index.js';
import type { ReplicaPort } from '../../../src/wire/index.js';
import { FrameMaker, type MadeFrame, reignOf } from '../../lib/frame-maker.js';
import { dropAll, type RecordingDisk } from '../../lib/recording-disk.js';
import { freshHost, localPort, openHost, readBytes, synced } from '../../lib/replica-setup.js';

function append(port: ReplicaPort, frames: readonly MadeFrame[]): void {
  for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
}

/** Two sealed segments and an open one, all synced and noted so: seq 1 to 3, 4 to 6 and 7 to 8. */
async function written(second = 6000) {
  const { disk, host, pool } = await freshHost();
  const { port } = await localPort(host, reignOf(1));
  const maker = new FrameMaker(reignOf(1));
  const frames = [
    maker.next(9000),
    maker.next(second),
    maker.seal(),
    maker.next(15_000),
    maker.next(900),
    maker.seal(),
  ];
  frames.push(maker.next(7000), maker.next(3000));
  append(port, frames);
  await synced(port);
  const last = frames.at(-1)!;
  await port.describe({ flushed: { epoch: 1, seq: last.lastSeq, digest: last.digest } });
  const directory = pool.replicaPath(pool.volumes()[0]!);
  const file = (i: number) => `${directory}/${segmentFileName(frames[i]!.segment)}`;
  return { disk, host, pool, port, maker, frames, directory, file };
}

async function reopened(disk: RecordingDisk, epoch = 2) {
  const { host } = await openHost(disk.afterKill(disk.journal.length));
  return { host, ...(await localPort(host, reignOf(epoch))) };
}

describe('a place that can not be read', () => {
  it('is written over in whole blocks, and the replica goes on', async () => {
    const { disk, port, frames, directory, file } = await written();
    for (const at of [0, 3, 6]) {
      const whole = disk.contents(file(at));
      for (const byte of [0, 4096, 9000, whole.length - 1]) {
        disk.breakBlock(file(at), byte);
        const from = byte - (byte % 4096);
        const bytes = whole.subarray(from, from + 4096);
        await expect(readBytes(port, frames[at]!.segment, from, bytes.length)).rejects.toMatchObject({
          code: 'DATA_LOSS',
        });
        await port.repair(frames[at]!.segment, from, bytes);
        expect(disk.badBlocks(file(at)), `${at}, byte ${byte}`).toBe(0);
        expect(await readBytes(port, frames[at]!.segment, from, bytes.length)).toEqual(bytes);
      }
      expect(disk.contents(file(at)).equals(whole)).toBe(true);
      expect(disk.afterPowerCut(disk.journal.length, dropAll).contents(file(at)).equals(whole)).toBe(true);
    }
    expect(disk.stat(`${directory}/failed`)).toBeUndefined();
  });

  it('does not keep a replica from opening: behind a trailer the frames tell', async () => {
    // Only the trailer lies in the block: the header of the frame that it ends fills up the one before.
    const { offset } = (await written()).frames[2]!;
    const { disk, file, frames } = await written(6000 + 4096 + 4096 - 128 - (offset % 4096));
    expect(frames[2]!.offset % 4096).toBe(4096 - 128);
    disk.breakBlock(file(0), disk.contents(file(0)).length - 1);
    const { status } = await reopened(disk);
    expect(status).toMatchObject({ damage: null, end: { seq: 8 } });
  });

  it.each([
    ['the header of a segment', () => 0, 0],
    ['a frame', () => 4096, 6],
    ['the last frame', (size: number) => size - 3100, 7],
  ])('is damage of the log at an open: %s', async (_, place, at) => {
    const { disk, file, directory } = await written();
    disk.breakBlock(file(at), place(disk.contents(file(at)).length));
    const { status } = await reopened(disk);
    expect(status.damage).toContain(segmentOf(file(at)));
    const bare = BareReplica.open(new ReadOnlyDisk(disk), directory);
    expect(bare.status.damage).toBe(status.damage);
    expect(disk.stat(`${directory}/failed`)).toBeUndefined();
  });

  it('is no torn tail: what was acknowledged is not cut off for it', async () => {
    const { disk, port, maker, file } = await written();
    const more = maker.next(9000);
    append(port, [more]);
    disk.breakBlock(file(6), disk.contents(file(6)).length - 4500);
    const killed = disk.afterKill(disk.journal.length);
    const { host } = await openHost(killed);
    expect((await localPort(host, reignOf(2))).status.damage).toMatch(/case G/);
    expect(killed.contents(file(6)).equals(disk.contents(file(6)))).toBe(true);
    // After a power loss the disk may have left it so, as any other torn write.
    const cut = await openHost(disk.afterPowerCut(disk.journal.length, () => true));
    expect((await localPort(cut.host, reignOf(2))).status).toMatchObject({ damage: null, end: { seq: 8 } });
  });

  it('in what a joiner is to keep of a segment costs it the segment at the next open, and it can be brought on', async () => {
    const { disk, host, file, directory } = await written();
    const { port } = await localPort(host, reignOf(2));
    await port.describe({ joining: true });
    disk.breakBlock(file(3), 4096 + 4096 + 600);
    await expect(port.cut(4)).rejects.toMatchObject({ code: 'DATA_LOSS' });
    const again = await localPort(host, reignOf(3));
    expect(again.status).toMatchObject({ damage: null, end: { seq: 3 } });
    await again.port.cut(3);
    expect(disk.stat(`${directory}/failed`)).toBeUndefined();
    expect(disk.list(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

describe('a disk that fails', () => {
  it('fails a replica that is being opened for good, when the sync behind a torn tail fails', async () => {
    const { disk, host, pool, port, maker } = await written();
    disk.failWrite = { after: 0, errno: 'ENOSPC', keepBytes: 100 };
    append(port, [maker.next(500)]);
    disk.failWrite = null;
    await host.close();
    pool.close();
    const again = await openHost(disk);
    disk.failSync = { after: 0, errno: 'EIO' };
    await expect(localPort(again.host, reignOf(1))).rejects.toMatchObject({ reason: 'DiskFailed' });
    disk.failSync = null;
    // Neither tried again here nor by the next process.
    await expect(localPort(again.host, reignOf(1))).rejects.toMatchObject({ reason: 'DiskFailed' });
    await again.host.close();
    await expect(reopened(disk, 1)).rejects.toMatchObject({ reason: 'DiskFailed' });
  });

  it('fails the replica when the directory of deleted segments can not be synced', async () => {
    const { disk, port, frames } = await written();
    disk.failSync = { after: 0, errno: 'EIO' };
    await expect(port.deleteSegments([frames[0]!.segment])).rejects.toMatchObject({ reason: 'DiskFailed' });
    disk.failSync = null;
    await expect(synced(port)).rejects.toMatchObject({ reason: 'DiskFailed' });
    await expect(reopened(disk)).rejects.toMatchObject({ reason: 'DiskFailed' });
  });

  it('keeps the page cache of what a failed sync may have lost', async () => {
    const { disk, host } = await freshHost();
    const { volumeId, replicaId } = (await localPort(host, reignOf(1))).status.superblock;
    const port = await host.localPort(volumeId, replicaId, true);
    port.listen({ appended: () => {}, lost: () => {} });
    await port.fence(reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (let i = 0; i < 40; i++) append(port, [maker.next(100), maker.seal()]);
    await synced(port);
    expect(disk.dropped.length).toBeGreaterThan(0);
    const before = disk.dropped.length;
    disk.failSync = { after: 0, errno: 'EIO' };
    append(port, [maker.next(100), maker.seal()]);
    await expect(synced(port)).rejects.toMatchObject({ reason: 'DiskFailed' });
    expect(disk.dropped.length).toBe(before);
  });

  it('leaves neither open files nor half a copy behind, however often a cut meets a full one', async () => {
    const { disk, host, pool, maker, port, directory } = await written();
    // Nothing but what was noted is proven: the rest is taken for unsynced, and its files stay open.
    append(port, [maker.next(3000), maker.next(3000), maker.next(3000)]);
    await host.close();
    pool.close();
    const killed = disk.afterKill(disk.journal.length);
    const { host: next } = await openHost(killed);
    await localPort(next, reignOf(2));
    killed.capacityBytes = 1;
    const open: number[] = [];
    for (let i = 0; i < 50; i++) {
      const again = await localPort(next, reignOf(2)).catch(() => null);
      expect(again?.status.damage, `round ${i}`).toBeNull();
      await expect(again!.port.cut(9)).rejects.toMatchObject({ reason: 'NoSpace' });
      open.push(killed.openFiles);
    }
    expect(new Set(open.slice(1)).size).toBe(1);
    expect(killed.list(directory).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });
});

function segmentOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}
