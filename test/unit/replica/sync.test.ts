import { describe, expect, it } from 'vitest';
import { FrameMaker, reignOf } from '../../lib/frame-maker.js';
import { freshHost, localPort, openHost } from '../../lib/replica-setup.js';

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('sync', () => {
  it('serves all who wait with one sync, those who come meanwhile with the next', async () => {
    const { disk, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const done: string[] = [];
    const append = () => {
      const frame = maker.next();
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    };
    append();
    await turn();
    const before = disk.syncs;
    disk.holdSyncs = true;
    for (const name of ['a', 'b', 'c']) port.sync(1, () => done.push(name));
    await turn();
    expect(disk.syncs - before).toBe(2); // The file and its directory.
    append();
    port.sync(2, () => done.push('d'));
    port.sync(1, () => done.push('e'));
    port.sync(2, () => done.push('f'));
    await turn();
    expect([disk.syncs - before, done]).toEqual([2, []]);
    disk.releaseSyncs();
    await turn();
    expect([disk.syncs - before, done]).toEqual([3, ['a', 'b', 'c', 'e']]);
    disk.releaseSyncs();
    await turn();
    expect(done).toEqual(['a', 'b', 'c', 'e', 'd', 'f']);
    port.sync(2, () => done.push('at once'));
    expect(done.at(-1)).toBe('at once');
    expect(disk.syncs - before).toBe(3);
  });

  it('syncs what a former process only wrote', async () => {
    const { disk, host, pool } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    for (const frame of [maker.next(), maker.next(800)])
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    await host.close();
    pool.close();
    const again = await openHost(disk);
    const next = await localPort(again.host, reignOf(2));
    await new Promise<void>((resolve, reject) => next.port.sync(2, (error) => (error ? reject(error) : resolve())));
    const cut = disk.afterPowerCut(disk.journal.length, () => false);
    expect((await localPort((await openHost(cut)).host, reignOf(3))).status.end.seq).toBe(2);
  });

  it('starts by itself after 8 MiB, and when a segment is sealed', async () => {
    const { disk, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const append = (size: number) => {
      const frame = size === 0 ? maker.seal() : maker.next(size);
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    };
    append(3 << 20);
    append(3 << 20);
    await turn();
    const before = disk.syncs;
    append(3 << 20);
    await turn();
    expect(disk.syncs).toBeGreaterThan(before);
    const sealed = disk.syncs;
    append(0);
    await turn();
    expect(disk.syncs).toBe(sealed + 1);
    append(100);
    await turn();
    expect(disk.syncs).toBe(sealed + 1);
  });

  it('writes frames that arrived together with one write per segment', async () => {
    const { disk, host } = await freshHost();
    const { port, heard } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    await turn();
    const before = disk.writes;
    port.appendBatch([maker.next(), maker.next(), maker.seal(), maker.next(), maker.next()]);
    // Two of the log, and those of the superblock that notes the page cache, if they came.
    expect(disk.writes - before).toBe(2);
    expect(heard).toMatchObject({ appended: 5, acks: 1 });
  });

  it('has write-back of a stream started every MiB, and not of what is being synced', async () => {
    const { disk, host } = await freshHost();
    const { port } = await localPort(host, reignOf(1));
    const maker = new FrameMaker(reignOf(1));
    const append = (size: number) => {
      const frame = maker.next(size);
      port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
    };
    for (let i = 0; i < 24; i++) append(128 << 10);
    expect(disk.writeBacks).toBe(3);
    for (let i = 0; i < 24; i++) {
      append(128 << 10);
      await new Promise<void>((resolve) => port.sync(maker.seq, () => resolve()));
    }
    expect(disk.writeBacks).toBe(3);
  });
});
