// Members of the in-sync set that have lost the newest file of their log, with the page cache as it was: nothing of what they still
// hold contradicts itself, and yet what they acknowledged is gone. The volume waits for one that has it.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { type ReignId, realRandom } from '../../../src/base/index.js';
import {
  decodeFrame,
  FRAME_HEADER_SIZE,
  parseSegmentFileName,
  SEGMENT_HEADER_SIZE,
} from '../../../src/format/index.js';
import { DiskRig } from '../../lib/disk-rig.js';
import { eventually, read, rigVolume, write } from '../../lib/engine-rig.js';

type Node = DiskRig['nodes'][0];
const MiB = 1024 * 1024;

async function loseNewest(node: Node): Promise<void> {
  await node.restart((disk) => {
    const next = disk.afterKill(disk.journal.length);
    next.wipe(`${node.directory}/${node.segmentFiles().at(-1)!}`);
    return next;
  });
}

async function filled(rig: DiskRig, from: number, count: number): Promise<Buffer> {
  const engine = await rig.open();
  const data = randomBytes(count * MiB);
  for (let i = 0; i < count; i++) await write(engine, (from + i) * MiB, data.subarray(i * MiB, (i + 1) * MiB));
  engine.depose('test');
  return data;
}

describe('a volume whose members have lost the newest file of their logs', () => {
  it.each([
    ['the only one of the reign', 1, 1],
    ['one further on in the reign', 1, 10],
  ])(
    'stays closed until one comes that has it: %s',
    async (_, from, count) => {
      const rig = await DiskRig.make(3);
      await filled(rig, 0, 1);
      const data = await filled(rig, from, count);
      const [a, b, keeper] = rig.nodes as [Node, Node, Node];
      for (const node of [a, b]) await loseNewest(node);
      keeper.reachable = false;
      await expect(rig.open()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
      keeper.reachable = true;
      await keeper.restart();
      const engine = await rig.open();
      expect((await read(engine, from * MiB, data.length)).equals(data)).toBe(true);
      await eventually(() => rig.inSync.length === 3, 'the others are whole again');
      await engine.close();
    },
    60_000,
  );

  it('is doubted until it has all of it, also when a copying to it ended half way', async () => {
    const rig = await DiskRig.make(2);
    await filled(rig, 0, 10);
    const [loser, keeper] = rig.nodes as [Node, Node];
    await loseNewest(loser);
    const fenced = async () => {
      const port = await loser.host.localPort(rigVolume, rig.id(0));
      port.listen({ appended: () => {}, lost: () => {} });
      const { cacheSurvived, end } = await port.fence({ epoch: ++rig.epoch, reignId: realRandom.uuid() as ReignId });
      return { port, cacheSurvived, seq: end.seq };
    };
    const first = await fenced();
    expect(first.cacheSurvived).toBe(false);
    const file = keeper.segmentFiles().at(-1)!;
    const bytes = keeper.disk.contents(`${keeper.directory}/${file}`);
    const frame = decodeFrame(bytes, SEGMENT_HEADER_SIZE, true);
    if (typeof frame === 'string') throw new Error(frame);
    const end = SEGMENT_HEADER_SIZE + FRAME_HEADER_SIZE + frame.bodyLength;
    first.port.append(parseSegmentFileName(file)!, 0, bytes.subarray(0, end), frame.seq);
    await loser.restart();
    const second = await fenced();
    expect(second.seq).toBe(first.seq + 1);
    expect(second.cacheSurvived).toBe(false);
  }, 30_000);

  it('does not open without it when it is on none', async () => {
    const rig = await DiskRig.make(2);
    await filled(rig, 0, 1);
    for (const node of rig.nodes) await loseNewest(node);
    await expect(rig.open()).rejects.toMatchObject({ code: 'DATA_LOSS', message: /was cut or rolled back/ });
  }, 30_000);

  it('opens with all of them when the engine died just as a segment was full', async () => {
    const rig = await DiskRig.make(2);
    const data = await filled(rig, 0, 10);
    for (const node of rig.nodes) await loseNewest(node);
    const engine = await rig.open();
    const [file] = rig.nodes[0]!.segmentFiles();
    expect(file).toBeDefined();
    expect((await read(engine, 0, MiB)).equals(data.subarray(0, MiB))).toBe(true);
    await engine.close();
  }, 30_000);
});
