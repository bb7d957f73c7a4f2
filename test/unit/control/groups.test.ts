import { describe, expect, it } from 'vitest';
import { HoldfastError, type NodeId, unavailable } from '../../../src/base/index.js';
import { failure, TestCluster } from './cluster.js';

async function twoVolumes() {
  const cluster = await TestCluster.make();
  const a = await cluster.create('a');
  const b = await cluster.create('b');
  await cluster.daemons.attach(a.id, 'n1' as NodeId);
  await cluster.daemons.attach(b.id, 'n2' as NodeId);
  cluster.daemons.calls.length = 0;
  const frozen = () => [a.id, b.id].flatMap((id) => [...cluster.daemons.volumes.get(id)!.snapshots.keys()]);
  return { cluster, ids: [a.id, b.id] as string[], frozen };
}

describe('a group snapshot', () => {
  it('holds all, freezes all, releases all, in this order', async () => {
    const { cluster, ids, frozen } = await twoVolumes();
    const view = await cluster.control.groups.create('g', ids);
    const steps = cluster.daemons.calls.map((call) => call.slice(0, call.indexOf('@')));
    expect(steps).toEqual(['Open', 'Open', 'Hold', 'Hold', 'Freeze', 'Freeze', 'Release', 'Release']);
    expect(view.snapshots.map((snapshot) => snapshot.groupId)).toEqual([view.group.id, view.group.id]);
    expect(view.snapshots.map((snapshot) => snapshot.id as string).sort()).toEqual(frozen().sort());
    expect((await cluster.control.groups.create('g', [...ids].reverse())).group).toEqual(view.group);
    expect((await cluster.control.groups.get(view.group.id, [])).snapshots).toEqual(view.snapshots);
  });

  it.each(['Open', 'Hold', 'Freeze', 'Release'])('is given up whole when %s fails at one member', async (step) => {
    for (const when of ['before', 'after'] as const) {
      const { cluster, ids, frozen } = await twoVolumes();
      let failing = true;
      cluster.daemons.hook = (call, node, at) => {
        if (failing && call === step && node === 'n2' && at === when) throw unavailable('the answer is lost');
      };
      const error = await failure(cluster.control.groups.create('g', ids));
      expect(error.code).toBe('UNAVAILABLE');
      expect(error.message).toContain('none of it is kept');
      failing = false;
      // Whoever was reached goes on at once and does not wait for the deadline.
      const held = cluster.daemons.volumes.get(ids[0]!)!.holds.size;
      expect(held).toBe(0);
      await cluster.settle();
      expect(frozen()).toEqual([]);
      expect(await cluster.keys()).toEqual({ volume: 2, 'volume-name': 2 });
      expect((await cluster.control.groups.create('g', ids)).snapshots).toHaveLength(2);
    }
  });

  it('is given up when a member could not wait for the slowest', async () => {
    const { cluster, ids, frozen } = await twoVolumes();
    cluster.daemons.hook = (call, node, at) => {
      // One engine answers so late that the other has let its clients go on.
      if (call === 'Freeze' && node === 'n1' && at === 'after') cluster.clock.nowMs += 60_000;
    };
    expect((await failure(cluster.control.groups.create('g', ids))).code).toBe('ABORTED');
    await cluster.settle();
    expect(frozen()).toEqual([]);
    expect((await cluster.keys()).snapshot).toBeUndefined();
  });

  it('refuses other volumes under the same name, unknown ones and none', async () => {
    const { cluster, ids } = await twoVolumes();
    await cluster.control.groups.create('g', ids);
    expect((await failure(cluster.control.groups.create('g', [ids[0]!]))).code).toBe('ALREADY_EXISTS');
    expect((await failure(cluster.control.groups.create('h', [ids[0]!, 'nothing']))).code).toBe('NOT_FOUND');
    await expect(async () => cluster.control.groups.create('h', [])).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    await expect(async () => cluster.control.groups.create('h', [ids[0]!, ids[0]!])).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    expect(await cluster.keys()).toMatchObject({ group: 1, 'group-name': 1, snapshot: 2 });
  });

  it('goes with all its members and not member by member', async () => {
    const { cluster, ids, frozen } = await twoVolumes();
    const { group, snapshots } = await cluster.control.groups.create('g', ids);
    const [first] = snapshots;
    expect((await failure(cluster.control.snapshots.delete(first!.id))).code).toBe('INVALID_ARGUMENT');
    expect((await failure(cluster.control.groups.get(group.id, [first!.id]))).code).toBe('INVALID_ARGUMENT');
    expect((await failure(cluster.control.groups.delete(group.id, ['x']))).code).toBe('INVALID_ARGUMENT');
    const restored = await cluster.create('restored', { source: { kind: 'snapshot', id: first!.id } });
    expect(restored.state).toBe('ready');
    await cluster.control.groups.delete(group.id, []);
    await cluster.control.groups.delete(group.id, []);
    expect(frozen()).toEqual([]);
    expect((await failure(cluster.control.groups.get(group.id, []))).code).toBe('NOT_FOUND');
    expect(await cluster.keys()).toEqual({ volume: 3, 'volume-name': 3 });
  });
});

describe('a snapshot', () => {
  it('belongs to one volume by its name, and shows one instant', async () => {
    const { cluster, ids } = await twoVolumes();
    const first = await cluster.control.snapshots.create('s', ids[0]!);
    cluster.clock.nowMs += 5_000;
    for (const node of cluster.daemons.nodes.values()) node.up = false;
    expect(await cluster.control.snapshots.create('s', ids[0]!)).toEqual(first);
    expect((await failure(cluster.control.snapshots.create('s', ids[1]!))).code).toBe('ALREADY_EXISTS');
    expect((await failure(cluster.control.snapshots.create('t', 'nothing'))).code).toBe('NOT_FOUND');
  });

  it('is not deleted under a clone that is being made from it', async () => {
    const { cluster, ids } = await twoVolumes();
    const snapshot = await cluster.control.snapshots.create('s', ids[0]!);
    let refused: Promise<unknown> = Promise.resolve();
    cluster.daemons.hook = async (call, _node, at) => {
      if (call === 'Clone' && at === 'before') refused = failure(cluster.control.snapshots.delete(snapshot.id));
      await refused;
    };
    await cluster.create('clone', { source: { kind: 'snapshot', id: snapshot.id } });
    expect(await refused).toMatchObject({ code: 'FAILED_PRECONDITION' });
    await cluster.control.snapshots.delete(snapshot.id);
  });

  it('and its volume are not deleted under a clone of the volume', async () => {
    const cluster = await TestCluster.make();
    const ids = [(await cluster.create('a')).id as string];
    let refused: Promise<unknown> = Promise.resolve();
    cluster.daemons.hook = async (call, _node, at) => {
      if (call === 'Clone' && at === 'before') refused = failure(cluster.control.volumes.delete(ids[0]!));
      await refused;
    };
    await cluster.create('clone', { source: { kind: 'volume', id: ids[0]! } });
    expect(await refused).toMatchObject({ code: 'FAILED_PRECONDITION' });
    await cluster.control.volumes.delete(ids[0]!);
  });

  it('of a clone that could not be made is gone at once', async () => {
    const { cluster, ids, frozen } = await twoVolumes();
    cluster.daemons.hook = (call) => {
      if (call === 'Clone') throw new HoldfastError('RESOURCE_EXHAUSTED', 'no inodes left');
    };
    const error = await failure(cluster.create('clone', { source: { kind: 'volume', id: ids[0]! } }));
    expect(error.message).toContain('no inodes left');
    expect(frozen()).toEqual([]);
    expect(await cluster.keys()).toEqual({ volume: 2, 'volume-name': 2 });
  });

  it('pages stay good while things come and go', async () => {
    const { cluster, ids } = await twoVolumes();
    for (let n = 0; n < 5; n++) await cluster.control.snapshots.create(`s${n}`, ids[0]!);
    const any = { snapshotId: '', sourceVolumeId: '' };
    const first = await cluster.control.snapshots.list(any, { maxEntries: 2, startingToken: '' });
    await cluster.control.snapshots.delete(first.items[1]!.id);
    const rest = await cluster.control.snapshots.list(any, { maxEntries: 0, startingToken: first.nextToken });
    expect(rest.items).toHaveLength(3);
    expect(rest.nextToken).toBe('');
    const all = await cluster.control.snapshots.list(
      { ...any, sourceVolumeId: ids[0]! },
      { maxEntries: 4, startingToken: '' },
    );
    expect([all.items.length, all.nextToken]).toEqual([4, '']);
    for (const token of ['invalid-token', 'after-', 'after-../x']) {
      expect((await failure(cluster.control.snapshots.list(any, { maxEntries: 0, startingToken: token }))).code).toBe(
        'ABORTED',
      );
    }
    expect((await failure(cluster.control.snapshots.list(any, { maxEntries: -1, startingToken: '' }))).code).toBe(
      'INVALID_ARGUMENT',
    );
  });
});
