import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { segmentFileName } from '../../../src/format/index.js';
import { nativeBinding } from '../../../src/hotpath/index.js';
import { NodeDisk } from '../../../src/segment/index.js';
import { UNREAD_SEGMENTS } from '../../../src/segment/limits.js';
import { FrameMaker, reignOf, volumeA } from '../../lib/frame-maker.js';
import { fenced, freshHost, localPort, openHost, readBytes, replicaA, synced } from '../../lib/replica-setup.js';

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

  it('gives up the page cache of what was sealed and synced for an engine elsewhere, while it reads nothing', async () => {
    const { disk, host } = await freshHost();
    const maker = new FrameMaker(reignOf(1));
    const use = async (engineElsewhere: boolean) => {
      const { port } = await fenced(await host.localPort(volumeA, replicaA, engineElsewhere), reignOf(1));
      const sealOne = async () => {
        for (const frame of [maker.next(), maker.seal()])
          port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
        await turn();
        await turn();
        return disk.dropped.splice(0);
      };
      return { port, sealOne };
    };
    const here = await use(false);
    expect(await here.sealOne()).toEqual([]);
    const elsewhere = await use(true);
    disk.holdSyncs = true;
    expect(await elsewhere.sealOne()).toEqual([]);
    disk.releaseSyncs();
    disk.holdSyncs = false;
    await turn();
    await turn();
    const second = segmentFileName({ epoch: 1, ordinal: 2 });
    expect(disk.dropped.splice(0)).toEqual([second]);
    // A segment that is synced and goes on, and one that is read now and then, stay.
    const open = maker.next();
    elsewhere.port.append(open.segment, open.offset, open.bytes, open.lastSeq);
    await synced(elsewhere.port);
    expect(disk.dropped).toEqual([]);
    await readBytes(elsewhere.port, open.segment, open.offset, open.bytes.length);
    for (let i = 0; i < UNREAD_SEGMENTS; i++) expect(await elsewhere.sealOne()).toEqual([]);
    expect(await elsewhere.sealOne()).toHaveLength(1);
    const back = await use(false);
    expect(await back.sealOne()).toEqual([]);
  });
});

it.skipIf(nativeBinding() === null || spawnSync('fincore', ['--version']).error !== undefined)(
  'takes pages that are on the disk out of the page cache, and no others',
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'drop-'));
    const file = new NodeDisk().openFile(join(directory, 'file'), 'create');
    const cached = () => Number(execFileSync('fincore', ['-b', '-n', '-o', 'res', file.path], { encoding: 'utf8' }));
    try {
      file.write([Buffer.alloc(256 << 10, 7)], 0);
      await new Promise<void>((resolve, reject) => file.datasync((error) => (error ? reject(error) : resolve())));
      file.write([Buffer.alloc(64 << 10, 8)], 1 << 20);
      expect(cached()).toBe(320 << 10);
      file.dropCached();
      await expect.poll(cached).toBeLessThanOrEqual(64 << 10);
      const read = Buffer.alloc(64 << 10);
      for (const [at, byte] of [
        [0, 7],
        [192 << 10, 7],
        [1 << 20, 8],
      ] as const) {
        expect(file.read(read, at)).toBe(read.length);
        expect(read.every((one) => one === byte)).toBe(true);
      }
    } finally {
      file.close();
      rmSync(directory, { recursive: true, force: true });
    }
  },
);
