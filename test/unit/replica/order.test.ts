import { describe, expect, it, vi } from 'vitest';
import { type IncarnationId, type ReplicaId, silentLogger, type VolumeId } from '../../../src/base/index.js';
import { ReplicaHost } from '../../../src/replica/index.js';
import { OperationQueue } from '../../../src/replica/operation-queue.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { dropAll } from '../../lib/recording-disk.js';
import { freshHost, localPort, openHost, synced } from '../../lib/replica-setup.js';
import { ManualClock } from '../nbd/manual-clock.js';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('order of operations', () => {
  it('runs what was called between two barriers between them, in order', async () => {
    const queue = new OperationQueue();
    const ran: string[] = [];
    const step = (name: string) => async () => {
      await turn();
      ran.push(name);
    };
    const pass = (name: string) => (queue.blocked ? queue.pass(() => ran.push(name)) : ran.push(name));
    pass('a');
    const done = [queue.run(step('run 1')), queue.barrier(step('barrier 1'))];
    pass('b');
    done.push(queue.run(step('run 2')));
    pass('c');
    done.push(
      queue.barrier(async () => {
        await turn();
        ran.push('barrier 2');
        throw new Error('it failed');
      }),
    );
    pass('d');
    const outcomes = await Promise.allSettled(done);
    pass('e');
    expect(ran).toEqual(['a', 'run 1', 'barrier 1', 'b', 'c', 'run 2', 'barrier 2', 'd', 'e']);
    expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'fulfilled', 'rejected']);
    expect(queue.blocked).toBe(false);
  });

  it('drops appends of a superseded port that waited behind its cut', async () => {
    const { disk, host } = await freshHost();
    const old = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (const frame of [maker.next(), maker.next()])
      old.port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(old.port);
    const third = maker.next();
    disk.holdSyncs = true;
    const described = old.port.describe({ joining: false });
    old.port.append(third.segment, third.offset, third.bytes, third.lastSeq);
    await turn();
    const fenced = localPort(host, reignOf(2));
    await turn();
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await described.catch(() => {});
    expect((await fenced).status.end.seq).toBe(2);
    await turn();
    expect(old.heard.appended).toBe(2);
    expect((await fenced).heard.lost).toBeNull();
    expect((await (await fenced).port.segments())[0]!.lastSeq).toBe(2);
  });

  it('answers a fence though the former engine hangs or fails to stop, and says that it did not stop', async () => {
    const clock = new ManualClock();
    const { pool, host: first } = await freshHost();
    await first.close();
    let hook: () => Promise<boolean> = () => new Promise(() => {});
    const host = new ReplicaHost({ pools: [pool], stopEngine: () => hook(), clock, logger: silentLogger });
    const hanging = localPort(host, reignOf(1));
    await turn();
    clock.pass(5_000);
    expect((await hanging).status.stoppedEngine).toBe(false);
    hook = () => Promise.reject(new Error('no'));
    expect((await localPort(host, reignOf(2))).status.stoppedEngine).toBe(false);
    hook = async () => true;
    expect((await localPort(host, reignOf(3))).status.stoppedEngine).toBe(true);
    expect(clock.waiting).toBe(0);
  });

  it('serves a reign whose promise reached one superblock slot before the disk was full', async () => {
    const { disk, host } = await freshHost();
    disk.failWrite = { after: 1, errno: 'ENOSPC', keepBytes: 50 };
    await expect(localPort(host, reignOf(1))).rejects.toMatchObject({ reason: 'NoSpace' });
    disk.failWrite = null;
    const { port, heard } = await localPort(host, reignOf(1));
    const frame = new FrameMaker(reignOf(1)).next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    expect(heard).toMatchObject({ appended: 1, lost: null });
    await expect(localPort(host, reignOf(0))).rejects.toMatchObject({ reason: 'StaleReign' });
  });

  it('leaves no remains of a failed write for a later recovery to stumble over', async () => {
    const { disk, host, pool } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const first = maker.next();
    const short = maker.fork(reignOf(1));
    port.append(first.segment, first.offset, first.bytes, first.lastSeq);
    const large = maker.next(9000);
    disk.failWrite = { after: 0, errno: 'ENOSPC', keepBytes: 8000 };
    port.append(large.segment, large.offset, large.bytes, large.lastSeq);
    disk.failWrite = null;
    const again = await localPort(host, reignOf(1));
    const file = `${pool.replicaPath(pool.volumes()[0]!)}/000000000001-00000001.seg`;
    expect(disk.stat(file)!.sizeBytes).toBe(first.bytes.length);
    expect(short.seq).toBe(1);
    again.port.append(large.segment, large.offset, large.bytes, large.lastSeq);
    expect(again.heard.appended).toBe(2);
  });

  it('removes a segment whose first write failed, so that it can be created again', async () => {
    const { disk, host } = await freshHost();
    const { port, heard } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const first = maker.next();
    disk.failWrite = { after: 0, errno: 'ENOSPC', keepBytes: 4096 };
    port.append(first.segment, first.offset, first.bytes, first.lastSeq);
    disk.failWrite = null;
    expect(heard.lost).not.toBeNull();
    const again = await localPort(host, reignOf(1));
    again.port.append(first.segment, first.offset, first.bytes, first.lastSeq);
    expect(again.heard).toMatchObject({ appended: 1, lost: null });
  });

  it('shares no segment with a clone before its bytes are on disk', async () => {
    const { disk, host, pool } = await freshHost();
    const { port, status } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    await turn();
    disk.holdSyncs = true;
    for (const frame of [maker.next(), maker.seal()])
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    const superblock = {
      ...status.superblock,
      volumeId: '0a000000-0000-4000-8000-0000000000c1' as VolumeId,
      replicaId: '0b000000-0000-4000-8000-0000000000c1' as ReplicaId,
      incarnationId: '0c000000-0000-4000-8000-0000000000c1' as IncarnationId,
      flushed: { epoch: 1, seq: 2, digest: 'ab'.repeat(16) },
    };
    const cloned = port.clone({ superblock, segments: [maker.segment] });
    await turn();
    expect(disk.list(pool.replicasPath)).toHaveLength(1);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await cloned;
    expect(disk.list(pool.replicasPath)).toHaveLength(2);
  });

  it('copies a segment that can have no more names', async () => {
    const { disk, host } = await freshHost();
    const { port, status } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (const frame of [maker.next(3 << 20), maker.seal()])
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    disk.linkMax = 1;
    const volumeId = '0a000000-0000-4000-8000-0000000000c1' as VolumeId;
    const replicaId = '0b000000-0000-4000-8000-0000000000c1' as ReplicaId;
    const superblock = {
      ...status.superblock,
      volumeId,
      replicaId,
      incarnationId: '0c000000-0000-4000-8000-0000000000c1' as IncarnationId,
      flushed: { epoch: 1, seq: 2, digest: 'ab'.repeat(16) },
    };
    await port.clone({ superblock, segments: [maker.segment] });
    expect((await port.usage()).sharedBytes).toBe(0);
    const cut = disk.afterPowerCut(disk.journal.length, () => false);
    const clone = await (await openHost(cut)).host.localPort(volumeId, replicaId);
    clone.listen({ appended: () => {}, lost: () => {} });
    expect((await clone.fence(reignOf(2))).end).toMatchObject({ seq: 2, digest: maker.digest.toString('hex') });
  });

  it('deletes segments one at a time, and nothing but a cut waits for it', async () => {
    const { disk, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (let i = 0; i < 24; i++) {
      for (const frame of [maker.next(), maker.seal()])
        port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    }
    const last = maker.next();
    port.append(last.segment, last.offset, last.bytes, last.lastSeq);
    await synced(port);
    await port.describe({ flushed: { epoch: 1, seq: maker.seq, digest: last.digest } });
    const names = (await port.segments()).slice(0, 24);
    expect(names.every(({ links }) => links === 1)).toBe(true);
    const files = () => disk.list(`/pool/replicas/${volumeA}`).filter((name) => name.endsWith('.seg')).length;
    let ended = false;
    const free = port.freeBytes();
    const deleting = port.deleteSegments(names).then(() => {
      ended = true;
    });
    // In order with what follows: out of the log at once, whatever the files do.
    expect((await port.segments()).length).toBe(25);
    await port.describe({ sizeBytes: 1 << 31 });
    expect((await port.segments()).length).toBe(1);
    expect([ended, files() > 10]).toEqual([false, true]);
    await port.fence(reignOf(1));
    expect([ended, files() > 2]).toEqual([false, true]);
    // What has gone so far is room already.
    await vi.waitFor(() => expect(files()).toBeLessThan(24));
    expect([ended, port.freeBytes() > free]).toEqual([false, true]);
    await port.cut(maker.seq);
    expect(files()).toBe(1);
    await deleting;
  });

  it('has deleted a segment for good when it says so', async () => {
    const { disk, host, pool } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const frames = [maker.next(), maker.seal(), maker.next()];
    for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(port);
    await port.describe({ flushed: { epoch: 1, seq: 3, digest: frames[2]!.digest } });
    const free = port.freeBytes();
    await port.deleteSegments([{ epoch: 1, ordinal: 1 }]);
    // Whoever waits for room is told of it now.
    expect(port.freeBytes()).toBeGreaterThan(free);
    const after = disk.afterPowerCut(disk.journal.length, dropAll);
    expect(after.list(pool.replicaPath(volumeA)).filter((name) => name.endsWith('.seg'))).toEqual([
      '000000000001-00000002.seg',
    ]);
  });
});
