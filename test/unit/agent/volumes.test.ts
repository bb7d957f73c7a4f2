// Opening, ordering and closing volumes: the record's rules, keys, takeovers and what a failure leaves. Engines are fake; the
// thread boundary, the metadata store and everything between are real.

import { afterEach, expect, test } from 'vitest';
import { HoldfastError, type ReignId, type SnapshotId, type VolumeId } from '../../../src/base/index.js';
import { type Bench, makeBench, nodeA, nodeB, replicaIds, until, volumeId, volumeRecord } from './fakes.js';

const noKey = () => Buffer.alloc(0);
const benches: Bench[] = [];
async function bench(...args: Parameters<typeof makeBench>): Promise<Bench> {
  const made = await makeBench(...args);
  benches.push(made);
  return made;
}
afterEach(async () => {
  for (const one of benches.splice(0)) {
    expect(one.fatal).toEqual([]);
    await one.stop();
  }
});

const elsewhere = (maintenance: boolean) =>
  ({
    epoch: 4,
    reignId: '99999999-1111-4111-8111-111111111111' as ReignId,
    engine: { nodeId: nodeB, maintenance, openedMs: 1 },
  }) as const;
const snapshotId = '55555555-1111-4111-8111-111111111111' as SnapshotId;

test('open, repeat, close: one reign, the size of the record, a clean record after', async () => {
  const b = await bench(volumeRecord());
  const [one, two] = await Promise.all([
    b.volumes.openAttached(volumeId, noKey(), false),
    b.volumes.openAttached(volumeId, noKey(), false),
  ]);
  expect(one).toEqual({ socketPath: `/run/test/${volumeId}.sock`, exportName: volumeId, sizeBytes: 1 << 20, epoch: 1 });
  expect((await b.record()).flushedPoint).toEqual(b.engines[0]!.opening);
  expect(two).toEqual(one);
  expect(b.engines.length).toBe(1);
  expect(b.engines[0]!.options).toMatchObject({
    formerEngineGone: true,
    readOnly: false,
    setVersion: 1,
    dataKey: null,
  });
  expect(b.engines[0]!.sizeBytes).toBe(1 << 20);
  expect([...b.exports]).toEqual([one.socketPath]);
  expect((await b.record()).engine).toMatchObject({ nodeId: nodeA, maintenance: false });
  await b.volumes.close(volumeId, 99);
  expect(b.exports.size).toBe(1);
  await b.volumes.close(volumeId, 1);
  expect(b.engines[0]!.closes).toBe(1);
  expect(b.exports.size).toBe(0);
  expect(await b.record()).toMatchObject({ engine: null, epoch: 1 });
  expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(2);
});

test('a volume that is not published here is refused for good, before anything happens', async () => {
  const b = await bench(volumeRecord({ publications: [] }));
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'StaleReign',
  });
  await b.put(volumeRecord({ state: 'deleting' }));
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'StaleReign',
  });
  await expect(b.volumes.openForOrders(volumeId)).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  expect(b.engines.length).toBe(0);
  expect((await b.record()).epoch).toBe(0);
  const unknown = '77777777-1111-4111-8111-111111111111' as VolumeId;
  await expect(b.volumes.openAttached(unknown, noKey(), false)).rejects.toMatchObject({ code: 'NOT_FOUND' });
  await b.volumes.close(unknown, 0);
});

test('failover: the publication decides, and the former engine is not taken for gone', async () => {
  const b = await bench(volumeRecord(elsewhere(false)));
  await b.volumes.openAttached(volumeId, noKey(), false);
  expect(b.engines[0]!.options).toMatchObject({ formerEngineGone: false, reign: { epoch: 5 } });
  const both = volumeRecord().publications.concat({ ...volumeRecord().publications[0]!, nodeId: nodeB });
  const c = await bench(volumeRecord({ ...elsewhere(false), publications: both }));
  await expect(c.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'Busy',
  });
});

test('a failed open keeps the proof about the former engine: only an engine that opened replaces it in the record', async () => {
  const b = await bench(volumeRecord(elsewhere(false)));
  b.failOpen = () => {
    throw Object.assign(new Error('replicas away'));
  };
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toThrow('replicas away');
  expect(await b.record()).toMatchObject({ epoch: 5, engine: { nodeId: nodeB } });
  b.failOpen = null;
  await b.volumes.openAttached(volumeId, noKey(), false);
  expect(b.engines[0]!.options.formerEngineGone).toBe(false);
});

test('an export that cannot start leaves no engine and a clean record', async () => {
  const b = await bench(volumeRecord());
  b.failExport = true;
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({ reason: 'AddressInUse' });
  expect(b.engines[0]!.closes).toBe(1);
  expect((await b.record()).engine).toBe(null);
  expect(await b.volumes.status(null, 1_000)).toEqual([]);
  b.failExport = false;
  expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(2);
});

test('the data key is made once, opens again with the same key only, and a wrong key grants no reign', async () => {
  const encrypted = { ...volumeRecord().parameters, encryption: 'aes-256-gcm' as const };
  const b = await bench(volumeRecord({ parameters: encrypted }));
  const key = Buffer.alloc(32, 7);
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'MissingKey',
  });
  await b.volumes.openAttached(volumeId, key, false);
  const made = b.keysSeen[0]!;
  expect(made).toMatch(/^[0-9a-f]{64}$/);
  expect(made).not.toBe('00'.repeat(32));
  const stored = JSON.stringify(await b.record());
  expect(stored).not.toContain(made);
  expect(stored).not.toContain(Buffer.from(made, 'hex').toString('base64'));
  expect((await b.record()).wrappedKey?.cipher).toBe('aes-256-gcm');
  await expect(b.volumes.openAttached(volumeId, Buffer.alloc(32, 8), false)).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    reason: 'WrongKey',
  });
  await b.volumes.close(volumeId, 0);
  await expect(b.volumes.openAttached(volumeId, Buffer.alloc(32, 8), false)).rejects.toMatchObject({
    reason: 'WrongKey',
  });
  expect((await b.record()).epoch).toBe(1);
  await b.volumes.openAttached(volumeId, key, false);
  expect(b.keysSeen).toEqual([made, made]);
  await b.volumes.close(volumeId, 0);
  // A maintenance engine never gets a key.
  await b.volumes.order(volumeId, 'freeze', { snapshotId, groupId: null, holdToken: null }, { timeoutMs: 1_000 });
  expect(b.keysSeen[2]).toBe(null);
});

test('orders open a maintenance engine that closes when idle, not while a hold stands', async () => {
  const b = await bench(volumeRecord({ publications: [] }), { idleMs: 250 });
  const frozen = await b.volumes.order(
    volumeId,
    'freeze',
    { snapshotId, groupId: null, holdToken: null },
    { timeoutMs: 1_000 },
  );
  expect(frozen.seq).toBe(7);
  expect(b.exports.size).toBe(0);
  expect((await b.record()).engine).toMatchObject({ nodeId: nodeA, maintenance: true });
  await until(async () => (await b.record()).engine === null);
  expect(b.engines[0]!.closes).toBe(1);
  await b.volumes.order(volumeId, 'hold', { token: 't', deadlineMs: 1_500 }, { timeoutMs: 1_000, keepOpenMs: 1_500 });
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(b.engines[1]!.closes).toBe(0);
  expect(await b.volumes.orderIfOpen(volumeId, 'release', { token: 't' }, 1_000)).toEqual({ heldUntilNow: true });
  await until(() => b.engines[1]!.closes === 1);
  expect(await b.volumes.orderIfOpen(volumeId, 'release', { token: 't' }, 1_000)).toBe(undefined);
});

test('an attach takes over from the maintenance engine here, and maintenance uses the attached engine', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openForOrders(volumeId);
  const opened = await b.volumes.openAttached(volumeId, noKey(), false);
  expect(opened.epoch).toBe(2);
  expect(b.engines[0]!.closes).toBe(1);
  expect(b.engines[1]!.options.formerEngineGone).toBe(true);
  await b.volumes.order(volumeId, 'freeze', { snapshotId, groupId: null, holdToken: null }, { timeoutMs: 1_000 });
  expect(b.engines.length).toBe(2);
  expect(b.engines[1]!.snapshots).toEqual([snapshotId]);
});

test('maintenance never deposes an engine that is published elsewhere, but follows one that was left behind or maintains', async () => {
  const there = { ...volumeRecord().publications[0]!, nodeId: nodeB };
  const b = await bench(volumeRecord({ ...elsewhere(false), publications: [there] }));
  const order = { snapshotId, groupId: null, holdToken: null };
  await expect(b.volumes.order(volumeId, 'freeze', order, { timeoutMs: 1_000 })).rejects.toMatchObject({
    code: 'FAILED_PRECONDITION',
    message: expect.stringContaining(nodeB),
  });
  expect((await b.record()).epoch).toBe(4);
  await b.put(volumeRecord({ ...elsewhere(false), publications: [] }));
  await b.volumes.order(volumeId, 'freeze', order, { timeoutMs: 1_000 });
  expect((await b.record()).epoch).toBe(5);
  const c = await bench(volumeRecord(elsewhere(true)));
  await c.volumes.order(volumeId, 'freeze', order, { timeoutMs: 1_000 });
  expect((await c.record()).epoch).toBe(5);
});

test('an engine that ends by itself takes its export with it, and the next open is a new reign', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openAttached(volumeId, noKey(), false);
  b.engines[0]!.depose('a higher reign was promised');
  await until(async () => b.exports.size === 0 && (await b.volumes.status(null, 1_000)).length === 0);
  expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(2);
});

test('an engine that lost its reign without noticing is stopped, not handed out again', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openAttached(volumeId, noKey(), false);
  await b.put({ ...(await b.record()), ...elsewhere(true) });
  expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(5);
  expect(b.engines[0]!.deposedBy).not.toBe(null);
  expect(b.engines[0]!.closes).toBe(0);
});

test('an engine that hears from the store alone that its reign is over stops serving', async () => {
  for (const how of ['noted', 'told to follow'] as const) {
    const b = await bench(volumeRecord());
    await b.volumes.openAttached(volumeId, noKey(), false);
    await b.put({ ...(await b.record()), ...elsewhere(true) });
    const [engine] = b.engines;
    if (how === 'noted') await engine!.options.membership.noteFlushed({ epoch: 1, seq: 9, digest: 'aa' });
    else await expect(b.volumes.followMembers(volumeId, 1_000)).rejects.toMatchObject({ reason: 'StaleReign' });
    expect(engine!.deposedBy, how).not.toBe(null);
    expect(b.exports.size, how).toBe(0);
    expect(await b.volumes.status(null, 1_000)).toEqual([]);
  }
});

test('a reign granted to another node while the engine opened is not overruled', async () => {
  const b = await bench(volumeRecord());
  b.failOpen = async () => {
    await b.put({ ...(await b.record()), ...elsewhere(false) });
  };
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({
    code: 'ABORTED',
    reason: 'StaleReign',
  });
  expect(b.engines[0]!.deposedBy).not.toBe(null);
  expect(b.exports.size).toBe(0);
  expect((await b.record()).engine).toMatchObject({ nodeId: nodeB });
});

test('an attach goes on by itself when a maintenance engine elsewhere took its reign, and not for ever', async () => {
  for (const engine of [null, elsewhere(true).engine] as const) {
    const b = await bench(volumeRecord());
    let lost = 0;
    b.failOpen = async () => {
      if (lost++ < 2) {
        const record = await b.record();
        await b.put({ ...record, engine, epoch: record.epoch + 1, reignId: elsewhere(true).reignId });
        throw new HoldfastError('ABORTED', 'promised another reign', { reason: 'StaleReign' });
      }
    };
    expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(5);
    expect((await b.record()).engine).toMatchObject({ nodeId: nodeA, maintenance: false });
    expect(b.exports.size).toBe(1);
    lost = -100;
    await b.volumes.close(volumeId, 0);
    const { epoch } = await b.record();
    await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({ reason: 'StaleReign' });
    expect((await b.record()).epoch).toBeLessThan(epoch + 10);
  }
});

test('an attach whose volume went to another node meanwhile gives up', async () => {
  const b = await bench(volumeRecord());
  let opens = 0;
  b.failOpen = async () => {
    opens++;
    const record = await b.record();
    const publications = record.publications.map((one) => ({ ...one, nodeId: nodeB }));
    await b.put({ ...record, publications, epoch: record.epoch + 1, reignId: elsewhere(true).reignId });
    throw new HoldfastError('ABORTED', 'promised another reign', { reason: 'StaleReign' });
  };
  await expect(b.volumes.openAttached(volumeId, noKey(), false)).rejects.toMatchObject({ code: 'ABORTED' });
  expect(opens).toBe(1);
});

test('the in-sync set changes only for the reign that stands, once, and never to a lost replica', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openAttached(volumeId, noKey(), false);
  const { membership } = b.engines[0]!.options;
  const shrink = { expectedSetVersion: 1, inSync: [replicaIds[0]!], reason: 'no answer' };
  expect(await membership.changeSet(shrink)).toEqual({ outcome: 'done', setVersion: 2 });
  expect(await membership.changeSet(shrink)).toEqual({ outcome: 'done', setVersion: 2 });
  // A change that expected the version before: told what stands, so that the engine can settle what it did not learn.
  expect(await membership.changeSet({ ...shrink, inSync: replicaIds })).toEqual({
    outcome: 'conflict',
    setVersion: 2,
    inSync: shrink.inSync,
  });
  await membership.noteFlushed({ epoch: 1, seq: 9, digest: 'aa' });
  await membership.noteFlushed({ epoch: 1, seq: 8, digest: 'bb' });
  expect((await b.record()).flushedPoint).toEqual({ epoch: 1, seq: 9, digest: 'aa' });
  await membership.markLost(replicaIds[1]!, 'came back empty');
  expect((await b.record()).replicas[1]).toMatchObject({ state: 'lost', message: 'came back empty' });
  await expect(
    membership.changeSet({ expectedSetVersion: 2, inSync: replicaIds, reason: 'back' }),
  ).rejects.toMatchObject({ code: 'FAILED_PRECONDITION' });
  await b.put({ ...(await b.record()), ...elsewhere(false) });
  expect(await membership.changeSet({ expectedSetVersion: 2, inSync: replicaIds, reason: 'back' })).toEqual({
    outcome: 'deposed',
  });
  await membership.noteFlushed({ epoch: 9, seq: 99, digest: 'cc' });
  expect(await b.record()).toMatchObject({ setVersion: 2, inSync: [replicaIds[0]], flushedPoint: { seq: 9 } });
});

test('a broken invariant in a worker reaches both threads as fatal', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openAttached(volumeId, noKey(), false);
  void b.engines[0]!.options.membership.changeSet({ expectedSetVersion: 1, inSync: [], reason: 'bug' }).catch(() => {});
  await until(() => b.fatal.length === 2);
  expect(b.fatal[0]!.name).toBe('AssertionError');
  b.fatal.length = 0;
});

test('a close whose flush fails says so and leaves no engine that would be handed out again', async () => {
  const b = await bench(volumeRecord());
  await b.volumes.openAttached(volumeId, noKey(), false);
  b.engines[0]!.failClose = true;
  await expect(b.volumes.close(volumeId, 0)).rejects.toThrow('flush failed');
  await b.volumes.close(volumeId, 0);
  expect((await b.record()).engine).toBe(null);
  expect((await b.volumes.openAttached(volumeId, noKey(), false)).epoch).toBe(2);
});

test('an engine that ends between its open and its place in the record is not handed out', async () => {
  const b = await bench(volumeRecord({ publications: [] }));
  const { store } = b;
  const swap = store.compareAndSwap.bind(store);
  store.compareAndSwap = (async (key: string, version: number, value: object) => {
    const isNote = b.engines.length === 1 && !b.engines[0]!.closed;
    if (isNote) b.engines[0]!.depose('every replica failed');
    return swap(key, version, value as never);
  }) as typeof store.compareAndSwap;
  const order = { snapshotId, groupId: null, holdToken: null };
  await expect(b.volumes.order(volumeId, 'freeze', order, { timeoutMs: 1_000 })).rejects.toMatchObject({
    code: 'ABORTED',
    reason: 'StaleReign',
  });
  expect((await b.volumes.order(volumeId, 'freeze', order, { timeoutMs: 1_000 })).seq).toBe(7);
  expect(b.engines.length).toBe(2);
});
