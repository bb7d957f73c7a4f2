// What the control plane asks of the store must not grow with what the store holds: counted in calls, entries and bytes, not in time.

import { afterEach, describe, expect, it } from 'vitest';
import type { NodeId, SnapshotId, VolumeId } from '../../../src/base/index.js';
import { keyOf, type SnapshotRecord, type VolumeRecord } from '../../../src/meta/index.js';
import { TestClock, TestCluster } from './cluster.js';

interface Cost {
  calls: number;
  entries: number;
  bytes: number;
}

/** Counts what goes over the store's port while `work` runs. */
async function costOf(cluster: TestCluster, work: () => Promise<unknown>): Promise<Cost> {
  const { store } = cluster;
  const cost: Cost = { calls: 0, entries: 0, bytes: 0 };
  const note = (...values: (object | undefined)[]) => {
    cost.calls++;
    cost.entries += values.filter((value) => value !== undefined).length;
    cost.bytes += values.reduce((sum, value) => sum + JSON.stringify(value ?? '').length, 0);
  };
  const { get, list, compareAndSwap } = store;
  store.get = async (key) => {
    const entry = await get.call(store, key);
    note(entry);
    return entry as never;
  };
  store.list = async (prefix, options) => {
    const found = await list.call(store, prefix, options);
    note(...found.entries);
    return found as never;
  };
  store.compareAndSwap = async (key, expected, value, operation) => {
    note(value);
    return compareAndSwap.call(store, key, expected, value, operation) as never;
  };
  try {
    await work();
  } finally {
    Object.assign(store, { get, list, compareAndSwap });
  }
  return cost;
}

describe('with two thousand snapshots of one volume', () => {
  it('creating, finding, listing and deleting one costs what it cost with ten', async () => {
    const cluster = await TestCluster.make();
    const { id } = await cluster.create('vol');
    const other = await cluster.create('other');
    const { snapshots, reconciler } = cluster.control;
    let made = 0;
    // Names and ids of one length, so that bytes can be compared.
    const take = (volumeId: string = id) => snapshots.create(`s-${String(++made).padStart(6, '0')}`, volumeId);
    const fill = async (count: number) => {
      while (made < count) await take();
    };
    const all = { snapshotId: '', sourceVolumeId: '' };
    const page = { maxEntries: 5, startingToken: '' };
    const measure = async () => {
      const spare = await take(other.id);
      const result: Record<string, Cost> = {};
      result.create = await costOf(cluster, () => take());
      result.repeat = await costOf(cluster, () => snapshots.create(spare.name, other.id));
      result.get = await costOf(cluster, () => snapshots.get(spare.id));
      result.listOne = await costOf(cluster, () => snapshots.list({ ...all, snapshotId: spare.id }, page));
      result.listPage = await costOf(cluster, () => snapshots.list(all, page));
      result.listVolume = await costOf(cluster, () => snapshots.list({ ...all, sourceVolumeId: other.id }, page));
      result.delete = await costOf(cluster, () => snapshots.delete(spare.id));
      const orphan = await cluster.create(`gone-${made}`);
      result.deleteVolume = await costOf(cluster, () => cluster.control.volumes.delete(orphan.id));
      return result;
    };
    await fill(10);
    const few = await measure();
    await fill(2_000);
    await reconciler.round();
    const many = await measure();
    for (const [what, cost] of Object.entries(few)) {
      expect(many[what]!.calls, what).toBe(cost.calls);
      expect(many[what]!.entries, what).toBe(cost.entries);
      // Wall times and versions have more digits later.
      expect(many[what]!.bytes, what).toBeLessThan(cost.bytes * 1.05);
    }
    expect(few.create!.calls).toBeLessThanOrEqual(12);
    // Pages still show everything once.
    const seen: string[] = [];
    for (let startingToken = ''; ; ) {
      const { items, nextToken } = await snapshots.list(all, { maxEntries: 300, startingToken });
      expect(items.length).toBeLessThanOrEqual(300);
      seen.push(...items.map((item) => item.id));
      if (nextToken === '') break;
      startingToken = nextToken;
    }
    expect(new Set(seen).size).toBe(seen.length);
    expect(seen.length).toBe(made - 2);
  });
});

/** Sleeps end when the test moves the time. */
class SteppedClock extends TestClock {
  readonly #sleepers = new Set<{ readonly atMs: number; readonly wake: () => void }>();
  override sleep(delayMs: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { atMs: this.nowMs + delayMs, wake: resolve };
      this.#sleepers.add(sleeper);
      signal?.addEventListener('abort', () => {
        this.#sleepers.delete(sleeper);
        reject(signal.reason);
      });
    });
  }
  /** Moves on by `ms`, from sleeper to sleeper. */
  async pass(ms: number): Promise<void> {
    const endMs = this.nowMs + ms;
    for (;;) {
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
      const next = [...this.#sleepers].sort((a, b) => a.atMs - b.atMs)[0];
      if (next === undefined || next.atMs > endMs) break;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      this.#sleepers.delete(next);
      next.wake();
    }
    this.nowMs = endMs;
  }
}

describe('the loop', () => {
  const minute = 60_000;
  const stop: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const end of stop.splice(0)) await end();
  });

  async function looping(): Promise<{ cluster: TestCluster; clock: SteppedClock }> {
    const clock = new SteppedClock();
    const cluster = await TestCluster.make({}, clock);
    const end = new AbortController();
    const running = cluster.control.reconciler.run(end.signal);
    stop.push(async () => {
      end.abort();
      await running;
    });
    await clock.pass(minute);
    await cluster.heartbeats();
    return { cluster, clock };
  }
  it('asks nothing while nothing is unfinished', async () => {
    const { cluster, clock } = await looping();
    await cluster.create('vol');
    await clock.pass(minute);
    const cost = await costOf(cluster, () => clock.pass(50 * minute));
    expect(cost).toEqual({ calls: 0, entries: 0, bytes: 0 });
    const everything = await costOf(cluster, () => clock.pass(20 * minute));
    expect(everything.calls).toBeGreaterThan(0);
  });

  it('sees what is left behind at once, tries it again until it is done, and reads nothing else for it', async () => {
    const { cluster, clock } = await looping();
    const { id } = await cluster.create('vol');
    const ids: SnapshotId[] = [];
    for (let i = 0; i < 200; i++) ids.push((await cluster.control.snapshots.create(`s${i}`, id)).id);
    await clock.pass(minute);
    // As a controller leaves it that died after its first step.
    const entry = (await cluster.store.get<SnapshotRecord>(keyOf.snapshot(ids[7]!)))!;
    for (const node of cluster.daemons.nodes.values()) node.up = false;
    await cluster.store.compareAndSwap(entry.key, entry.version, { ...entry.value, state: 'deleting' });
    const cost = await costOf(cluster, () => clock.pass(minute));
    expect(cost.calls).toBeGreaterThan(10);
    expect(cost.entries).toBeLessThan(100);
    expect(await cluster.store.get(entry.key)).toBeDefined();
    for (const node of cluster.daemons.nodes.values()) node.up = true;
    await cluster.heartbeats();
    await clock.pass(minute);
    expect(await cluster.store.get(entry.key)).toBeUndefined();
    expect(cluster.daemons.volumes.get(id)!.snapshots.has(ids[7]!)).toBe(false);
    expect((await costOf(cluster, () => clock.pass(30 * minute))).calls).toBe(0);
  });

  it('gives up what nobody repeats after its time, without a look in between', async () => {
    const { cluster, clock } = await looping();
    const { id } = await cluster.create('vol');
    const record = (await cluster.store.get<VolumeRecord>(keyOf.volume(id as VolumeId)))!.value;
    const begun = '00000000-0000-4000-8000-00000000bbbb' as VolumeId;
    const replicas = record.replicas.map((replica) => ({ ...replica, nodeId: 'n1' as NodeId }));
    await cluster.store.compareAndSwap<VolumeRecord>(keyOf.volume(begun), 0, {
      ...record,
      id: begun,
      name: 'begun',
      state: 'creating',
      replicas,
      inSync: [],
    });
    await clock.pass(minute);
    expect((await costOf(cluster, () => clock.pass(10 * minute))).calls).toBe(0);
    await cluster.heartbeats();
    await clock.pass(6 * minute);
    await cluster.heartbeats();
    await clock.pass(3 * minute);
    expect(await cluster.keys()).toEqual({ volume: 1, 'volume-name': 1 });
  });

  it('lets a volume go that was kept for a snapshot, when only the record of its last one went', async () => {
    const { cluster, clock } = await looping();
    const { id } = await cluster.create('vol');
    const snapshot = await cluster.control.snapshots.create('s', id);
    await cluster.control.volumes.delete(id);
    await clock.pass(minute);
    expect((await cluster.store.get<VolumeRecord>(keyOf.volume(id as VolumeId)))?.value.state).toBe('snapshots-only');
    await cluster.heartbeats();
    const entry = (await cluster.store.get(keyOf.snapshot(snapshot.id)))!;
    await cluster.store.compareAndSwap(entry.key, entry.version, undefined);
    await clock.pass(20_000);
    expect(await cluster.store.get(keyOf.volume(id as VolumeId))).toBeUndefined();
    expect(cluster.daemons.replicas).toEqual([]);
  });
});
