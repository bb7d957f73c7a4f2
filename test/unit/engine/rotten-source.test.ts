// The replica that another one is copied from has rotten bytes in the range: the next source has them whole.

import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { DiskRig } from '../../lib/disk-rig.js';
import { eventually, flush, write } from '../../lib/engine-rig.js';

type Node = DiskRig['nodes'][0];
const MiB = 1024 * 1024;

describe('a replica is brought up to date', () => {
  const secondFrame = (file: Buffer) => 4096 + 128 + file.readUInt32LE(4096 + 16);
  it.each([
    { what: 'the header of a segment', place: () => 40 },
    { what: 'the header of a frame', place: (file: Buffer) => secondFrame(file) + 10 },
  ])(
    'from another source when the first has rotten: $what',
    async ({ place }) => {
      const rig = await DiskRig.make(3);
      const engine = await rig.open();
      await write(engine, 0, randomBytes(MiB));
      await flush(engine);
      const [, source, away] = rig.nodes as [Node, Node, Node];
      away.reachable = false;
      await away.restart();
      const data = randomBytes(24 * MiB);
      for (let i = 0; i < 24; i++) await write(engine, i * MiB, data.subarray(i * MiB, (i + 1) * MiB));
      await flush(engine);
      expect(rig.inSync.length).toBe(2);
      const name = source.segmentFiles()[1]!;
      const file = `${source.directory}/${name}`;
      const before = source.disk.contents(file);
      source.disk.flipBit(file, place(before), 3);
      away.reachable = true;
      await eventually(() => rig.inSync.length === 3, 'it is back');
      expect(away.disk.contents(`${away.directory}/${name}`).equals(before)).toBe(true);
      expect(source.disk.contents(file).equals(before)).toBe(true);
      await engine.close();
    },
    60_000,
  );
});
