// Zeroes written ahead of a log's end: only where they pay, never over a frame, given back, and no reason for anything to fail.

import { describe, expect, it } from 'vitest';
import type { IncarnationId, ReplicaId, VolumeId } from '../../../src/base/index.js';
import type { LocalReplica } from '../../../src/replica/index.js';
import { ZeroAhead } from '../../../src/segment/zero-ahead.js';
import { FrameMaker, type MadeFrame, reignOf, volumeA } from '../../lib/frame-maker.js';
import { RecordingDisk } from '../../lib/recording-disk.js';
import { freshHost, localPort, openHost, readBytes, synced } from '../../lib/replica-setup.js';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));
const path = (ordinal: number, volume = volumeA) =>
  `/pool/replicas/${volume}/000000000001-${ordinal.toString(16).padStart(8, '0')}.seg`;
const sizeOf = (disk: RecordingDisk, ordinal: number) => disk.stat(path(ordinal))!.sizeBytes;

async function started(disk = new RecordingDisk()) {
  const { host } = await freshHost(disk);
  const { port, status, heard } = await localPort(host, reignOf(1));
  const maker = new FrameMaker(reignOf(1));
  const sent: MadeFrame[] = [];
  const append = (frame: MadeFrame) => {
    sent.push(frame);
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
  };
  const flush = async (size: number) => {
    append(maker.next(size));
    await synced(port);
  };
  return { disk, host, port, status, heard, maker, sent, append, flush };
}

/** Every byte of every frame is what was sent. */
async function expectIntact(port: LocalReplica, sent: readonly MadeFrame[]): Promise<void> {
  for (const frame of sent) {
    const found = await readBytes(port, frame.segment, frame.offset, frame.bytes.length);
    expect(found.equals(frame.bytes), `frame ${frame.lastSeq}`).toBe(true);
  }
}

describe('the rule', () => {
  const flushes = (rule: ZeroAhead, count: number, bytes: number) => {
    for (let i = 0; i < count; i++) rule.flushed(bytes);
  };

  it('gives zeroes to logs that flush little at once, in growing steps, and stops with large flushes', () => {
    const rule = new ZeroAhead();
    expect(rule.next(5000, 0)).toBeNull();
    flushes(rule, 3, 4096);
    expect(rule.next(5000, 0)).toEqual({ from: 8192, to: 8192 + 65_536 });
    expect(rule.next(10_000, 73_728)).toEqual({ from: 73_728, to: 73_728 + 131_072 });
    expect(rule.next(20_000, 204_800)).toBeNull();
    expect(rule.next(180_000, 204_800)).toEqual({ from: 204_800, to: 204_800 + 262_144 });
    expect(rule.next(466_944, 466_944)).toEqual({ from: 466_944, to: 466_944 + 262_144 });
    flushes(rule, 3, 1 << 20);
    expect(rule.next(800_000, 0)).toBeNull();
  });

  it('does not pass the end of a segment, nor reach below the end of a log', () => {
    const rule = new ZeroAhead();
    flushes(rule, 8, 4096);
    expect(rule.next(8 * 1024 * 1024 - 10_000, 0)).toEqual({ from: 8 * 1024 * 1024 - 8192, to: 8 * 1024 * 1024 });
    expect(rule.next(8 * 1024 * 1024 + 64, 0)).toBeNull();
    for (let length = 4096; length < 1 << 20; length += 13_376) {
      const stretch = rule.next(length, length - 64);
      expect(stretch!.from).toBeGreaterThanOrEqual(length);
      expect(stretch!.from % 4096).toBe(0);
    }
  });
});

describe('zeroes ahead', () => {
  it('take most flushes off the end of the file, leave frames alone, and go when the segment is sealed', async () => {
    const { disk, port, maker, sent, append, flush } = await started();
    const sizes = new Set<number>();
    for (let i = 0; i < 60; i++) {
      await flush(4200);
      sizes.add(sizeOf(disk, 1));
    }
    expect(sizes.size).toBeLessThan(8);
    expect(sizeOf(disk, 1)).toBeGreaterThan(maker.offset);
    expect(
      disk
        .contents(path(1))
        .subarray(maker.offset)
        .every((byte) => byte === 0),
    ).toBe(true);
    const end = maker.offset;
    append(maker.seal());
    await turn();
    await turn();
    expect(sizeOf(disk, 1)).toBe(end + sent.at(-1)!.bytes.length);
    await flush(100);
    await expectIntact(port, sent);
  });

  it('are not written for a log that nobody flushes, or that flushes much at once', async () => {
    const { disk, maker, append, flush } = await started();
    for (let i = 0; i < 30; i++) append(maker.next(4200));
    await turn();
    expect(sizeOf(disk, 1)).toBe(maker.offset);
    for (let i = 0; i < 12; i++) await flush(200_000);
    expect(sizeOf(disk, 1)).toBe(maker.offset);
  });

  it('are given back when the volume is idle, when it is fenced, and when it is closed', async () => {
    const { disk, host, port, maker, sent, append, flush } = await started();
    for (let i = 0; i < 6; i++) await flush(500);
    expect(sizeOf(disk, 1)).toBeGreaterThan(maker.offset);
    await port.describe({ flushed: { epoch: 1, seq: maker.seq, digest: sent.at(-1)!.digest } });
    expect(sizeOf(disk, 1)).toBe(maker.offset);
    for (let i = 0; i < 6; i++) await flush(500);
    expect(sizeOf(disk, 1)).toBeGreaterThan(maker.offset);
    // Not while something waits for its flush: then more is to come.
    append(maker.next(500));
    await port.describe({ flushed: { epoch: 1, seq: maker.seq - 1, digest: sent.at(-2)!.digest } });
    expect(sizeOf(disk, 1)).toBeGreaterThan(maker.offset);
    const again = await localPort(host, reignOf(1));
    expect(sizeOf(disk, 1)).toBe(maker.offset);
    for (let i = 0; i < 6; i++) {
      const frame = maker.next(500);
      sent.push(frame);
      again.port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
      await synced(again.port);
    }
    await expectIntact(again.port, sent);
    expect(sizeOf(disk, 1)).toBeGreaterThan(maker.offset);
    await host.close();
    expect(sizeOf(disk, 1)).toBe(maker.offset);
  });

  it('after a crash are no damage, and are cut off, of segments in the middle of the log too', async () => {
    const { disk, maker, sent, append, flush } = await started();
    for (let i = 0; i < 6; i++) await flush(500);
    append(maker.seal());
    const sealedEnd = maker.offset;
    for (let i = 0; i < 6; i++) await flush(500);
    const before = disk.journal.findIndex((change) => change.op === 'truncate');
    expect(before).toBeGreaterThan(0);
    // Before the sealed segment was cut to its length, and at the end.
    for (const [at, segment, end] of [
      [before, 1, sealedEnd],
      [disk.journal.length, 2, maker.offset],
    ] as const) {
      for (const crashed of [disk.afterKill(at), disk.afterPowerCut(at, () => true)]) {
        expect(sizeOf(crashed, segment)).toBeGreaterThan(end);
        const { host } = await openHost(crashed);
        const found = await localPort(host, reignOf(1));
        expect(found.status.damage).toBeNull();
        expect(sizeOf(crashed, segment)).toBe(end);
        await expectIntact(
          found.port,
          sent.filter((frame) => frame.lastSeq <= found.status.end.seq),
        );
        expect(found.status.end.seq).toBeGreaterThanOrEqual(7);
        await host.close();
      }
    }
  });

  it('end the log only where nothing but zeroes follows', async () => {
    const { disk, maker, append, flush } = await started();
    for (let i = 0; i < 4; i++) await flush(500);
    const end = maker.offset;
    append(maker.next(3000));
    append(maker.next(3000));
    // The first sector of the frame after the flushed ones reads as zeroes, what was behind it is there.
    const spoil = (crashed: RecordingDisk) => {
      const bytes = crashed.contents(path(1));
      bytes.fill(0, end, Math.ceil((end + 1) / 512) * 512);
      crashed.overwrite(path(1), bytes);
      return crashed;
    };
    const killed = spoil(disk.afterKill(disk.journal.length));
    const kept = await localPort((await openHost(killed)).host, reignOf(1));
    expect(kept.status.end.seq).toBe(4);
    expect(kept.status.damage).toContain('case G');
    const cut = spoil(disk.afterPowerCut(disk.journal.length, () => true));
    const lost = await localPort((await openHost(cut)).host, reignOf(1));
    expect([lost.status.end.seq, lost.status.damage]).toEqual([4, null]);
    expect(sizeOf(cut, 1)).toBe(end);
  });

  it('are never the reason for a full disk', async () => {
    const trial = await started();
    for (let i = 0; i < 5; i++) await trial.flush(500);
    const writes = trial.disk.journal.filter((change) => change.op === 'write');
    const zeroWrite = writes.findIndex((change) => change.op === 'write' && change.bytes.length === 65_536);
    expect(zeroWrite).toBeGreaterThan(0);
    const disk = new RecordingDisk();
    disk.failWrite = { after: zeroWrite, errno: 'ENOSPC', keepBytes: 30_000 };
    const { host, port, heard, maker, sent, flush } = await started(disk);
    for (let i = 0; i < 3; i++) await flush(500);
    expect(disk.failWrite.after).toBeLessThan(0);
    disk.failWrite = null;
    for (let i = 0; i < 2; i++) await flush(500);
    expect(heard).toMatchObject({ appended: 5, lost: null });
    await expectIntact(port, sent);
    // What was written of the zeroes was given back at once.
    expect(disk.journal.some((change) => change.op === 'truncate')).toBe(true);
    await host.close();
    expect(sizeOf(disk, 1)).toBe(maker.offset);
  });

  it('are not written in a pool that is nearly full', async () => {
    const disk = new RecordingDisk();
    disk.capacityBytes = 128 * 1024 * 1024;
    const { maker, heard, flush } = await started(disk);
    for (let i = 0; i < 10; i++) await flush(500);
    expect(heard).toMatchObject({ appended: 10, lost: null });
    expect(sizeOf(disk, 1)).toBe(maker.offset);
  });

  it('fail the replica when the disk does', async () => {
    const trial = await started();
    for (let i = 0; i < 5; i++) await trial.flush(500);
    const writes = trial.disk.journal.filter((change) => change.op === 'write');
    const zeroWrite = writes.findIndex((change) => change.op === 'write' && change.bytes.length === 65_536);
    const disk = new RecordingDisk();
    disk.failWrite = { after: zeroWrite, errno: 'EIO', keepBytes: 0 };
    const { heard, flush } = await started(disk);
    const ended = (async () => {
      for (let i = 0; i < 5; i++) await flush(500);
    })();
    await expect(ended).rejects.toMatchObject({ reason: 'DiskFailed' });
    expect(heard.lost).toMatchObject({ reason: 'DiskFailed' });
  });

  it('do no harm to a clone that was linked while they were there', async () => {
    const { disk, host, port, status, maker, sent, append, flush } = await started();
    for (let i = 0; i < 6; i++) await flush(500);
    disk.holdSyncs = true;
    append(maker.seal());
    const end = maker.offset;
    append(maker.next(100));
    const cloneVolume = '0a000000-0000-4000-8000-0000000000c1' as VolumeId;
    const cloneReplica = '0b000000-0000-4000-8000-0000000000c1' as ReplicaId;
    const digest = sent.find((frame) => frame.lastSeq === 7)!.digest;
    const superblock = {
      ...status.superblock,
      volumeId: cloneVolume,
      replicaId: cloneReplica,
      incarnationId: '0c000000-0000-4000-8000-0000000000c1' as IncarnationId,
      flushed: { epoch: 1, seq: 7, digest },
    };
    expect(sizeOf(disk, 1)).toBeGreaterThan(end);
    const cloning = port.clone({ superblock, segments: [{ epoch: 1, ordinal: 1 }] });
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await cloning;
    const clone = await host.localPort(cloneVolume, cloneReplica);
    clone.listen({ appended: () => {}, lost: () => {} });
    const found = await clone.fence(reignOf(2));
    expect([found.end.seq, found.end.digest, found.damage]).toEqual([7, digest, null]);
    expect(disk.stat(path(1, cloneVolume))!.sizeBytes).toBe(end);
    await expectIntact(port, sent);
  });

  it('are not cut off a sealed segment while it is being synced', async () => {
    const { disk, port, maker, sent, append, flush } = await started();
    for (let i = 0; i < 6; i++) await flush(500);
    disk.holdSyncs = true;
    append(maker.next(500));
    const early = synced(port, maker.seq);
    // Sealed while the sync before it is under way: that one's end is no time to truncate.
    append(maker.seal());
    const size = sizeOf(disk, 1);
    const late = synced(port, maker.seq);
    disk.releaseSyncs();
    await early;
    await turn();
    expect(sizeOf(disk, 1)).toBe(size);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await late;
    await turn();
    expect(sizeOf(disk, 1)).toBe(maker.offset);
    await expectIntact(port, sent);
  });

  it('whose cutting off fails fail the replica, and leave no sync hanging', async () => {
    const { disk, port, heard, flush } = await started();
    for (let i = 0; i < 2; i++) await flush(500);
    // The zeroes do not fit, and then the disk fails.
    const zeroing = (errno: string) => ({ after: 1, errno, keepBytes: 0 });
    disk.failWrite = zeroing('ENOSPC');
    disk.failTruncate = 'EIO';
    const ended = expect(flush(500)).rejects.toMatchObject({ reason: 'DiskFailed' });
    await turn();
    disk.failWrite = null;
    await ended;
    expect(heard.lost).toMatchObject({ reason: 'DiskFailed' });
    await expect(synced(port)).rejects.toMatchObject({ reason: 'DiskFailed' });
  });
});
