// The double of a store that a newer release writes to, too: a field that was dropped is noticed. (The tests of control/ and the
// simulator run on it.)

import { expect, it } from 'vitest';
import { keyOf, openMemoryStore, type VolumeRecord } from '../../../src/meta/index.js';
import { newerRecords } from '../../lib/newer-records.js';
import { volumeId, volumeRecord } from '../agent/fakes.js';
import { TestCluster } from '../control/cluster.js';

it('notices what a writer drops, of a record and of an item of its lists', async () => {
  const dropped: string[] = [];
  const store = newerRecords(openMemoryStore(), (what) => dropped.push(what));
  const key = keyOf.volume(volumeId);
  await store.compareAndSwap(key, 0, volumeRecord());
  const read = async () => (await store.get<VolumeRecord>(key))!;
  const first = await read();
  await store.compareAndSwap(key, first.version, { ...first.value, epoch: 3, replicas: [...first.value.replicas] });
  expect(dropped).toEqual([]);
  const second = await read();
  await store.compareAndSwap(key, second.version, volumeRecord({ epoch: 4 }));
  const third = await read();
  const replicas = third.value.replicas.map(({ id, ...rest }) => ({ ...volumeRecord().replicas[0]!, ...rest, id }));
  const poorer = replicas.map((replica) =>
    Object.fromEntries(Object.entries(replica).filter(([name]) => name !== 'ofTheNextRelease')),
  );
  await store.compareAndSwap(key, third.version, { ...third.value, replicas: poorer });
  expect(dropped).toEqual([expect.stringMatching(/its own$/), expect.stringMatching(/that of replicas "aaaaaaaa/)]);
});

it('control keeps them over the whole life of a volume', async () => {
  const cluster = await TestCluster.make();
  const { id } = await cluster.create('a');
  const publish = {
    volumeId: id,
    nodeId: 'n1',
    readOnly: false,
    accessMode: 'SINGLE_NODE_WRITER',
    accessType: 'mount',
  } as const;
  await cluster.control.volumes.publish(publish);
  await cluster.control.volumes.expand(id, { requiredBytes: 2 ** 31, limitBytes: 0 });
  await cluster.heartbeats();
  const { entries } = await cluster.store.list('', { limit: 100 });
  for (const { key, value } of entries) expect([key, value.ofTheNextRelease]).toEqual([key, { why: 'not known here' }]);
  const volume = entries.find(({ key }) => key === keyOf.volume(id))!.value as unknown as VolumeRecord;
  expect(JSON.stringify([...volume.replicas, ...volume.publications]).match(/"ofTheNextRelease":7/g)).toHaveLength(
    volume.replicas.length + 1,
  );
});
