import { expect, it } from 'vitest';
import { EngineRig, request, write } from '../../lib/engine-rig.js';

it('a read waits while no replica can be asked, and so does the read of a partial write', async () => {
  const rig = new EngineRig(1);
  const engine = await rig.open();
  await write(engine, 0, Buffer.alloc(4096, 7));
  rig.replicas[0]!.reachable = false;
  rig.replicas[0]!.disconnect();
  const got = Buffer.alloc(4096);
  let answered = 0;
  const count = (outcome: string | null) => {
    answered++;
    return outcome;
  };
  const reading = request(engine, 'read', 0, 4096, got).then(count);
  const writing = request(engine, 'write', 100, 100, Buffer.alloc(100, 9)).then(count);
  await new Promise((resolve) => setTimeout(resolve, 400));
  expect(answered).toBe(0);
  rig.replicas[0]!.reachable = true;
  expect(await Promise.all([reading, writing])).toEqual([null, null]);
  // The two were in flight together: the read may or may not show what the write changed.
  got.fill(7, 100, 200);
  expect(got.equals(Buffer.alloc(4096, 7))).toBe(true);
});

it('what was being read when the engine was deposed is left to the next engine', async () => {
  const rig = new EngineRig(1);
  const engine = await rig.open();
  await write(engine, 0, Buffer.alloc(4096, 7));
  rig.replicas[0]!.reachable = false;
  rig.replicas[0]!.disconnect();
  const reading = request(engine, 'read', 0, 4096, Buffer.alloc(4096));
  engine.depose('test');
  expect(await reading).toBe('ESHUTDOWN');
});

it('one damaged record fails its own request, not those that came with it', async () => {
  const rig = new EngineRig(1);
  const engine = await rig.open();
  await write(engine, 0, Buffer.alloc(4096, 7));
  await write(engine, 8192, Buffer.alloc(4096, 8));
  const { bytes } = rig.replicas[0]!.list()[0]!;
  // The last record's last payload byte, before its padding.
  let at = bytes.length - 1;
  while (bytes[at] === 0) at--;
  bytes[at] = bytes[at]! ^ 1;
  const good = Buffer.alloc(4096);
  const outcomes = await new Promise<(string | null)[]>((resolve) => {
    const seen: (string | null)[] = [];
    const one = (offset: number, data: Buffer, index: number) => ({
      op: 'read' as const,
      offset,
      length: 4096,
      fua: false,
      data,
      dataAt: 0,
      cancelled: false,
      complete: (error: string | null) => {
        seen[index] = error;
        if (Object.keys(seen).length === 2) resolve(seen);
      },
    });
    engine.submit([one(8192, Buffer.alloc(4096), 0), one(0, good, 1)]);
  });
  expect(outcomes).toEqual(['EIO', null]);
  expect(good.equals(Buffer.alloc(4096, 7))).toBe(true);
});
