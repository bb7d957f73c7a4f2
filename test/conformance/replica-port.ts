// What every ReplicaPort must do, whether the replica stands in the same worker or behind a socket.

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import {
  type HoldfastError,
  type IncarnationId,
  type NodeId,
  type PoolId,
  type ReplicaId,
  type VolumeId,
  zeroUuid,
} from '../../src/base/index.js';
import { FRAME_HEADER_SIZE, type Reign, SEGMENT_HEADER_SIZE, type Superblock } from '../../src/format/index.js';
import type { ReplicaPort } from '../../src/wire/index.js';
import { FrameMaker, type MadeFrame, reignOf } from '../lib/frame-maker.js';
import type { RecordingDisk } from '../lib/recording-disk.js';
import { fenced, nodeA, readBytes, replicaA, synced } from '../lib/replica-setup.js';

export interface PortRig {
  readonly disk: RecordingDisk;
  /** A new port to the one replica of the rig. */
  connect(): Promise<ReplicaPort>;
  /** Reigns for which the host was told to stop an engine. */
  readonly stopped: Reign[];
  /** What the hook answers. */
  engineRan: boolean;
  /** Resolves when what was sent so far has arrived and was answered. */
  settle(): Promise<void>;
  close(): Promise<void>;
}

function appendAll(port: ReplicaPort, frames: readonly MadeFrame[]): void {
  for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
}

async function failure(promise: Promise<unknown>): Promise<HoldfastError> {
  try {
    await promise;
  } catch (error) {
    return error as HoldfastError;
  }
  throw new Error('it did not fail');
}

export function replicaPortConformance(name: string, makeRig: () => Promise<PortRig>): void {
  describe(`replica port: ${name}`, () => {
    let rig: PortRig;
    beforeEach(async () => {
      rig = await makeRig();
    });
    afterEach(async () => {
      await rig.close();
    });
    const confirm = (port: ReplicaPort) =>
      new Promise<void>((resolve, reject) => port.confirm((error) => (error ? reject(error) : resolve())));

    it('answers a fence with what it holds, and promises durably', async () => {
      const { port, status } = await fenced(await rig.connect(), reignOf(3));
      expect([port.replicaId, port.nodeId]).toEqual([replicaA, nodeA]);
      expect(status.end).toEqual({ epoch: 0, seq: 0, digest: '0'.repeat(32) });
      expect(status.superblock.promised).toEqual(reignOf(3));
      expect([status.cacheSurvived, status.damage, status.flushedThrough, status.stoppedEngine]).toEqual([
        true,
        null,
        0,
        false,
      ]);
      expect(port.freeBytes()).toBeGreaterThan(0);
      expect((await port.fence(reignOf(3))).superblock.promised).toEqual(reignOf(3));
    });

    it('appends, acknowledges cumulatively, lists and reads back the same bytes', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const frames = [
        maker.next(),
        maker.next(100_000),
        maker.next(3_000_000),
        maker.next(),
        maker.seal(),
        maker.next(50),
      ];
      appendAll(port, frames);
      await vi.waitFor(() => expect(heard).toMatchObject({ appended: 6, lost: null }), 5000);
      const segments = await port.segments();
      expect(segments.map(({ ordinal, firstSeq, lastSeq, sealed }) => [ordinal, firstSeq, lastSeq, sealed])).toEqual([
        [1, 1, 5, true],
        [2, 6, 6, false],
      ]);
      expect(segments[1]!.lastDigest).toBe(frames[5]!.digest);
      const listed = await port.frames(segments[0]!);
      expect(listed.map((frame) => frame.digest)).toEqual(frames.slice(0, 5).map((frame) => frame.digest));
      for (const [i, frame] of listed.entries()) {
        const bytes = await readBytes(port, segments[0]!, frame.offset, frame.length);
        expect(bytes.equals(frames[i]!.bytes.subarray(i === 0 ? SEGMENT_HEADER_SIZE : 0))).toBe(true);
      }
      await synced(port);
    });

    it('reads many ranges in one call, and none when one is bad', async () => {
      const { port } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const frame = maker.next(5_000_000 / 2);
      appendAll(port, [frame]);
      await synced(port);
      const file = frame.bytes;
      const ranges = Array.from({ length: 1500 }, (_, i) => ({
        segment: frame.segment,
        offset: i * 64,
        into: Buffer.alloc(64),
      }));
      ranges.push({ segment: frame.segment, offset: 0, into: Buffer.alloc(file.length) });
      await new Promise<void>((resolve, reject) => port.read(ranges, (error) => (error ? reject(error) : resolve())));
      for (const range of ranges)
        expect(range.into.equals(file.subarray(range.offset, range.offset + range.into.length))).toBe(true);
      expect((await failure(readBytes(port, frame.segment, file.length - 8, 9))).code).toBe('OUT_OF_RANGE');
      expect((await failure(readBytes(port, { epoch: 9, ordinal: 9 }, 0, 9))).code).toBe('NOT_FOUND');
      await confirm(port);
    });

    it('refuses a lower reign, and an equal epoch under another id', async () => {
      await fenced(await rig.connect(), reignOf(5));
      for (const reign of [reignOf(4), reignOf(5, 1)]) {
        const port = await rig.connect();
        const error = await failure(fenced(port, reign));
        expect([error.code, error.reason]).toEqual(['ABORTED', 'StaleReign']);
        expect((await failure(port.segments())).reason).toBe('StaleReign');
      }
    });

    it('loses the port of a lower reign at a higher fence: no append, read, sync, cut or confirm of it counts', async () => {
      const old = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      appendAll(old.port, [maker.next(), maker.next()]);
      await rig.settle();
      rig.engineRan = true;
      const next = await fenced(await rig.connect(), reignOf(2));
      expect(next.status.end.seq).toBe(2);
      expect(next.status.stoppedEngine).toBe(true);
      expect(rig.stopped).toContainEqual(reignOf(2));
      appendAll(old.port, [maker.next()]);
      await vi.waitFor(() => expect(old.heard).toMatchObject({ appended: 2 }), 5000);
      expect((old.heard.lost as HoldfastError).reason).toBe('StaleReign');
      expect((await failure(synced(old.port))).reason).toBe('StaleReign');
      expect((await failure(readBytes(old.port, maker.segment, 0, 10))).reason).toBe('StaleReign');
      expect((await failure(confirm(old.port))).reason).toBe('StaleReign');
      expect((await failure(old.port.cut(0))).reason).toBe('StaleReign');
      expect((await failure(old.port.describe({ sizeBytes: 1 }))).reason).toBe('StaleReign');
      expect((await next.port.segments())[0]!.lastSeq).toBe(2);
      expect(next.heard.lost).toBeNull();
    });

    it('replaces the connection of the same reign', async () => {
      const old = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const [first, second, third] = [maker.next(), maker.next(), maker.next()];
      appendAll(old.port, [first]);
      await rig.settle();
      const again = await fenced(await rig.connect(), reignOf(1));
      expect(again.status.end.digest).toBe(first.digest);
      appendAll(again.port, [second]);
      appendAll(old.port, [second, third]);
      await rig.settle();
      await vi.waitFor(() => expect(old.heard.lost).not.toBeNull());
      expect((old.heard.lost as unknown as HoldfastError).reason).not.toBe('StaleReign');
      expect(again.heard).toMatchObject({ appended: 2, lost: null });
      appendAll(again.port, [third]);
      await vi.waitFor(() => expect(again.heard.appended).toBe(3), 5000);
    });

    it('is lost at the first frame that does not continue the log, and keeps what came before', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const frames = [maker.next(), maker.next(), maker.next(), maker.next()];
      appendAll(port, [frames[0]!, frames[1]!, frames[3]!]);
      await vi.waitFor(() => expect(heard.appended).toBe(2), 5000);
      expect(heard.lost?.message).toMatch(/offset/);
      const again = await fenced(await rig.connect(), reignOf(1));
      expect(again.status.end.seq).toBe(2);
      appendAll(again.port, [frames[2]!, frames[3]!]);
      await vi.waitFor(() => expect(again.heard).toMatchObject({ appended: 4, lost: null }), 5000);
    });

    it('keeps the order of appends, cut and sync', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      appendAll(port, [maker.next(), maker.next()]);
      const fork = maker.fork(reignOf(1));
      appendAll(port, [maker.next(), maker.next(), maker.seal(), maker.next()]);
      const cut = port.cut(2);
      const other = fork.next(777);
      appendAll(port, [other]);
      await synced(port, 3);
      await cut;
      await vi.waitFor(() => expect(heard).toMatchObject({ appended: 3, lost: null }), 5000);
      const segments = await port.segments();
      expect(segments.map(({ ordinal, lastSeq }) => [ordinal, lastSeq])).toEqual([
        [1, 2],
        [2, 3],
      ]);
      expect(segments[1]!.lastDigest).toBe(other.digest);
    });

    it('keeps what it is told to describe', async () => {
      const { port, status } = await fenced(await rig.connect(), reignOf(2));
      const maker = new FrameMaker(reignOf(2));
      const frame = maker.next();
      appendAll(port, [frame]);
      const place = (seq: number) => ({
        coveredThrough: seq,
        segment: frame.segment,
        frameOffset: 4096,
        replayFrom: { segment: frame.segment, offset: 4096 },
      });
      await port.describe({
        sizeBytes: 2 ** 31,
        wrappedKey: { cipher: 'c', wrappedBy: 'w', blob: 'b' },
        addReign: reignOf(2),
        parameters: { minReplicas: '2' },
        setVersion: 7,
        checkpoint: place(0),
      });
      await port.describe({ checkpoint: place(1), flushed: { epoch: 2, seq: 1, digest: frame.digest } });
      await port.describe({ addReign: reignOf(2), joining: true });
      const { superblock, flushedThrough } = (await fenced(await rig.connect(), reignOf(3))).status;
      expect(superblock).toMatchObject({
        sizeBytes: 2 ** 31,
        wrappedKey: { cipher: 'c', wrappedBy: 'w', blob: 'b' },
        reigns: [reignOf(2)],
        parameters: { ...status.superblock.parameters, minReplicas: '2' },
        setVersion: 7,
        checkpoint: place(1),
        previousCheckpoint: place(0),
        flushed: { seq: 1 },
        joining: true,
      });
      expect(flushedThrough).toBe(1);
    });

    it('lets a joiner skip dropped segments, and nobody else', async () => {
      const { port } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      appendAll(port, [maker.next(), maker.seal()]);
      const dropped = [maker.next(), maker.seal()];
      expect(dropped[1]!.lastSeq).toBe(4);
      const later = maker.next();
      const described = port.describe({ joining: true });
      appendAll(port, [later]);
      await described;
      await rig.settle();
      expect((await port.segments()).map((segment) => segment.lastSeq)).toEqual([2, 5]);
      maker.seal();
      maker.next();
      await port.deleteSegments([{ epoch: 1, ordinal: 1 }]);
      await port.describe({ joining: false });
      const seventh = maker.seal();
      appendAll(port, [{ ...seventh, offset: seventh.offset }]);
      await rig.settle();
      expect((await failure(confirm(port))).message).toMatch(/segment|offset|seq/);
    });

    it('deletes segments that are known durable, never the end, never others', async () => {
      const { port } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      appendAll(port, [maker.next(), maker.seal(), maker.next(), maker.seal(), maker.next()]);
      expect((await failure(port.deleteSegments([{ epoch: 1, ordinal: 1 }]))).code).toBe('FAILED_PRECONDITION');
      await port.describe({ flushed: { epoch: 1, seq: 5, digest: 'ab'.repeat(16) } });
      await port.deleteSegments([
        { epoch: 1, ordinal: 1 },
        { epoch: 1, ordinal: 77 },
      ]);
      expect((await failure(port.deleteSegments([{ epoch: 1, ordinal: 3 }]))).code).toBe('INVALID_ARGUMENT');
      expect((await port.segments()).map((segment) => segment.ordinal)).toEqual([2, 3]);
      expect(
        (await failure(port.deleteSegments([{ epoch: 1, ordinal: 2 }].concat({ epoch: 1, ordinal: 3 })))).code,
      ).toBe('INVALID_ARGUMENT');
    });

    it('repairs damaged bytes in place and leaves good ones alone', async () => {
      const { port } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const frames = [maker.next(2000), maker.next(2000), maker.seal()];
      appendAll(port, frames);
      await rig.settle();
      const file = `/pool/replicas/${(await port.fence(reignOf(1))).superblock.volumeId}/000000000001-00000001.seg`;
      const at = frames[1]!.offset + FRAME_HEADER_SIZE + 100;
      const before = rig.disk.contents(file);
      const good = before.subarray(at, at + 64);
      expect((await failure(port.repair(maker.segment, at, Buffer.alloc(64, 9)))).code).toBe('FAILED_PRECONDITION');
      rig.disk.flipBit(file, at + 5, 3);
      expect((await readBytes(port, maker.segment, at, 64)).equals(good)).toBe(false);
      await port.repair(maker.segment, at, good);
      expect(rig.disk.contents(file).equals(before)).toBe(true);
    });

    it('clones by links, again without harm, and the clone stands alone', async () => {
      const { port, status } = await fenced(await rig.connect(), reignOf(4));
      const maker = new FrameMaker(reignOf(4));
      appendAll(port, [maker.next(), maker.seal(), maker.next()]);
      await synced(port);
      const newVolume = '0a000000-0000-4000-8000-0000000000ff' as VolumeId;
      const superblock: Superblock = {
        ...status.superblock,
        volumeId: newVolume,
        replicaId: '0b000000-0000-4000-8000-0000000000ff' as ReplicaId,
        incarnationId: '0c000000-0000-4000-8000-0000000000ff' as IncarnationId,
        poolId: zeroUuid as PoolId,
        nodeId: 'elsewhere' as NodeId,
        promised: reignOf(1),
        flushed: { epoch: 4, seq: 2, digest: 'ab'.repeat(16) },
      };
      expect((await failure(port.clone({ superblock, segments: [{ epoch: 4, ordinal: 2 }] }))).code).toBe(
        'FAILED_PRECONDITION',
      );
      await port.clone({ superblock, segments: [{ epoch: 4, ordinal: 1 }] });
      await port.clone({ superblock, segments: [{ epoch: 4, ordinal: 1 }] });
      const other = { ...superblock, replicaId: replicaA };
      expect((await failure(port.clone({ superblock: other, segments: [] }))).code).toBe('ALREADY_EXISTS');
      const usage = await port.usage();
      expect(usage.sharedBytes).toBeGreaterThan(0);
      expect(usage.storedBytes).toBeGreaterThan(usage.sharedBytes);
      const file = (volume: string) => `/pool/replicas/${volume}/000000000004-00000001.seg`;
      expect(rig.disk.stat(file(newVolume))?.links).toBe(2);
      await port.cut(1);
      expect(rig.disk.stat(file(newVolume))?.links).toBe(1);
      expect(rig.disk.stat(file(newVolume))!.sizeBytes).toBeGreaterThan(
        rig.disk.stat(file(status.superblock.volumeId))!.sizeBytes,
      );
    });

    it('is lost when the disk is full, and goes on later where it ended', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      const frames = [maker.next(), maker.next(9000), maker.next()];
      appendAll(port, [frames[0]!]);
      await rig.settle();
      rig.disk.failWrite = { after: 0, errno: 'ENOSPC', keepBytes: 5000 };
      appendAll(port, [frames[1]!]);
      await vi.waitFor(() => expect((heard.lost as HoldfastError | null)?.reason).toBe('NoSpace'), 5000);
      expect(heard.appended).toBe(1);
      rig.disk.failWrite = null;
      const again = await fenced(await rig.connect(), reignOf(1));
      expect(again.status.end.seq).toBe(1);
      appendAll(again.port, [frames[1]!, frames[2]!]);
      await vi.waitFor(() => expect(again.heard).toMatchObject({ appended: 3, lost: null }), 5000);
    });

    it('fails for good when a sync fails', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      const maker = new FrameMaker(reignOf(1));
      appendAll(port, [maker.next()]);
      rig.disk.failSync = { after: 0, errno: 'EIO' };
      expect((await failure(synced(port))).reason).toBe('DiskFailed');
      rig.disk.failSync = null;
      await vi.waitFor(() => expect((heard.lost as HoldfastError | null)?.reason).toBe('DiskFailed'), 5000);
      expect((await failure(fenced(await rig.connect(), reignOf(2)))).reason).toBe('DiskFailed');
    });

    it('does nothing before a fence', async () => {
      const port = await rig.connect();
      expect((await failure(port.segments())).code).toBe('FAILED_PRECONDITION');
      expect((await failure(port.usage())).message).toMatch(/fence|Closed|closed/);
      const next = await rig.connect();
      next.listen({ appended: () => expect.unreachable(), lost: () => {} });
      appendAll(next, [new FrameMaker(reignOf(1)).next()]);
      await rig.settle();
      expect((await fenced(await rig.connect(), reignOf(1))).status.end.seq).toBe(0);
    });

    it('answers nothing after close', async () => {
      const { port, heard } = await fenced(await rig.connect(), reignOf(1));
      port.close();
      port.close();
      expect((await failure(synced(port))).reason).toBe('Closed');
      expect((await failure(port.usage())).reason).toBe('Closed');
      expect(heard.lost).toBeNull();
      const again = await fenced(await rig.connect(), reignOf(1));
      expect(again.status.end.seq).toBe(0);
    });
  });
}
