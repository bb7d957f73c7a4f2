import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, unwrapDataKey, type VolumeId } from '../../../src/base/index.js';
import { keyOf, type VolumeRecord } from '../../../src/meta/index.js';
import { failure, GIB, TestCluster } from './cluster.js';

const publish = (cluster: TestCluster, volumeId: string, nodeId = 'n1', more: object = {}) =>
  cluster.control.volumes.publish({
    volumeId,
    nodeId,
    readOnly: false,
    accessMode: 'SINGLE_NODE_WRITER',
    accessType: 'mount',
    ...more,
  });

const KEY = 'a1'.repeat(32);

describe('creating a volume', () => {
  it('makes replicas on distinct nodes with the ids of the record', async () => {
    const cluster = await TestCluster.make();
    const record = await cluster.create('vol');
    expect(new Set(record.replicas.map((replica) => replica.nodeId)).size).toBe(3);
    expect(cluster.daemons.replicas).toHaveLength(3);
    expect(record).toMatchObject({ state: 'ready', sizeBytes: GIB, epoch: 0, engine: null, wrappedKey: null });
  });

  it('is one volume however often and however parallel it is asked for', async () => {
    const cluster = await TestCluster.make();
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => cluster.create('vol')));
    const made = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value.id] : []));
    const refused = results.flatMap((result) =>
      result.status === 'rejected' ? [(result.reason as HoldfastError).code] : [],
    );
    expect(new Set(made).size).toBe(1);
    expect(new Set(refused)).toEqual(new Set(['ABORTED']));
    expect((await cluster.create('vol')).id).toBe(made[0]);
    expect(await cluster.keys()).toEqual({ volume: 1, 'volume-name': 1 });
    expect(cluster.daemons.replicas).toHaveLength(3);
  });

  it('does not promise one room twice to parallel requests', async () => {
    const cluster = await TestCluster.make({ overcommit: 1 });
    const range = { requiredBytes: 60 * GIB, limitBytes: 0 };
    const results = await Promise.allSettled(['a', 'b', 'c'].map((name) => cluster.create(name, { range })));
    expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(1);
  });

  it.each([
    ['capacity_range', { range: { requiredBytes: 2 * GIB, limitBytes: 2 * GIB } }],
    ['capacity_range', { range: { requiredBytes: 1, limitBytes: GIB / 2 } }],
    ['compression', { parameters: { compression: 'none' } }],
    ['replicas', { parameters: { replicas: '2' } }],
    ['maxReadIops', { parameters: { maxReadIops: '7' } }],
    ['volume_content_source', { source: { kind: 'volume' as const, id: 'x' } }],
  ])('says that %s differs when the name is taken', async (field, more) => {
    const cluster = await TestCluster.make();
    await cluster.create('vol');
    const error = await failure(cluster.create('vol', more));
    expect(error.code).toBe('ALREADY_EXISTS');
    expect(error.message).toContain(field);
  });

  it('leaves nothing when it can not be placed', async () => {
    const cluster = await TestCluster.make({ nodes: [{ id: 'n1' }, { id: 'n2' }] });
    const error = await failure(cluster.create('vol', { parameters: { replicas: '3' } }));
    expect(error.code).toBe('RESOURCE_EXHAUSTED');
    expect((await failure(cluster.create('big', { range: { requiredBytes: 8192 * GIB, limitBytes: 0 } }))).code).toBe(
      'RESOURCE_EXHAUSTED',
    );
    expect(await cluster.keys()).toEqual({});
  });

  it('leaves nothing when a daemon refuses for good', async () => {
    const cluster = await TestCluster.make();
    cluster.daemons.nodes.get('n2' as NodeId)!.refuseCreate = new HoldfastError(
      'RESOURCE_EXHAUSTED',
      'pool /p is full',
    );
    expect((await failure(cluster.create('vol'))).message).toContain('pool /p is full');
    expect(await cluster.keys()).toEqual({});
    expect(cluster.daemons.replicas).toEqual([]);
  });

  it('goes on after a daemon was away, and elsewhere when that lasts', async () => {
    const cluster = await TestCluster.make({
      nodes: [{ id: 'n1' }, { id: 'n2' }, { id: 'n3' }, { id: 'n4', capacityBytes: 50 * GIB }],
    });
    const down = cluster.daemons.nodes.get('n2' as NodeId)!;
    down.up = false;
    expect((await failure(cluster.create('vol'))).code).toBe('UNAVAILABLE');
    down.up = true;
    const first = await cluster.create('vol');
    expect(first.replicas.map((replica) => replica.nodeId as string).sort()).toEqual(['n1', 'n2', 'n3']);

    down.up = false;
    expect((await failure(cluster.create('other'))).code).toBe('UNAVAILABLE');
    await cluster.silence('n2');
    const moved = await cluster.create('other');
    expect(moved.replicas.map((replica) => replica.nodeId as string).sort()).toEqual(['n1', 'n3', 'n4']);
    down.up = true;
    await cluster.settle();
    const held = cluster.daemons.replicas.filter((replica) => replica.volumeId !== first.id);
    expect(held.map((replica) => replica.volumeId)).toEqual([moved.id, moved.id, moved.id]);
  });

  it('seals the data key with the key of the secret, or leaves it to the first stage', async () => {
    const cluster = await TestCluster.make();
    const sealed = await cluster.create('sealed', { secrets: { encryptionKey: KEY } });
    expect(sealed.parameters.encryption).toBe('aes-256-gcm');
    expect(unwrapDataKey(sealed.wrappedKey!, Buffer.from(KEY, 'hex'), sealed.lineageId)).toHaveLength(32);
    const later = await cluster.create('later', { parameters: { encryption: 'aes-256-gcm' } });
    expect(later.wrappedKey).toBeNull();
    const bad = await failure(cluster.create('bad', { secrets: { encryptionKey: 'short' } }));
    expect(bad).toMatchObject({ code: 'INVALID_ARGUMENT', reason: 'WrongKey' });
    expect(bad.message).not.toContain('short');
    const { entries } = await cluster.store.list('');
    expect(JSON.stringify(entries)).not.toContain(KEY);
  });
});

describe('deleting a volume', () => {
  it('is refused while it is published, and fine for ids that name nothing', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await publish(cluster, id);
    const error = await failure(cluster.control.volumes.delete(id));
    expect(error.code).toBe('FAILED_PRECONDITION');
    expect(error.message).toContain('n1');
    for (const none of ['../../etc', 'nothing', '00000000-0000-4000-8000-00000000ffff'])
      await cluster.control.volumes.delete(none);
    await cluster.control.volumes.unpublish(id, '');
    await cluster.control.volumes.delete(id);
    expect(await cluster.keys()).toEqual({});
  });

  it('keeps a tombstone for a node that is away, frees the name at once, and ends when the node is back', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const down = cluster.daemons.nodes.get('n3' as NodeId)!;
    down.up = false;
    await cluster.control.volumes.delete(id);
    await cluster.control.volumes.delete(id);
    expect((await failure(cluster.control.volumes.get(id))).code).toBe('NOT_FOUND');
    expect(cluster.daemons.replicas).toHaveLength(1);
    expect(await cluster.keys()).toEqual({ volume: 1 });
    down.up = true;
    await cluster.settle();
    expect(await cluster.keys()).toEqual({});
    expect(cluster.daemons.replicas).toEqual([]);
  });

  it('keeps the volume for its snapshots, invisible and with its name free', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const snapshot = await cluster.control.snapshots.create('snap', id);
    await cluster.control.volumes.delete(id);
    expect((await cluster.control.volumes.list({ maxEntries: 0, startingToken: '' })).items).toEqual([]);
    expect((await cluster.create('vol')).id).not.toBe(id);
    const restored = await cluster.create('restored', { source: { kind: 'snapshot', id: snapshot.id } });
    expect(restored.source).toEqual({ kind: 'snapshot', id: snapshot.id, sourceVolumeId: id });
    await cluster.control.snapshots.delete(snapshot.id);
    await cluster.settle();
    expect(cluster.daemons.replicas.filter((replica) => replica.volumeId === id)).toEqual([]);
    expect(await cluster.keys()).toEqual({ volume: 2, 'volume-name': 2 });
  });
});

describe('publishing', () => {
  it('is one node at a time, repeatable, and exact', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await publish(cluster, id);
    expect((await publish(cluster, id)).publications).toHaveLength(1);
    expect((await failure(publish(cluster, id, 'n1', { readOnly: true }))).code).toBe('ALREADY_EXISTS');
    expect((await failure(publish(cluster, id, 'n1', { accessType: 'block' }))).code).toBe('ALREADY_EXISTS');
    const elsewhere = await failure(publish(cluster, id, 'n2'));
    expect(elsewhere.code).toBe('FAILED_PRECONDITION');
    expect(elsewhere.message).toContain('n1');
    expect((await failure(publish(cluster, id, 'n9'))).code).toBe('NOT_FOUND');
    expect((await failure(publish(cluster, 'nothing'))).code).toBe('NOT_FOUND');
    await cluster.control.volumes.unpublish(id, 'n2');
    expect((await cluster.control.volumes.get(id)).publications).toHaveLength(1);
    await cluster.control.volumes.unpublish(id, 'n1');
    await publish(cluster, id, 'n2');
  });

  it('counts a node full also when all come at once', async () => {
    const cluster = await TestCluster.make({ maxVolumesPerNode: 3 });
    const records = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((name) => cluster.create(name)));
    const results = await Promise.allSettled(records.map(({ id }) => publish(cluster, id)));
    expect(results.filter((result) => result.status === 'fulfilled')).toHaveLength(3);
    const codes = results.flatMap((result) =>
      result.status === 'rejected' ? [(result.reason as HoldfastError).code] : [],
    );
    expect(codes).toEqual(['RESOURCE_EXHAUSTED', 'RESOURCE_EXHAUSTED']);
  });

  it('with required locality only where a replica is', async () => {
    const cluster = await TestCluster.make();
    const { id, replicas } = await cluster.create('vol', { parameters: { replicas: '2', dataLocality: 'required' } });
    const without = ['n1', 'n2', 'n3'].find((node) => !replicas.some((replica) => replica.nodeId === node))!;
    expect((await failure(publish(cluster, id, without))).code).toBe('FAILED_PRECONDITION');
    await publish(cluster, id, replicas[0]!.nodeId);
  });
});

describe('growing and changing a volume', () => {
  it('grows the record and the open engine, and never shrinks', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const expand = (requiredBytes: number, limitBytes = 0) =>
      cluster.control.volumes.expand(id, { requiredBytes, limitBytes });
    expect((await expand(2 * GIB)).sizeBytes).toBe(2 * GIB);
    expect(cluster.daemons.calls).not.toContain('Resize@n1');
    await publish(cluster, id);
    await cluster.daemons.attach(id, 'n1' as NodeId);
    expect((await expand(3 * GIB)).sizeBytes).toBe(3 * GIB);
    expect(cluster.daemons.volumes.get(id)!.sizeBytes).toBe(3 * GIB);
    expect((await expand(GIB)).sizeBytes).toBe(3 * GIB);
    expect((await failure(expand(GIB, 2 * GIB))).code).toBe('OUT_OF_RANGE');
    expect((await failure(expand(4096 * GIB))).code).toBe('RESOURCE_EXHAUSTED');
    expect((await failure(cluster.control.volumes.expand('nothing', { requiredBytes: 1, limitBytes: 0 }))).code).toBe(
      'NOT_FOUND',
    );
  });

  it('asks to be repeated when the engine was not told, and tells it then', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await publish(cluster, id);
    await cluster.daemons.attach(id, 'n1' as NodeId);
    const node = cluster.daemons.nodes.get('n1' as NodeId)!;
    node.up = false;
    expect((await failure(cluster.control.volumes.expand(id, { requiredBytes: 2 * GIB, limitBytes: 0 }))).code).toBe(
      'UNAVAILABLE',
    );
    expect((await failure(cluster.control.volumes.modify(id, { maxReadIops: '5' }))).code).toBe('UNAVAILABLE');
    expect((await failure(cluster.control.volumes.modify(id, { minReplicas: '2' }))).code).toBe('UNAVAILABLE');
    node.up = true;
    const told = cluster.daemons.calls.filter((call) => call === 'Members@n1').length;
    await cluster.control.volumes.modify(id, { minReplicas: '2' });
    expect(cluster.daemons.calls.filter((call) => call === 'Members@n1').length).toBe(told + 1);
    await cluster.control.volumes.expand(id, { requiredBytes: 2 * GIB, limitBytes: 0 });
    await cluster.control.volumes.modify(id, { maxReadIops: '5' });
    expect(cluster.daemons.volumes.get(id)).toMatchObject({ sizeBytes: 2 * GIB, qos: { max_read_iops: 5 } });
  });

  it('changes what is named and nothing else, or nothing at all', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol', { parameters: { maxReadIops: '10', maxWriteIops: '20' } });
    await cluster.control.volumes.modify(id, { maxReadIops: '11' });
    expect((await cluster.control.volumes.get(id)).qos).toEqual({ maxReadIops: 11, maxWriteIops: 20 });
    expect((await failure(cluster.control.volumes.modify(id, { maxReadIops: '12', nonsense: '1' }))).code).toBe(
      'INVALID_ARGUMENT',
    );
    expect((await failure(cluster.control.volumes.modify(id, { minReplicas: '4' }))).code).toBe('INVALID_ARGUMENT');
    expect((await failure(cluster.control.volumes.modify(id, { replicas: '4' }))).code).toBe('RESOURCE_EXHAUSTED');
    await cluster.control.volumes.modify(id, { replicas: '3' });
    expect((await cluster.control.volumes.get(id)).qos).toEqual({ maxReadIops: 11, maxWriteIops: 20 });
  });
});

describe('cloning', () => {
  it("takes over lineage, key and what was formatted, on the source's pools", async () => {
    const cluster = await TestCluster.make();
    const source = await cluster.create('source', { secrets: { encryptionKey: KEY } });
    await cluster.control.snapshots.create('blank', source.id).then(async (blank) => {
      const key = keyOf.volume(source.id);
      const { value, version } = (await cluster.store.get<VolumeRecord>(key))!;
      await cluster.store.compareAndSwap<VolumeRecord>(key, version, {
        ...value,
        formatted: { state: 'formatted', fsType: 'xfs' },
      });
      const fromBlank = await cluster.create('from-blank', { source: { kind: 'snapshot', id: blank.id } });
      expect(fromBlank.formatted).toEqual({ state: 'never' });
    });
    const clone = await cluster.create('clone', {
      source: { kind: 'volume', id: source.id },
      range: { requiredBytes: 5 * GIB, limitBytes: 0 },
      parameters: { replicas: '2' },
    });
    expect(clone).toMatchObject({
      lineageId: source.lineageId,
      wrappedKey: source.wrappedKey,
      formatted: { state: 'formatted', fsType: 'xfs' },
      sizeBytes: 5 * GIB,
    });
    expect(clone.parameters).toMatchObject({ replicas: 2, encryption: 'aes-256-gcm' });
    const at = (record: VolumeRecord) => record.replicas.map((replica) => `${replica.nodeId} ${replica.poolId}`);
    for (const place of at(clone)) expect(at(source)).toContain(place);
    expect(clone.epoch).toBeGreaterThanOrEqual(1);
    const again = await cluster.create('again', { source: { kind: 'volume', id: clone.id }, range: null });
    expect(again.sizeBytes).toBe(5 * GIB);
  });

  it('begins where its source lies, and gets the copies beyond those when it exists', async () => {
    const cluster = await TestCluster.make();
    const source = await cluster.create('source', { parameters: { replicas: '2' } });
    const clone = await cluster.create('clone', {
      source: { kind: 'volume', id: source.id },
      parameters: { replicas: '3' },
    });
    expect(clone.replicas).toHaveLength(2);
    const again = { source: { kind: 'volume', id: source.id } as const, parameters: { replicas: '3' } };
    expect((await cluster.create('clone', again)).id).toBe(clone.id);
    await cluster.control.repairs.round();
    expect((await cluster.control.volumes.get(clone.id)).inSync).toHaveLength(3);
  });

  it('refuses what a clone can not be', async () => {
    const cluster = await TestCluster.make();
    const source = await cluster.create('source', { parameters: { replicas: '2' } });
    const from = { kind: 'volume' as const, id: source.id };
    const small = await failure(
      cluster.create('a', { source: from, range: { requiredBytes: GIB / 2, limitBytes: 0 } }),
    );
    expect(small.code).toBe('OUT_OF_RANGE');
    const more = await failure(cluster.create('b', { source: from, parameters: { replicas: '4' } }));
    expect(more.code).toBe('RESOURCE_EXHAUSTED');
    expect(more.message).toContain('2 more replicas need as many of the other nodes, there are 1');
    const sealed = await failure(cluster.create('c', { source: from, parameters: { encryption: 'aes-256-gcm' } }));
    expect(sealed.code).toBe('INVALID_ARGUMENT');
    const none = await failure(cluster.create('d', { source: { kind: 'snapshot', id: 'non-existing-snapshot-id' } }));
    expect(none.code).toBe('NOT_FOUND');
    expect(await cluster.keys()).toEqual({ volume: 1, 'volume-name': 1 });
  });

  it('asks the engine where the volume is attached and nobody else', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    await publish(cluster, id, 'n2');
    await cluster.daemons.attach(id as VolumeId, 'n2' as NodeId);
    cluster.daemons.calls.length = 0;
    await cluster.create('clone', { source: { kind: 'volume', id } });
    await cluster.control.snapshots.create('snap', id);
    expect(new Set(cluster.daemons.calls)).toEqual(new Set(['Freeze@n2', 'Clone@n2', 'DeleteSnapshot@n2']));
    cluster.daemons.nodes.get('n2' as NodeId)!.up = false;
    expect((await failure(cluster.control.snapshots.create('snap2', id))).code).toBe('UNAVAILABLE');
    expect((await cluster.control.volumes.get(id)).engine?.nodeId).toBe('n2');
  });
});
