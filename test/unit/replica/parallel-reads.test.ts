// Reads of a log that are under way while its files are closed, deleted, or taken from the port.

import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { segmentFileName } from '../../../src/format/index.js';
import { HandleCache, type LogRange, NodeDisk, SegmentLog } from '../../../src/segment/index.js';
import { FrameMaker, type MadeFrame, reignOf } from '../../lib/frame-maker.js';
import { freshHost, localPort, synced } from '../../lib/replica-setup.js';

/** One frame and the seal for each of `count` segments. */
function segments(count: number): MadeFrame[] {
  const maker = new FrameMaker(reignOf(1));
  const next = () => {
    // What came before is durable everywhere, and may be deleted.
    maker.flushedThrough = maker.seq;
    return [maker.next(), maker.seal()];
  };
  return Array.from({ length: count }, next).flat();
}

function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

const wholeOf = (frame: MadeFrame): LogRange & { into: Buffer } => ({
  segment: frame.segment,
  offset: frame.offset,
  into: Buffer.alloc(frame.bytes.length),
});

it('reads more files in one call than are kept open, each from its own', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'parallel-reads-'));
  const frames = segments(12);
  for (let i = 0; i < frames.length; i += 2)
    writeFileSync(
      join(directory, segmentFileName(frames[i]!.segment)),
      Buffer.concat([frames[i]!.bytes, frames[i + 1]!.bytes]),
    );
  const handles = new HandleCache(3);
  const evidence = { joining: false, cacheSurvived: true, flushedSeq: 0, checkpointSeq: 0 };
  const { log } = await SegmentLog.open(new NodeDisk(), directory, handles, evidence, () => true);
  await log.sync.all();
  const open = () => readdirSync('/proc/self/fd').filter((fd) => linkOf(fd).startsWith(directory)).length;
  const firsts = frames.filter((_, i) => i % 2 === 0);
  for (let round = 0; round < 3; round++) {
    const ranges = firsts.map(wholeOf);
    const told = await new Promise<unknown>((resolve) => log.read(ranges, (error, rows) => resolve([error, rows])));
    expect(told).toEqual([null, null]);
    for (const [i, range] of ranges.entries()) expect(range.into.equals(firsts[i]!.bytes)).toBe(true);
    expect([handles.size, open()]).toEqual([3, 3]);
  }
  await log.close();
  expect(open()).toBe(0);
  rmSync(directory, { recursive: true });
});

async function slowPort(count: number) {
  const { disk, host } = await freshHost();
  const { port, heard } = await localPort(host, reignOf(1));
  const frames = segments(count);
  for (const frame of frames) port.append(frame.segment, frame.offset, frame.bytes, frame.lastSeq);
  await synced(port);
  const waiting: (() => void)[] = [];
  disk.readDelay = () => new Promise((resolve) => waiting.push(resolve));
  const release = () => {
    for (const resume of waiting.splice(0)) resume();
  };
  return { disk, host, port, heard, frames, waiting, release };
}

it('ends reads of segments that were deleted meanwhile as if they were there', async () => {
  const { port, frames, waiting, release } = await slowPort(3);
  const ranges = [frames[0]!, frames[2]!].map(wholeOf);
  const ends: unknown[] = [];
  port.readParts(ranges, (error, which) => ends.push([error, which]));
  expect(waiting.length).toBe(2);
  await port.deleteSegments([frames[0]!.segment, frames[2]!.segment]);
  expect((await port.segments()).length).toBe(1);
  release();
  await new Promise((resolve) => setImmediate(resolve));
  expect(ends).toEqual([
    [null, [0]],
    [null, [1]],
  ]);
  expect(ranges.map(({ into }) => into)).toEqual([frames[0]!.bytes, frames[2]!.bytes]);
});

it('does not fail a read for another that can not be had, and tells the whole once, at its end', async () => {
  const { disk, port, frames, waiting, release } = await slowPort(2);
  const ranges = [frames[0]!, frames[2]!].map(wholeOf);
  const ends: unknown[] = [];
  port.readParts(ranges, (error, which) => ends.push([error?.message ?? null, which]));
  const whole: unknown[] = [];
  port.read(ranges, (error) => whole.push(error?.message ?? null));
  disk.failRead = { path: segmentFileName(frames[2]!.segment), errno: 'EIO' };
  waiting.splice(0, 1)[0]!();
  await new Promise((resolve) => setImmediate(resolve));
  expect([ends, whole]).toEqual([[[null, [0]]], []]);
  release();
  await new Promise((resolve) => setImmediate(resolve));
  const eio = expect.stringContaining('EIO');
  expect(ends).toEqual([
    [null, [0]],
    [eio, [1]],
  ]);
  expect(whole).toEqual([eio]);
});

it('gives nothing to a port that was deposed meanwhile, and not before its memory is its own again', async () => {
  const { host, port, heard, frames, waiting, release } = await slowPort(2);
  const ends: unknown[] = [];
  port.read([wholeOf(frames[0]!)], (error) => ends.push((error as { reason?: string } | null)?.reason));
  const next = await localPort(host, reignOf(2));
  expect(heard.lost).not.toBeNull();
  expect([waiting.length, ends]).toEqual([1, []]);
  release();
  await new Promise((resolve) => setImmediate(resolve));
  expect(ends).toEqual(['StaleReign']);
  next.port.close();
});
