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

function intact({ bytes, seq }: Frame): boolean {
  for (let at = 0; at < bytes.length; at += 31) if (bytes[at] !== (seq & 0xff)) return false;
  return bytes[bytes.length - 1] === (seq & 0xff);
}

it('uses memory again only when its frames are forgotten, and never what somebody may still be sending', () => {
  const make = maker();
  const chance = seeded(7);
  const tail = new FrameTail();
  /** Not committed by all yet, so in the queue of some replica. */
  let unanswered: Frame[] = [];
  /** Forgotten while a replica was away, whose queue may hold them for as long as it likes. */
  const stuck: Frame[] = [];
  const kept: Frame[] = [];
  const memories = new Set<object>();
  let committed = 0;
  for (let i = 0; i < 3000; i++) {
    const large = chance() < 0.2;
    const worst = large ? 40 * KiB + Math.floor(chance() * 400 * KiB) : 4 * KiB + Math.floor(chance() * 20 * KiB);
    const frame = make(worst, Math.ceil(worst * (0.1 + chance() * 0.9)));
    memories.add(frame.memory);
    tail.push(frame);
    unanswered.push(frame);
    const whole = i < 1000 || i > 1700;
    kept.push(frame);
    committed = Math.max(committed, frame.seq - Math.floor(chance() * 4));
    tail.trim(committed, whole);
    while (tail.after(kept[0]!.seq - 1, frame.seq) === undefined) {
      const forgotten = kept.shift()!;
      if (!whole) stuck.push(forgotten);
    }
    unanswered = unanswered.filter(({ seq }) => seq > committed);
    for (const one of unanswered) expect(intact(one)).toBe(true);
    // Where a replica that is lost now ends: it can be compared with this log.
    if (committed > 0) expect(tail.after(committed - 1, frame.seq)?.[0]?.seq).toBe(committed);
  }
  expect(stuck.length).toBeGreaterThan(50);
  expect(stuck.filter((frame) => !intact(frame)).map(({ seq }) => seq)).toEqual([]);
  // Some hundred MiB went through a handful of slabs, but for those of the time when one was away.
  expect(memories.size).toBeLessThan(150);
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
