// Power cuts and kills at every point of short histories: what was promised must be found again.

import { describe, expect, it } from 'vitest';
import type { IncarnationId, ReplicaId, VolumeId } from '../../../src/base/index.js';
import type { ReplicaPort, ReplicaStatus } from '../../../src/wire/index.js';
import { FrameMaker, type MadeFrame, reignOf, volumeA } from '../../lib/frame-maker.js';
import { type Choice, dropAll, keepAll, type RecordingDisk, randomChoice } from '../../lib/recording-disk.js';
import { freshHost, localPort, openHost, retireOrder, synced } from '../../lib/replica-setup.js';

/** What was true when so many changes had been made. */
interface Mark {
  readonly at: number;
  readonly what: 'appended' | 'synced' | 'promised';
  readonly value: number;
}

interface History {
  readonly disk: RecordingDisk;
  readonly marks: Mark[];
  /** Digest of each frame by seq; a cut makes it ambiguous, so tests with cuts bring their own. */
  readonly digests: Map<number, string>;
  /** Changes before the workload. */
  readonly start: number;
}

const choices: readonly [string, (at: number) => Choice][] = [
  ['nothing unsynced survives', () => dropAll],
  ['everything survives', () => keepAll],
  ...[1, 2, 3].map((seed): [string, (at: number) => Choice] => [
    `some survives, seed ${seed}`,
    (at) => randomChoice(at * 10 + seed),
  ]),
];

function highest(marks: readonly Mark[], what: Mark['what'], at: number): number {
  return marks
    .filter((mark) => mark.what === what && mark.at <= at)
    .reduce((max, mark) => Math.max(max, mark.value), 0);
}

function isBlank(bytes: Buffer): boolean {
  return bytes.every((byte) => byte === 0);
}

/** Reads the whole log of a recovered replica and returns the digest of each frame. */
async function recovered(
  disk: RecordingDisk,
  epoch = 99,
): Promise<{ status: ReplicaStatus; digests: Map<number, string>; endsSealed: boolean; port: ReplicaPort }> {
  const { host } = await openHost(disk);
  const { port, status } = await localPort(host, reignOf(epoch));
  const digests = new Map<number, string>();
  const segments = await port.segments();
  for (const segment of segments) for (const frame of await port.frames(segment)) digests.set(frame.seq, frame.digest);
  return { status, digests, endsSealed: segments.at(-1)?.sealed ?? false, port };
}

async function workload(): Promise<History> {
  const { disk, host } = await freshHost();
  const start = disk.journal.length;
  const marks: Mark[] = [];
  const digests = new Map<number, string>();
  const mark = (what: Mark['what'], value: number) => marks.push({ at: disk.journal.length, what, value });
  const { port } = await localPort(host, reignOf(1));
  mark('promised', 1);
  const maker = new FrameMaker(reignOf(1));
  const append = (frame: MadeFrame) => {
    digests.set(frame.lastSeq, frame.digest);
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    mark('appended', frame.lastSeq);
  };
  const flush = async () => {
    const { seq } = maker;
    await synced(port);
    mark('synced', seq);
    maker.flushedThrough = seq;
  };
  append(maker.next(900));
  append(maker.next(3000));
  await flush();
  append(maker.next());
  append(maker.seal());
  append(maker.next(2000));
  await flush();
  append(maker.next());
  append(maker.next(5000));
  await port.describe({ flushed: { epoch: 1, seq: maker.flushedThrough, digest: digests.get(maker.flushedThrough)! } });
  append(maker.seal());
  append(maker.next(1500));
  append(maker.next(100));
  // Small flushes one after the other: from the third on the frames lie over zeroes that were written ahead.
  for (const size of [600, 3000, 100]) {
    append(maker.next(size));
    await flush();
  }
  append(maker.next(7000));
  append(maker.next(900));
  await flush();
  append(maker.next(600));
  append(maker.seal());
  append(maker.next(700));
  await flush();
  append(maker.next(6000));
  const next = await localPort(host, reignOf(2));
  mark('promised', 2);
  maker.newReign(reignOf(2));
  const fresh = maker.next(4000);
  digests.set(fresh.lastSeq, fresh.digest);
  next.port.append(fresh.segment, fresh.offset, fresh.bytes, fresh.lastSeq);
  mark('appended', fresh.lastSeq);
  await synced(next.port);
  mark('synced', fresh.lastSeq);
  await host.close();
  return { disk, marks, digests, start };
}

describe('crashes', () => {
  it('power cut at every point: a prefix with everything synced, the promise kept, no false damage', async () => {
    const { disk, marks, digests, start } = await workload();
    let cuts = 0;
    for (let at = start; at <= disk.journal.length; at++) {
      for (const [name, choice] of choices) {
        const { status, digests: found } = await recovered(disk.afterPowerCut(at, choice(at)));
        const where = `cut at ${at}, ${name}`;
        expect(status.damage, where).toBeNull();
        expect(status.end.seq, where).toBeGreaterThanOrEqual(highest(marks, 'synced', at));
        expect([...found.keys()], where).toEqual([...digests.keys()].slice(0, status.end.seq));
        for (const [seq, digest] of found) expect(digest, where).toBe(digests.get(seq));
        cuts++;
      }
    }
    expect(cuts).toBeGreaterThan(150);
    const zeroed = (change: (typeof disk.journal)[number]) => change.op === 'write' && isBlank(change.bytes);
    expect(disk.journal.filter(zeroed).length).toBeGreaterThan(1);
  }, 20_000);

  it('power cut at every point: a lower reign than the promised one is refused afterwards', async () => {
    const { disk, marks, start } = await workload();
    for (let at = start; at <= disk.journal.length; at++) {
      const promised = highest(marks, 'promised', at);
      if (promised < 1) continue;
      const { host } = await openHost(disk.afterPowerCut(at, dropAll));
      const refused = await localPort(host, reignOf(promised - 1)).then(
        () => null,
        (error) => error.reason,
      );
      expect(refused, `cut at ${at}`).toBe('StaleReign');
    }
  });

  it('kill at every point, also within a write: everything appended is there', async () => {
    const { disk, marks, digests, start } = await workload();
    for (let at = start; at <= disk.journal.length; at++) {
      for (const torn of [0, 1, 100, 4096, 4196, 6000]) {
        const { status, digests: found, endsSealed } = await recovered(disk.afterKill(at, torn));
        const where = `kill at ${at}, ${torn} bytes of the next write`;
        expect(status.damage, where).toBeNull();
        // Between two segments it can't be told from a log that has lost the file after.
        expect(status.cacheSurvived, where).toBe(!endsSealed);
        expect(status.end.seq, where).toBeGreaterThanOrEqual(highest(marks, 'appended', at));
        for (const [seq, digest] of found) expect(digest, where).toBe(digests.get(seq));
      }
    }
  }, 20_000);

  it('goes on after any power cut: the missing frames are taken and survive the next cut', async () => {
    const { disk, marks, start } = await workload();
    for (let at = start; at <= disk.journal.length; at += 3) {
      const first = disk.afterPowerCut(at, randomChoice(at));
      const { status, port } = await recovered(first, 50);
      const maker = new FrameMaker(reignOf(50), {
        seq: status.end.seq,
        digest: Buffer.from(status.end.digest, 'hex'),
        ordinal: 40,
      });
      for (const frame of [maker.next(700), maker.next(20)])
        port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
      await synced(port);
      const again = await recovered(first.afterPowerCut(first.journal.length, dropAll), 51);
      expect(again.status.end, `first cut at ${at}`).toMatchObject({
        seq: status.end.seq + 2,
        digest: maker.digest.toString('hex'),
      });
      expect(again.status.damage).toBeNull();
      expect(highest(marks, 'synced', at)).toBeLessThanOrEqual(status.end.seq);
    }
  });

  it('tells a lost page cache from a kept one until a new reign wrote', async () => {
    const { disk } = await workload();
    const cut = disk.afterPowerCut(disk.journal.length, keepAll);
    const first = await recovered(cut, 50);
    expect(first.status.cacheSurvived).toBe(false);
    // A restart of the process in between proves nothing.
    const second = await recovered(cut.afterKill(cut.journal.length), 51);
    expect(second.status.cacheSurvived).toBe(false);
    const life = await openHost(cut.afterKill(cut.journal.length));
    const { port, status } = await localPort(life.host, reignOf(52));
    const maker = new FrameMaker(reignOf(52), {
      seq: status.end.seq,
      digest: Buffer.from(status.end.digest, 'hex'),
      ordinal: 40,
    });
    const frame = maker.next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(port);
    await life.host.close();
    const disk3 = life.pool.disk as RecordingDisk;
    expect((await recovered(disk3.afterKill(disk3.journal.length), 53)).status.cacheSurvived).toBe(true);
  });

  it("takes a catch-up with an older reign's segment for no proof that the rest is there", async () => {
    const { disk, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const frames = [maker.next(), maker.seal(), maker.next(), maker.next()];
    const send = (to: ReplicaPort, some: readonly MadeFrame[]) => {
      for (const frame of some) to.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    };
    send(port, frames.slice(0, 2));
    await synced(port);
    send(port, frames.slice(2));
    const cut = disk.afterPowerCut(disk.journal.length, dropAll);
    const { host: next } = await openHost(cut);
    const again = await localPort(next, reignOf(2));
    expect(again.status).toMatchObject({ cacheSurvived: false, end: { seq: 2 } });
    send(again.port, frames.slice(2, 3));
    await synced(again.port);
    await next.close();
    expect((await recovered(cut.afterKill(cut.journal.length), 3)).status).toMatchObject({
      cacheSurvived: false,
      end: { seq: 3 },
    });
  });

  it('cut at every point of a crash leaves the log between the cut and its former end, cut again without loss', async () => {
    for (const target of [0, 1, 4, 6]) {
      const { disk, host } = await freshHost();
      const { port } = await localPort(host, reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const digests: string[] = ['0'.repeat(32)];
      for (const frame of [
        maker.next(),
        maker.next(3000),
        maker.seal(),
        maker.next(),
        maker.next(),
        maker.seal(),
        maker.next(9000),
      ]) {
        digests.push(frame.digest);
        port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
      }
      await synced(port);
      // A replica of a lost reign may have to cut what it believed flushed.
      await port.describe({ flushed: { epoch: 1, seq: 7, digest: digests[7]! } });
      const before = disk.journal.length;
      await port.cut(target);
      await host.close();
      for (let at = before; at <= disk.journal.length; at++) {
        const lives: [string, RecordingDisk][] = choices.map(([name, choice]) => [
          name,
          disk.afterPowerCut(at, choice(at)),
        ]);
        for (const [name, crashed] of [...lives, ['killed', disk.afterKill(at, 100)] as [string, RecordingDisk]]) {
          const { status, port: next } = await recovered(crashed);
          const where = `cut(${target}), crash at ${at}, ${name}`;
          expect(status.damage, where).toBeNull();
          expect(status.end.seq, where).toBeGreaterThanOrEqual(target);
          expect(status.end.digest, where).toBe(digests[status.end.seq]);
          if (at === disk.journal.length) expect(status.end.seq, where).toBe(target);
          await next.cut(target);
          expect((await next.segments()).at(-1)?.lastSeq ?? 0, where).toBe(target);
        }
      }
    }
  }, 20_000);

  it('a clone is whole or not there after a crash at any point, and is made by a repeat', async () => {
    const { disk, host } = await freshHost();
    const { port, status } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (const frame of [maker.next(800), maker.seal(), maker.next(), maker.seal(), maker.next()]) {
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    }
    const cloneVolume = '0a000000-0000-4000-8000-0000000000c1' as VolumeId;
    const cloneReplica = '0b000000-0000-4000-8000-0000000000c1' as ReplicaId;
    const superblock = {
      ...status.superblock,
      volumeId: cloneVolume,
      replicaId: cloneReplica,
      incarnationId: '0c000000-0000-4000-8000-0000000000c1' as IncarnationId,
      flushed: { epoch: 1, seq: 4, digest: 'ab'.repeat(16) },
    };
    const order = { superblock, segments: [1, 2].map((ordinal) => ({ epoch: 1, ordinal })) };
    const before = disk.journal.length;
    await port.clone(order);
    await host.close();
    let whole = 0;
    for (let at = before; at <= disk.journal.length; at++) {
      for (const [name, choice] of choices) {
        const crashed = disk.afterPowerCut(at, choice(at));
        const { host: next, pool } = await openHost(crashed);
        const where = `crash at ${at}, ${name}`;
        expect(
          crashed.list(pool.replicasPath).filter((entry) => entry.startsWith('.tmp-')),
          where,
        ).toEqual([]);
        const there = crashed.stat(pool.replicaPath(cloneVolume)) !== undefined;
        if (at === disk.journal.length) expect(there, where).toBe(true);
        if (there) whole++;
        else {
          const source = await localPort(next, reignOf(2));
          if (source.status.end.seq < 4) continue;
          await source.port.clone(order);
        }
        const clone = await next.localPort(cloneVolume, cloneReplica);
        clone.listen({ appended: () => {}, lost: () => {} });
        const found = await clone.fence(reignOf(3));
        expect([found.end.seq, found.damage], where).toEqual([4, null]);
      }
    }
    expect(whole).toBeGreaterThan(0);
  }, 20_000);

  it('a retired replica is whole or gone after a crash at any point, and its rests go at the next start', async () => {
    const { disk, host } = await freshHost();
    const { port, status } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const frame = maker.next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(port);
    await port.describe({ flushed: { epoch: 1, seq: 1, digest: frame.digest } });
    const before = disk.journal.length;
    await host.retire(retireOrder({ replicaId: status.superblock.replicaId }));
    for (let at = before; at <= disk.journal.length; at++) {
      for (const [name, choice] of choices) {
        const crashed = disk.afterPowerCut(at, choice(at));
        const { host: next, pool } = await openHost(crashed);
        const where = `crash at ${at}, ${name}`;
        expect(crashed.list(pool.trashPath), where).toEqual([]);
        if (crashed.stat(pool.replicaPath(volumeA)) === undefined) continue;
        expect(at, where).toBeLessThan(disk.journal.length);
        expect((await localPort(next, reignOf(2))).status.end.seq, where).toBe(1);
      }
    }
  });

  it('fails for good when the sync behind a torn tail that was cut off fails', async () => {
    const { disk, host, pool } = await freshHost();
    const { port, heard } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const first = maker.next(500);
    port.append(first.segment, first.offset, first.bytes, first.lastSeq);
    await synced(port);
    disk.failWrite = { after: 0, errno: 'ENOSPC', keepBytes: 100 };
    const torn = maker.next(500);
    port.append(torn.segment, torn.offset, torn.bytes, torn.lastSeq);
    disk.failWrite = null;
    expect(heard.lost).toMatchObject({ reason: 'NoSpace' });
    disk.failSync = { after: 0, errno: 'EIO' };
    await expect(localPort(host, reignOf(1))).rejects.toMatchObject({ reason: 'DiskFailed' });
    disk.failSync = null;
    // Neither tried again here nor by the next process.
    await expect(localPort(host, reignOf(1))).rejects.toMatchObject({ reason: 'DiskFailed' });
    await host.close();
    pool.close();
    const again = await openHost(disk.afterKill(disk.journal.length));
    await expect(localPort(again.host, reignOf(1))).rejects.toMatchObject({ reason: 'DiskFailed' });
  });
});
