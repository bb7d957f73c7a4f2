// A replica whose log ends right but lacks a file further down: not whole, so not in sync until it is.

import { randomBytes } from 'node:crypto';
import { expect, it } from 'vitest';
import { EngineRig, eventually, flush, read, request, write } from '../../lib/engine-rig.js';

async function filled(rig: EngineRig) {
  const engine = await rig.open();
  const data = randomBytes(20 * 1024 * 1024);
  for (let at = 0; at < data.length; at += 1024 * 1024) await write(engine, at, data.subarray(at, at + 1024 * 1024));
  await flush(engine);
  return { engine, data };
}

function loseOldest(rig: EngineRig, i: number): void {
  const replica = rig.replicas[i]!;
  const [file] = [...replica.segments.keys()].sort();
  replica.segments.delete(file!);
}

const contents = (rig: EngineRig, i: number) =>
  rig.replicas[i]!.list().map((one) => `${one.info.ordinal}:${one.info.lastDigest}`);

it('a member that lacks an old segment at open leaves the set and is brought back whole', async () => {
  const rig = new EngineRig(3);
  const { engine, data } = await filled(rig);
  engine.depose('test');
  loseOldest(rig, 2);
  const again = await rig.open();
  await eventually(() => rig.setChanges.some((why) => why.includes('lacks')), 'the incomplete member left the set');
  await eventually(() => rig.inSync.length === 3, 'it is back');
  expect(contents(rig, 2)).toEqual(contents(rig, 0));
  expect((await read(again, 0, data.length)).equals(data)).toBe(true);
}, 60_000);

it('a returning replica that lacks an old segment gets it back', async () => {
  const rig = new EngineRig(3);
  const { engine, data } = await filled(rig);
  const away = rig.replicas[2]!;
  away.reachable = false;
  away.disconnect();
  await eventually(() => rig.inSync.length === 2, 'it left the set');
  loseOldest(rig, 2);
  away.reachable = true;
  await eventually(() => rig.inSync.length === 3, 'it is back');
  expect(contents(rig, 2)).toEqual(contents(rig, 0));
  expect((await read(engine, 0, data.length)).equals(data)).toBe(true);
}, 60_000);

it('blocks of a lost segment can be overwritten and trimmed, however often the volume is opened', async () => {
  const rig = new EngineRig(1);
  const engine = await rig.open();
  for (let i = 0; i < 18; i++) await write(engine, i * 1024 * 1024, randomBytes(1024 * 1024));
  await engine.close();
  loseOldest(rig, 0);
  const second = await rig.open();
  await expect(read(second, 0, 4096)).rejects.toThrow();
  await write(second, 0, randomBytes(4096));
  await write(second, 30 * 1024 * 1024, randomBytes(1024 * 1024));
  await second.close();
  const third = await rig.open();
  const data = randomBytes(4096);
  await write(third, 8192, data);
  expect(await request(third, 'trim', 65_536, 4 * 1024 * 1024)).toBeNull();
  expect((await read(third, 8192, 4096)).equals(data)).toBe(true);
  await third.close();
}, 60_000);
