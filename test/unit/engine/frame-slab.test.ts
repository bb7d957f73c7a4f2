import { expect, it } from 'vitest';
import { FrameSlab } from '../../../src/engine/frame-slab.js';
import { FrameTail } from '../../../src/engine/frame-tail.js';
import type { Frame } from '../../../src/engine/log-writer.js';
import { EngineRig, read, seeded, write } from '../../lib/engine-rig.js';

const KiB = 1024;

/** Makes frames filled with their seq, as the log writer does. */
function maker() {
  const slab = new FrameSlab();
  let seq = 0;
  return (worst: number, length: number): Frame => {
    slab.reserve(worst);
    const start = slab.at;
    slab.bytes.fill(++seq & 0xff, start, start + length);
    const bytes = slab.keep(start + length);
    return { seq, bytes, memory: slab.memory } as unknown as Frame;
  };
}

const intact = (frame: Frame) => frame.bytes.every((byte) => byte === (frame.seq & 0xff));

it('uses memory again only when its frames are forgotten, and never what somebody may still be sending', () => {
  const make = maker();
  const chance = seeded(7);
  const tail = new FrameTail();
  const kept: Frame[] = [];
  const sending: Frame[] = [];
  const memories = new Set<object>();
  for (let i = 0; i < 3000; i++) {
    const large = chance() < 0.2;
    const worst = large ? 40 * KiB + Math.floor(chance() * 400 * KiB) : 4 * KiB + Math.floor(chance() * 20 * KiB);
    const frame = make(worst, Math.ceil(worst * (0.1 + chance() * 0.9)));
    memories.add(frame.memory);
    tail.push(frame);
    kept.push(frame);
    // For a while a replica is away: what is forgotten then may still be in somebody's queue.
    const whole = i < 1000 || i > 1200;
    if (!whole && kept.length > 1 && sending.length < 40) sending.push(kept[0]!);
    const committed = frame.seq - Math.floor(chance() * 3);
    tail.trim(committed, whole);
    const remembered = tail.after(0, frame.seq) ?? tail.after(committed - 1, frame.seq) ?? [];
    while (kept[0] !== undefined && kept[0].seq < (remembered[0]?.seq ?? 0)) kept.shift();
    if (i % 50 === 0 || i === 1200) for (const one of remembered) expect(intact(one)).toBe(true);
  }
  for (const frame of sending) expect(intact(frame)).toBe(true);
  // Some hundred MiB went through a handful of slabs, but for those of the time when one was away.
  expect(memories.size).toBeLessThan(60);
});

it('a replica that comes back gets frames that were made while it was away', async () => {
  const rig = new EngineRig(3);
  const engine = await rig.open();
  const data = (i: number) => Buffer.alloc(64 * KiB, i + 1);
  for (let i = 0; i < 20; i++) await write(engine, i * 64 * KiB, data(i));
  rig.replicas[2]!.disconnect();
  for (let i = 20; i < 200; i++) await write(engine, i * 64 * KiB, data(i));
  const back = () => engine.status().replicas.every(({ state }) => state === 'in-sync');
  for (let i = 0; i < 1000 && !back(); i++) {
    await write(engine, 0, data(i & 0x7f));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(back()).toBe(true);
  for (let i = 200; i < 400; i++) await write(engine, i * 64 * KiB, data(i & 0x7f));
  const [a, b, c] = rig.replicas.map((replica) => replica.list().map(({ bytes }) => bytes));
  expect(b!.map((bytes, i) => bytes.equals(a![i]!))).toEqual(a!.map(() => true));
  expect(c!.length).toBe(a!.length);
  expect(c!.map((bytes, i) => bytes.equals(a![i]!))).toEqual(a!.map(() => true));
  expect((await read(engine, 64 * KiB * 150, 64 * KiB)).equals(data(150))).toBe(true);
  await engine.close();
}, 30_000);
