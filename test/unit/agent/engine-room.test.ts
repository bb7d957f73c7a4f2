// What meets an engine while it opens or closes: fences, closes, repeats.

import { expect, test } from 'vitest';
import type { ReignId } from '../../../src/base/index.js';
import { type Bench, makeBench, until, volumeId, volumeRecord } from './fakes.js';

const reign = (epoch: number) => ({ epoch, reignId: `66666666-1111-4111-8111-11111111111${epoch}` as ReignId });
const order = (epoch: number) =>
  ({
    volume: {
      volumeId,
      lineageId: volumeRecord().lineageId,
      sizeBytes: 8192,
      compression: 'none',
      cipher: 'none',
      minReplicas: 1,
      qos: { maxReadIops: 0, maxWriteIops: 0, maxReadBps: 0, maxWriteBps: 0 },
      wrappedKey: null,
    },
    reign: reign(epoch),
    members: [],
    setVersion: 1,
    dataKey: null,
    readOnly: false,
    formerEngineGone: true,
    flushedPoint: null,
  }) as const;

function gate(b: Bench): () => void {
  let open = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  b.failOpen = () => opened;
  return () => {
    b.failOpen = null;
    open();
  };
}

test('a close during the open leaves nothing open', async () => {
  const b = await makeBench(volumeRecord());
  const release = gate(b);
  const opening = b.room.open(order(1));
  const closing = b.room.close({ volumeId, epoch: 1 }, true);
  release();
  await expect(opening).rejects.toMatchObject({ code: 'ABORTED' });
  await closing;
  expect(b.engines[0]!.closed).toBe(true);
  expect(() => b.room.engine({ volumeId, epoch: 1 })).toThrow('not open');
  await b.stop();
});

test('a fence stops a lower engine before it is answered, and does not wait for one that is still opening', async () => {
  const b = await makeBench(volumeRecord());
  await b.room.open(order(1));
  await b.room.startExport({ volumeId, epoch: 1 }, '/run/test/x.sock');
  expect(await b.room.stopBelow(volumeId, reign(1))).toBe(false);
  expect(b.engines[0]!.closed).toBe(false);
  expect(await b.room.stopBelow(volumeId, reign(2))).toBe(true);
  expect(b.engines[0]!.deposedBy).toContain('reign 2');
  expect(b.exports.size).toBe(0);
  const release = gate(b);
  const opening = b.room.open(order(3));
  expect(await b.room.stopBelow(volumeId, reign(4))).toBe(false);
  release();
  await expect(opening).rejects.toMatchObject({ reason: 'StaleReign' });
  expect(b.engines[1]!.closed).toBe(true);
  await b.stop();
});

test('a higher reign replaces, the same one joins, a lower one is refused', async () => {
  const b = await makeBench(volumeRecord());
  const release = gate(b);
  const first = b.room.open(order(2));
  const repeat = b.room.open(order(2));
  release();
  const opened = { sizeBytes: 8192, opening: { epoch: 2, seq: 2, digest: 'ff' } };
  expect(await Promise.all([first, repeat])).toEqual([opened, opened]);
  expect(b.engines.length).toBe(1);
  await expect(b.room.open(order(1))).rejects.toMatchObject({ code: 'ABORTED', reason: 'StaleReign' });
  await b.room.open(order(3));
  expect(b.engines[0]!.deposedBy).not.toBe(null);
  expect(() => b.room.engine({ volumeId, epoch: 2 })).toThrow('reign 2');
  expect(b.room.engine({ volumeId, epoch: 3 })).toBe(b.engines[1]);
  await b.stop();
});

test('a close whose flush fails says so, deposes the engine and frees the volume', async () => {
  const b = await makeBench(volumeRecord());
  await b.room.open(order(1));
  b.engines[0]!.failClose = true;
  await expect(b.room.close({ volumeId, epoch: 1 }, true)).rejects.toThrow('flush failed');
  expect(b.engines[0]!.closed).toBe(true);
  await b.room.open(order(2));
  await until(() => b.engines.length === 2);
  await b.stop();
});
