import { describe, expect, it } from 'vitest';
import {
  type HoldfastError,
  type IncarnationId,
  type ReplicaId,
  realClock,
  realRandom,
  silentLogger,
  type VolumeId,
} from '../../../src/base/index.js';
import { ReplicaHost } from '../../../src/replica/index.js';
import { Pool } from '../../../src/segment/index.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { dropAll, RecordingDisk } from '../../lib/recording-disk.js';
import {
  createOrder,
  freshHost,
  localPort,
  nodeA,
  openHost,
  replicaA,
  retireOrder,
  synced,
} from '../../lib/replica-setup.js';

const volumeB = '0a000000-0000-4000-8000-0000000000b2' as VolumeId;

async function failure(promise: Promise<unknown>): Promise<HoldfastError> {
  return await promise.then(
    () => Promise.reject(new Error('it did not fail')),
    (error) => error,
  );
}

describe('replica host', () => {
  it('formats once per incarnation and never over another replica', async () => {
    const { pool, host, disk } = await freshHost();
    const before = disk.journal.length;
    await host.create(createOrder(pool));
    expect(disk.journal.slice(before).every((change) => change.op === 'sync')).toBe(true);
    const other = createOrder(pool, { incarnationId: '0c000000-0000-4000-8000-0000000000ee' as IncarnationId });
    expect((await failure(host.create(other))).code).toBe('ALREADY_EXISTS');
    expect((await failure(host.create(createOrder(pool, { sizeBytes: 0 })))).code).toBe('INVALID_ARGUMENT');
    expect((await failure(host.create(createOrder(pool, { poolId: 'x' as never })))).code).toBe('NOT_FOUND');
    expect(disk.list(pool.replicasPath)).toEqual([volumeA]);
  });

  it('marks one that joins a volume with data as not whole, from the first byte on and over a restart', async () => {
    const { pool, host, disk } = await freshHost();
    const order = { volumeId: volumeB, replicaId: '0b000000-0000-4000-8000-0000000000ef' as ReplicaId };
    await host.create(createOrder(pool, { ...order, joining: true }));
    expect(host.status(volumeB)).toMatchObject([{ joining: true, problem: '' }]);
    expect(host.status(volumeA)).toMatchObject([{ joining: false }]);
    await pool.close();
    const again = (await openHost(disk)).host;
    expect(again.status(volumeB)).toMatchObject([{ joining: true }]);
    // Repeated without the mark it keeps it: it was made only once.
    await again.create(createOrder(pool, order));
    expect(again.status(volumeB)).toMatchObject([{ joining: true }]);
  });

  it('says of one that failed that it can not be used, before anybody asks for it', async () => {
    const { pool, host, disk } = await freshHost();
    expect(host.status(volumeA)).toMatchObject([{ problem: '' }]);
    const file = disk.openFile(`${pool.replicaPath(volumeA)}/failed`, 'create');
    file.close();
    expect(host.status(volumeA)).toMatchObject([{ replicaId: replicaA, problem: expect.stringContaining('failed') }]);
  });

  it('answers a repeated order no sooner than the replica is there for good', async () => {
    const { disk, pool, host } = await freshHost();
    const order = createOrder(pool, {
      volumeId: volumeB,
      replicaId: '0b000000-0000-4000-8000-0000000000b2' as ReplicaId,
      incarnationId: '0c000000-0000-4000-8000-0000000000b2' as IncarnationId,
    });
    const path = pool.replicaPath(volumeB);
    disk.holdSyncs = true;
    const first = host.create(order);
    for (let turn = 0; disk.stat(path) === undefined && turn < 1000; turn++) {
      disk.releaseSyncs();
      await Promise.resolve();
    }
    let repeated = false;
    const second = host.create(order).then(() => {
      repeated = true;
    });
    for (let turn = 0; turn < 100; turn++) await Promise.resolve();
    expect(repeated && disk.afterPowerCut(disk.journal.length, dropAll).stat(path) === undefined).toBe(false);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await Promise.all([first, second]);
    expect(disk.afterPowerCut(disk.journal.length, dropAll).stat(path)).toBeDefined();
  });

  it('takes a wiped or foreign directory for a lost replica and makes nothing in its place', async () => {
    for (const wipe of ['directory', 'contents', 'other'] as const) {
      const { disk, pool, host } = await freshHost();
      if (wipe === 'directory') disk.wipe(pool.replicaPath(volumeA));
      if (wipe === 'contents')
        for (const name of disk.list(pool.replicaPath(volumeA)))
          await disk.unlink(`${pool.replicaPath(volumeA)}/${name}`);
      const wanted = wipe === 'other' ? ('0b000000-0000-4000-8000-0000000000ee' as ReplicaId) : replicaA;
      const before = disk.journal.length;
      expect(await failure(host.localPort(volumeA, wanted)), wipe).toMatchObject({
        code: 'NOT_FOUND',
        reason: 'ReplicaLost',
      });
      expect(await failure(host.localPort(volumeA, wanted)), wipe).toMatchObject({
        code: 'NOT_FOUND',
        reason: 'ReplicaLost',
      });
      expect(disk.journal.length, wipe).toBe(before);
    }
  });

  it('does not call a replica lost when it is the pool that is gone', async () => {
    for (const gone of ['/pool/pool.json', '/pool/replicas']) {
      const { disk, host } = await freshHost();
      disk.wipe(gone);
      if (gone === '/pool/pool.json') disk.wipe('/pool/replicas');
      expect((await failure(host.localPort(volumeA, replicaA))).reason, gone).toBe('PoolMissing');
    }
  });

  it('does not call a replica lost, nor deleted, when a pool of the node could not be opened', async () => {
    const { pool, host: former } = await freshHost();
    await former.close();
    const common = { stopEngine: async () => false, clock: realClock, logger: silentLogger };
    const unopened = [{ path: '/other', problem: 'not opened: its disk is away' }];
    const host = new ReplicaHost({ ...common, pools: [pool], unopened });
    const otherReplica = '0b000000-0000-4000-8000-0000000000ee' as ReplicaId;
    const refusal = { code: 'UNAVAILABLE', reason: 'PoolMissing' };
    expect(await failure(host.localPort(volumeB, replicaA))).toMatchObject(refusal);
    expect(await failure(host.localPort(volumeA, otherReplica))).toMatchObject(refusal);
    expect(await failure(host.retire(retireOrder({ volumeId: volumeB })))).toMatchObject(refusal);
    expect(await failure(host.retire(retireOrder({ replicaId: otherReplica })))).toMatchObject(refusal);
    expect(host.pools().map(({ path, problem }) => [path, problem])).toEqual([
      ['/pool', ''],
      ['/other', 'not opened: its disk is away'],
    ]);
    // What is in the others is served.
    expect((await localPort(host, reignOf(1))).status.end.seq).toBe(0);
    await host.retire(retireOrder());
    expect(host.status(null)).toEqual([]);
  });

  it('finds the replica that is asked for when two pools hold one of the volume', async () => {
    const disk = new RecordingDisk();
    const { pool: first, host: former } = await freshHost(disk);
    await former.close();
    disk.prepareDirectory('/second');
    await Pool.format(disk, '/second', { nodeId: nodeA, random: realRandom, clock: realClock });
    const second = await Pool.open(disk, '/second', { nodeId: nodeA, exclusive: true });
    const common = { stopEngine: async () => false, clock: realClock, logger: silentLogger };
    const newer = '0b000000-0000-4000-8000-0000000000ee' as ReplicaId;
    // Made while the first pool could not be opened.
    const unopened = [{ path: '/pool', problem: 'away' }];
    await new ReplicaHost({ ...common, pools: [second], unopened }).create(createOrder(second, { replicaId: newer }));
    const host = new ReplicaHost({ ...common, pools: [first, second] });
    expect((await host.localPort(volumeA, newer)).replicaId).toBe(newer);
    await host.retire(retireOrder());
    expect(host.status(null).map((report) => report.replicaId)).toEqual([newer]);
  });

  /** Two pools; the second one holds a replica of volume B, which is open. */
  async function twoPools() {
    const disk = new RecordingDisk();
    const { pool: first, host: former } = await freshHost(disk);
    await former.close();
    disk.prepareDirectory('/second');
    await Pool.format(disk, '/second', { nodeId: nodeA, random: realRandom, clock: realClock });
    const second = await Pool.open(disk, '/second', { nodeId: nodeA, exclusive: true });
    const common = { stopEngine: async () => false, clock: realClock, logger: silentLogger };
    const host = new ReplicaHost({ ...common, pools: [second, first] });
    const ofB = { volumeId: volumeB, replicaId: '0b000000-0000-4000-8000-0000000000ef' as ReplicaId };
    await host.create(createOrder(second, ofB));
    await host.localPort(ofB.volumeId, ofB.replicaId);
    return { disk, host, first, second, ofB };
  }

  it('tells of the other pools when one can not be read, and of what it has open in that', async () => {
    const { disk, host, first, second, ofB } = await twoPools();
    expect(host.unread()).toEqual([]);
    disk.failBelow = { path: '/second', errno: 'EIO' };
    const [open, good, ...more] = host.status(null);
    expect(more).toEqual([]);
    expect(open).toMatchObject({ ...ofB, failed: true, problem: expect.stringContaining('I/O error') });
    expect(good).toMatchObject({ replicaId: replicaA, problem: '', failed: false });
    expect(host.status(volumeA)).toEqual([good]);
    expect(host.unread()).toMatchObject([{ poolId: second.id, path: '/second', failed: true }]);
    // It neither hides the others nor keeps anything from being made beside it.
    expect((await host.localPort(volumeA, replicaA)).replicaId).toBe(replicaA);
    const next = '0b000000-0000-4000-8000-0000000000dd' as ReplicaId;
    await host.create(createOrder(first, { volumeId: volumeB, replicaId: next }));
    expect(host.status(volumeB).map(({ replicaId }) => replicaId)).toEqual([ofB.replicaId, next]);
    // Unmounted is not failed.
    disk.failBelow = null;
    disk.wipe('/second/replicas');
    expect(host.unread()).toMatchObject([{ poolId: second.id, failed: false }]);
    expect(host.status(null).find(({ poolId }) => poolId === second.id)).toMatchObject({ failed: false });
  });

  it('takes a new replica beside one whose disk failed under it, though the disk can be read', async () => {
    const { disk, host, first, second } = await twoPools();
    const { port } = await localPort(host, reignOf(1));
    const beside = createOrder(second, { replicaId: '0b000000-0000-4000-8000-0000000000dd' as ReplicaId });
    expect((await failure(host.create(beside))).code).toBe('ALREADY_EXISTS');
    const frame = new FrameMaker(reignOf(1)).next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    disk.failSync = { after: 0, errno: 'EIO' };
    expect((await failure(synced(port))).reason).toBe('DiskFailed');
    disk.failSync = null;
    await new Promise((resolve) => setImmediate(resolve));
    await host.create(beside);
    expect((await host.localPort(volumeA, beside.replicaId)).replicaId).toBe(beside.replicaId);
    expect(host.status(volumeA)).toMatchObject([
      { poolId: second.id, problem: '' },
      { poolId: first.id, failed: true },
    ]);
  });

  it('calls deleted only what was looked for in a pool that can be read', async () => {
    const { disk, host, first, second, ofB } = await twoPools();
    disk.failBelow = { path: '/second', errno: 'EIO' };
    expect((await failure(host.retire(retireOrder({ ...ofB, poolId: second.id })))).reason).toBe('DiskFailed');
    // What lies in the other one is not held up by it, nor what is not there any more.
    for (let i = 0; i < 2; i++) await host.retire(retireOrder({ poolId: first.id }));
    disk.failBelow = null;
    disk.wipe('/second/replicas');
    expect((await failure(host.retire(retireOrder({ ...ofB, poolId: second.id })))).reason).toBe('PoolMissing');
  });

  it('does not take a disk that fails to answer for once for one that failed', async () => {
    const { disk, pool, host } = await freshHost();
    for (const errno of ['EIO', 'EACCES']) {
      disk.failBelow = { path: `${pool.replicaPath(volumeA)}/failed`, errno };
      expect(host.status(volumeA), errno).toMatchObject([{ failed: false, problem: expect.stringContaining(errno) }]);
    }
  });

  it('keeps none open that was opened while it was deleted', async () => {
    const { disk, pool, host } = await freshHost();
    // Left of a deletion cut short: until it is gone the replica is still in its place.
    const grave = `${pool.trashPath}/${volumeA}-${replicaA}`;
    disk.prepareDirectory(grave);
    disk.openFile(`${grave}/old`, 'create').close();
    let late: Promise<unknown> | undefined;
    disk.onChange = () => {
      late ??= host.localPort(volumeA, replicaA).catch((error: unknown) => error);
    };
    await host.retire(retireOrder({ poolId: pool.id }));
    expect(late).toBeDefined();
    await late;
    const newer = '0b000000-0000-4000-8000-0000000000ee' as ReplicaId;
    await host.create(createOrder(pool, { replicaId: newer }));
    expect((await host.localPort(volumeA, newer)).replicaId).toBe(newer);
  });

  it('does one order after the other, also what nobody waits for any more', async () => {
    const { disk, pool, host } = await freshHost();
    const ended: string[] = [];
    const ends = (what: string, work: Promise<void>) => work.then(() => ended.push(what));
    const made = { volumeId: volumeB, replicaId: '0b000000-0000-4000-8000-0000000000ef' as ReplicaId, poolId: pool.id };
    disk.holdSyncs = true;
    const all = [
      ends('deleted', host.retire(retireOrder({ poolId: pool.id }))),
      ends('again', host.retire(retireOrder({ poolId: pool.id }))),
      ends('made', host.create(createOrder(pool, made))),
      ends('late', host.retire(retireOrder(made))),
    ];
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    expect(ended).toEqual([]);
    disk.holdSyncs = false;
    disk.releaseSyncs();
    await Promise.all(all);
    expect(ended.sort()).toEqual(['again', 'deleted', 'late', 'made']);
    expect(host.status(null)).toEqual([]);
  });

  it('refuses a replica that was copied from another pool or under another name', async () => {
    const { disk, pool, host } = await freshHost();
    disk.rename(pool.replicaPath(volumeA), pool.replicaPath(volumeB));
    expect((await failure(host.localPort(volumeB, replicaA))).message).toMatch(
      /holds a replica of volume 0a000000-0000-4000-8000-000000000001/,
    );
  });

  it('opens a replica once for callers at the same time, and serves only its own volumes', async () => {
    const { pool, host } = await freshHost();
    const ports = await Promise.all([host.localPort(volumeA, replicaA), host.localPort(volumeA, replicaA)]);
    const heard: string[] = [];
    for (const [i, port] of ports.entries()) port.listen({ appended: () => {}, lost: () => heard.push(`lost ${i}`) });
    await ports[0].fence(reignOf(1));
    await ports[1].fence(reignOf(2));
    expect(heard).toEqual(['lost 0']);
    const other = new ReplicaHost({
      pools: [pool],
      stopEngine: async () => false,
      clock: realClock,
      logger: silentLogger,
      owns: () => false,
    });
    expect((await failure(other.localPort(volumeA, replicaA).then())).message).toMatch(/another worker/);
    expect(other.status(null)).toEqual([]);
  });

  it('bounds the number of replicas', async () => {
    const { pool } = await freshHost();
    const host = new ReplicaHost({
      pools: [pool],
      stopEngine: async () => false,
      clock: realClock,
      logger: silentLogger,
      replicasMax: 1,
    });
    expect((await failure(host.create(createOrder(pool, { volumeId: volumeB })))).code).toBe('RESOURCE_EXHAUSTED');
    await host.create(createOrder(pool));
  });

  it('does not retire for a store that knows less of the volume than the replica', async () => {
    const { disk, host } = await freshHost();
    const { port, heard } = await localPort(host, reignOf(5));
    await port.describe({ setVersion: 7 });
    const refuses = async (on: ReplicaHost) => {
      for (const known of [
        { epoch: 4, setVersion: 7 },
        { epoch: 5, setVersion: 6 },
        { epoch: 0, setVersion: 0 },
      ])
        expect((await failure(on.retire(retireOrder(known)))).reason).toBe('StoreWentBack');
      expect(on.status(volumeA)).toMatchObject([{ replicaId: replicaA, promisedEpoch: 5 }]);
    };
    await refuses(host);
    expect(heard.lost).toBeNull();
    await host.close();
    // Also of one that nobody has opened since the start.
    const { host: again } = await openHost(disk.afterKill(disk.journal.length));
    await refuses(again);
    await again.retire(retireOrder({ epoch: 5, setVersion: 7 }));
    expect(again.status(null)).toEqual([]);
  });

  it('retires under an open port, twice, and leaves another replica of the volume alone', async () => {
    const { disk, pool, host } = await freshHost();
    const { port, heard } = await localPort(host, reignOf(1));
    const frame = new FrameMaker(reignOf(1)).next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await host.retire(retireOrder({ replicaId: '0b000000-0000-4000-8000-0000000000ee' as ReplicaId }));
    expect(heard.lost).toBeNull();
    await host.retire(retireOrder());
    await host.retire(retireOrder());
    expect((heard.lost as unknown as HoldfastError).reason).toBe('ReplicaLost');
    expect(disk.list(pool.replicasPath)).toEqual([]);
    expect(disk.list(pool.trashPath)).toEqual([]);
    await host.create(createOrder(pool));
    expect((await localPort(host, reignOf(1))).status.end.seq).toBe(0);
  });

  it('reports replicas open, closed and unreadable', async () => {
    const { disk, pool, host } = await freshHost();
    const { port } = await localPort(host, reignOf(7));
    const frame = new FrameMaker(reignOf(7)).next(5000);
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    const [open] = host.status(null);
    expect(open).toMatchObject({
      volumeId: volumeA,
      replicaId: replicaA,
      poolId: pool.id,
      promisedEpoch: 7,
      joining: false,
      problem: '',
      sharedBytes: 0,
    });
    expect(open!.storedBytes).toBeGreaterThan(9000);
    await host.close();
    pool.close();
    const again = await openHost(disk);
    expect(again.host.status(volumeA)).toEqual([open]);
    expect(again.host.status(volumeB)).toEqual([]);
    for (const slot of [0, 1]) disk.flipBit(`${pool.replicaPath(volumeA)}/superblock.${slot}`, 40, 1);
    expect(again.host.status(null)[0]!.problem).toMatch(/both superblocks are bad/);
    expect(again.host.pools()[0]).toMatchObject({ poolId: pool.id, problem: '' });
  });

  it('keeps a replica failed over a restart once a sync failed, until the marker is removed', async () => {
    const { disk, pool, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const frame = new FrameMaker(reignOf(1)).next();
    port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    disk.failSync = { after: 0, errno: 'EIO' };
    expect((await failure(synced(port))).reason).toBe('DiskFailed');
    disk.failSync = null;
    await new Promise((resolve) => setImmediate(resolve));
    expect((await failure(synced(port))).reason).toBe('DiskFailed');
    expect(host.status(null)[0]!.problem).toMatch(/I\/O error/);
    await host.close();
    pool.close();
    const again = await openHost(disk);
    expect(await failure(again.host.localPort(volumeA, replicaA))).toMatchObject({
      reason: 'DiskFailed',
      message: expect.stringContaining(`${volumeA}/failed`),
    });
    await disk.unlink(`${pool.replicaPath(volumeA)}/failed`);
    expect((await localPort(again.host, reignOf(2))).status.end.seq).toBe(1);
  });

  it('reports damage at rest with its place, appends nothing to it, and is whole again after a cut', async () => {
    const { disk, pool, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const frames = [maker.next(), maker.next(2000), maker.next()];
    for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await synced(port);
    await port.describe({ flushed: { epoch: 1, seq: 3, digest: frames[2]!.digest } });
    await host.close();
    pool.close();
    const file = `${pool.replicaPath(volumeA)}/000000000001-00000001.seg`;
    disk.flipBit(file, frames[1]!.offset + 300, 2);
    const again = await openHost(disk);
    const { port: next, status, heard } = await localPort(again.host, reignOf(2));
    expect(status).toMatchObject({
      end: { seq: 1, digest: frames[0]!.digest },
      damage: expect.stringMatching(/000000000001-00000001\.seg, offset \d+: bad frame \(body-checksum\).*case H/),
    });
    expect((await failure(next.cut(2))).code).toBe('FAILED_PRECONDITION');
    await next.cut(1);
    next.append(frames[1]!.segment, frames[1]!.offset, frames[1]!.bytes, 2);
    next.append(frames[2]!.segment, frames[2]!.offset, frames[2]!.bytes, 3);
    expect(heard).toMatchObject({ appended: 3, lost: null });
    expect((await localPort(again.host, reignOf(3))).status.damage).toBeNull();
  });
});
