// One suite for every metadata back end: what the port promises, each promise once.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { HoldfastError, realClock, realRandom, silentLogger, unavailable } from '../../src/base/index.js';
import {
  type JsonObject,
  type MetadataStore,
  metadataService,
  openMemoryStore,
  openRemoteStore,
  openSqliteStore,
  type Selection,
  update,
  VALUE_BYTES_MAX,
  type WatchEvent,
} from '../../src/meta/index.js';
import { createServer, type Server } from '../../src/rpc/index.js';

interface Harness {
  readonly store: MetadataStore;
  /** Ends what holds the data as a crash-free restart would, and starts it again; the store to use from then on. */
  restart?(): Promise<MetadataStore>;
  stop(): Promise<void>;
}

let folder: string;
const cleanups: (() => unknown)[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'holdfast-meta-'));
});

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
  rmSync(folder, { recursive: true, force: true });
});

const openFile = () => openSqliteStore({ file: join(folder, 'meta.db'), random: realRandom });
const address = () => `unix://${folder}/meta.sock`;

function serve(store: MetadataStore): Promise<Server> {
  return createServer({
    address: address(),
    services: [metadataService(store)],
    logger: silentLogger,
    clock: realClock,
  });
}

function connect(deadlineMs = 10_000): MetadataStore {
  return openRemoteStore({
    address: address(),
    clock: realClock,
    random: realRandom,
    logger: silentLogger,
    deadlineMs,
  });
}

const backEnds: Record<string, () => Promise<Harness>> = {
  async memory() {
    const store = openMemoryStore();
    return { store, stop: () => store.close() };
  },
  async sqlite() {
    let store = await openFile();
    return {
      store,
      async restart() {
        await store.close();
        store = await openFile();
        return store;
      },
      stop: () => store.close(),
    };
  },
  async 'remote over sqlite'() {
    let local = await openFile();
    let server = await serve(local);
    const store = connect();
    return {
      store,
      async restart() {
        await server.close(50);
        await local.close();
        local = await openFile();
        server = await serve(local);
        return store;
      },
      async stop() {
        await store.close();
        await server.close(50);
        await local.close();
      },
    };
  },
};

async function put(store: MetadataStore, key: string, value: JsonObject, expected = 0): Promise<number> {
  const swapped = await store.compareAndSwap(key, expected, value);
  if (!swapped.ok) throw new Error(`${key} is at ${swapped.current?.version}, not ${expected}`);
  return swapped.version;
}

/** `store` with some methods replaced. */
function altered(store: MetadataStore, methods: Partial<MetadataStore>): MetadataStore {
  return {
    get: (key) => store.get(key),
    list: (prefix, options) => store.list(prefix, options),
    compareAndSwap: (key, expected, value, operationId) => store.compareAndSwap(key, expected, value, operationId),
    watch: (prefix, fromVersion, listener, signal) => store.watch(prefix, fromVersion, listener, signal),
    version: () => store.version(),
    close: () => store.close(),
    ...methods,
  };
}

/** What a reader who lists once and then follows the watch believes the store to hold. */
async function mirror(store: MetadataStore, prefix: string, signal: AbortSignal) {
  const state = new Map<string, JsonObject>();
  const events: WatchEvent[] = [];
  const relist = async () => {
    const { entries, version } = await store.list(prefix);
    state.clear();
    for (const entry of entries) state.set(entry.key, entry.value);
    return version;
  };
  let listed = await relist();
  const listener = async (batch: readonly WatchEvent[]) => {
    for (const event of batch) {
      events.push(event);
      if (event.type === 'resync') listed = await relist();
      else if (event.version <= listed) continue;
      else if (event.type === 'put') state.set(event.entry.key, event.entry.value);
      else state.delete(event.key);
    }
  };
  const done = store.watch(prefix, listed, listener, signal);
  return { state, events, done };
}

async function contents(store: MetadataStore, prefix: string): Promise<[string, JsonObject][]> {
  return (await store.list(prefix)).entries.map((entry) => [entry.key, entry.value]);
}

describe.each(Object.keys(backEnds))('metadata store: %s', (name) => {
  let harness: Harness;
  let store: MetadataStore;

  beforeEach(async () => {
    harness = await backEnds[name]!();
    store = harness.store;
    cleanups.push(() => harness.stop());
  });

  it('creates, reads, changes and deletes by version, and shows the entry in the way', async () => {
    expect(await store.version()).toBe(0);
    expect(await store.get('volume/a')).toBeUndefined();
    expect(await store.compareAndSwap('volume/a', 0, { size: 1 })).toEqual({ ok: true, version: 1 });
    expect(await store.get('volume/a')).toEqual({ key: 'volume/a', version: 1, value: { size: 1 } });
    expect(await store.compareAndSwap('volume/a', 0, { size: 2 })).toEqual({
      ok: false,
      current: { key: 'volume/a', version: 1, value: { size: 1 } },
    });
    expect(await store.compareAndSwap('volume/b', 1, { size: 2 })).toEqual({ ok: false, current: undefined });
    expect(await store.compareAndSwap('volume/a', 1, { size: 2 })).toEqual({ ok: true, version: 2 });
    expect(await store.compareAndSwap('volume/a', 1, undefined)).toMatchObject({ ok: false, current: { version: 2 } });
    expect(await store.compareAndSwap('volume/a', 2, undefined)).toEqual({ ok: true, version: 3 });
    expect(await store.get('volume/a')).toBeUndefined();
    expect(await store.compareAndSwap('volume/a', 2, { size: 9 })).toEqual({ ok: false, current: undefined });
    expect(await put(store, 'volume/a', { size: 3 })).toBe(4);
    expect(await store.version()).toBe(4);
  });

  it('keeps values as they are and apart from what reader and writer do with theirs', async () => {
    const value = { text: 'ü\u0000"\n\ud800', list: [1, null, { deep: -0.5 }], yes: true, gone: undefined };
    const expected = JSON.parse(JSON.stringify(value));
    await put(store, 'volume/a', value);
    value.list.length = 0;
    const first = (await store.get<typeof value>('volume/a'))!;
    expect(first.value).toEqual(expected);
    first.value.list.push(7);
    expect((await store.get('volume/a'))!.value).toEqual(expected);
    expect((await store.list('volume/')).entries[0]!.value).toEqual(expected);
  });

  it('lists by the bytes of the keys, by prefix and in pages', async () => {
    const ids = ['b', 'B', 'a.b', 'a', 'a-b', 'a_b', 'a0', 'Z', '0', '@', 'az', 'zz'];
    for (const id of ids) await put(store, `volume/${id}`, { id });
    await put(store, 'volume-name/a', {});
    await put(store, 'snapshot/a', {});
    const sorted = ids.map((id) => `volume/${id}`).sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    const all = await store.list('volume/');
    expect(all.entries.map((entry) => entry.key)).toEqual(sorted);
    expect(all.version).toBe(14);
    expect((await store.list('volume/a')).entries.length).toBe(6);
    expect((await store.list('')).entries.map((entry) => entry.key)).toEqual([
      'snapshot/a',
      'volume-name/a',
      ...sorted,
    ]);
    const paged: string[] = [];
    for (let startAfter: string | undefined; ; startAfter = paged.at(-1)) {
      const { entries } = await store.list('volume/', { limit: 4, startAfter });
      paged.push(...entries.map((entry) => entry.key));
      if (entries.length < 4) break;
    }
    expect(paged).toEqual(sorted);
    expect((await store.list('group/')).entries).toEqual([]);
  });

  it('lists what is unfinished and what belongs to a volume, in pages like everything', async () => {
    const states = ['ready', 'creating', 'deleting', undefined, null, 'snapshots-only'] as const;
    const made = Array.from({ length: 60 }, (_, i) => ({
      id: String(i).padStart(2, '0'),
      state: states[i % states.length],
      ...(i % 2 === 0 ? { volumeId: `v${i % 8}` } : {}),
      other: { state: 'creating', volumeId: 'v0' },
    }));
    for (const value of made) await put(store, `snapshot/${value.id}`, value);
    await put(store, 'volume/a', { state: 'creating', volumeId: 'v0' });
    await put(store, 'snapshot-name/a', { volumeId: 'v0' });
    const listed = async (only: Selection, limit = 1_000, startAfter?: string) =>
      (await store.list<{ id: string }>('snapshot/', { only, limit, startAfter })).entries.map(({ value }) => value.id);
    const unfinished = made.filter(({ state }) => typeof state === 'string' && state !== 'ready').map(({ id }) => id);
    const ofV0 = made.filter(({ volumeId }) => volumeId === 'v0').map(({ id }) => id);
    expect(unfinished.length).toBe(30);
    expect(ofV0.length).toBe(8);
    expect(await listed({ unfinished: true })).toEqual(unfinished);
    expect(await listed({ volumeId: 'v0' })).toEqual(ofV0);
    expect(await listed({ volumeId: 'v1' })).toEqual([]);
    expect(await listed({ unfinished: true }, 7)).toEqual(unfinished.slice(0, 7));
    expect(await listed({ unfinished: true }, 7, `snapshot/${unfinished[6]}`)).toEqual(unfinished.slice(7, 14));
    expect(await listed({ volumeId: 'v0' }, 3, `snapshot/${ofV0[4]}`)).toEqual(ofV0.slice(5));
    // Members that come, change and go.
    const { entries } = await store.list<Record<string, unknown>>('snapshot/', {
      only: { unfinished: true },
      limit: 2,
    });
    const [first, second] = entries.map(({ key, version, value }) => ({ key, version, value })) as [
      (typeof entries)[number],
      (typeof entries)[number],
    ];
    await store.compareAndSwap(first.key, first.version, { ...first.value, state: 'ready', volumeId: 'v1' });
    await store.compareAndSwap(second.key, second.version, undefined);
    expect(await listed({ unfinished: true })).toEqual(unfinished.slice(2));
    expect(await listed({ volumeId: 'v1' })).toEqual([first.value.id]);
    await expect(store.list('snapshot/', { only: { volumeId: '' } })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  it.runIf(name.startsWith('remote'))('lists more than one message can carry', async () => {
    const big = 'x'.repeat(VALUE_BYTES_MAX - 100);
    await Promise.all(
      Array.from({ length: 70 }, (_, i) => put(store, `volume/${String(i).padStart(3, '0')}`, { i, big })),
    );
    const { entries } = await store.list<{ i: number; big: string }>('volume/');
    expect(entries.map((entry) => entry.value.i)).toEqual(Array.from({ length: 70 }, (_, i) => i));
    expect(entries.every((entry) => entry.value.big.length === big.length)).toBe(true);
  });

  it('refuses what is no key, prefix, version or value, and changes nothing', async () => {
    const keys = [
      '',
      'volume',
      'volume/',
      '/a',
      'Volume/a',
      'volume/a/b',
      'volume/a b',
      'volume/ü',
      `volume/${'x'.repeat(254)}`,
    ];
    for (const key of [...keys, 'volume/a\n', 'volume/..%2f']) {
      await expect(store.get(key), key).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      await expect(store.compareAndSwap(key, 0, {}), key).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    for (const prefix of ['volume', 'volume/a/', 'vol%', '*']) {
      await expect(store.list(prefix), prefix).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
      const watching = store.watch(prefix, 0, () => {}, new AbortController().signal);
      await expect(watching).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    const cyclic: Record<string, unknown> = {};
    cyclic.self = cyclic;
    const values: unknown[] = [
      [],
      'text',
      null,
      { n: Number.NaN },
      { n: Number.POSITIVE_INFINITY },
      { f: () => 1 },
      cyclic,
    ];
    values.push({ b: 1n }, { d: new Date(0) }, { b: Buffer.from('x') }, { list: [undefined] }, new Map());
    values.push({ text: 'x'.repeat(VALUE_BYTES_MAX) }, { text: 'ü'.repeat(VALUE_BYTES_MAX / 2) });
    for (const value of values) {
      await expect(store.compareAndSwap('volume/a', 0, value as object)).rejects.toMatchObject({
        code: 'INVALID_ARGUMENT',
      });
    }
    for (const version of [-1, 1.5, Number.NaN, 2 ** 53]) {
      await expect(store.compareAndSwap('volume/a', version, {})).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    await expect(store.compareAndSwap('volume/a', 0, undefined)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(store.list('volume/', { limit: 0 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(await store.version()).toBe(0);
    expect((await store.list('')).entries).toEqual([]);
    const full = { text: 'x'.repeat(VALUE_BYTES_MAX - '{"text":""}'.length) };
    expect(await put(store, `volume/${'x'.repeat(253)}`, full)).toBe(1);
  });

  it('lets exactly one of 100 parallel swaps win, each time', async () => {
    let version = 0;
    for (let round = 0; round < 2; round++) {
      const tries = Array.from({ length: 100 }, (_, i) => store.compareAndSwap('volume/a', version, { round, i }));
      const results = await Promise.all(tries);
      const winners = results.flatMap((result, i) => (result.ok ? [{ i, version: result.version }] : []));
      expect(winners.length).toBe(1);
      const losers = results.filter((result) => !result.ok);
      expect(losers.every((result) => result.current?.value.i === winners[0]!.i)).toBe(true);
      version = winners[0]!.version;
      expect(await store.get('volume/a')).toEqual({ key: 'volume/a', version, value: { round, i: winners[0]!.i } });
    }
    expect(await store.version()).toBe(2);
  });

  it('gives 100 parallel changes of different keys 100 different versions', async () => {
    const results = await Promise.all(Array.from({ length: 100 }, (_, i) => put(store, `volume/${i}`, { i })));
    expect(results.sort((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, i) => i + 1));
    const { entries, version } = await store.list('volume/');
    expect(version).toBe(100);
    expect(new Set(entries.map((entry) => entry.version)).size).toBe(100);
  });

  it('loses no update of 12 parallel read-change-writes', async () => {
    const add = () =>
      update<{ n: number }>(store, 'volume/a', (value) => ({ n: (value?.n ?? 0) + 1 }), {
        clock: realClock,
        attempts: 40,
      });
    await Promise.all(Array.from({ length: 12 }, add));
    expect((await store.get('volume/a'))?.value).toEqual({ n: 12 });
  });

  it('carries out a repeated operation once', async () => {
    const create = () => store.compareAndSwap('volume/a', 0, { n: 1 }, 'op-1');
    expect(await create()).toEqual({ ok: true, version: 1 });
    expect(await create()).toEqual({ ok: true, version: 1 });
    await put(store, 'volume/a', { n: 2 }, 1);
    // Replaced by another change since, and still known to have been carried out.
    expect(await create()).toEqual({ ok: true, version: 1 });
    const remove = () => store.compareAndSwap('volume/a', 2, undefined, 'op-2');
    expect(await remove()).toEqual({ ok: true, version: 3 });
    expect(await remove()).toEqual({ ok: true, version: 3 });
    expect(await store.compareAndSwap('volume/a', 2, undefined, 'op-3')).toMatchObject({ ok: false });
    expect(await store.version()).toBe(3);
  });

  it('shows a watcher every change under its prefix, from the past on, in order and once', async () => {
    await put(store, 'volume/a', { n: 1 });
    await put(store, 'volume/a', { n: 2 }, 1);
    await put(store, 'volume-name/a', {});
    const seen: WatchEvent[] = [];
    const stop = new AbortController();
    const done = store.watch('volume/', 1, (events) => void seen.push(...events), stop.signal);
    const writers = Array.from({ length: 5 }, async (_, w) => {
      for (let n = 0; n < 12; n++) {
        const version = await put(store, `volume/w${w}`, { n });
        await store.compareAndSwap(`volume/w${w}`, version, undefined);
        await put(store, `snapshot/w${w}-${n}`, {});
      }
    });
    await Promise.all(writers);
    await expect.poll(() => seen.length, { timeout: 5000 }).toBe(1 + 5 * 24);
    expect(seen[0]).toEqual({ type: 'put', version: 2, entry: { key: 'volume/a', version: 2, value: { n: 2 } } });
    const versions = seen.map((event) => event.version);
    expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));
    for (let w = 0; w < 5; w++) {
      const own = seen.filter(
        (event) => (event.type === 'put' ? event.entry.key : event.type === 'delete' && event.key) === `volume/w${w}`,
      );
      const steps = own.map((event) => (event.type === 'put' ? event.entry.value.n : 'gone'));
      expect(steps).toEqual(Array.from({ length: 24 }, (_, i) => (i % 2 === 0 ? i / 2 : 'gone')));
    }
    stop.abort();
    await done;
    await put(store, 'volume/late', {});
    await realClock.sleep(20);
    expect(seen.length).toBe(121);
  });

  it('does not run ahead of a slow listener', async () => {
    const stop = new AbortController();
    let running = 0;
    let most = 0;
    const seen: number[] = [];
    const listener = async (events: readonly WatchEvent[]) => {
      most = Math.max(most, ++running);
      await realClock.sleep(15);
      seen.push(...events.map((event) => event.version));
      running--;
    };
    const done = store.watch('', 0, listener, stop.signal);
    for (let i = 0; i < 40; i++) await put(store, `volume/${i}`, {});
    await expect.poll(() => seen.length, { timeout: 5000 }).toBe(40);
    expect(seen).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(most).toBe(1);
    stop.abort();
    await done;
  });

  it('tells a watcher from the future to resync, and goes on from there', async () => {
    await put(store, 'volume/a', {});
    const seen: WatchEvent[] = [];
    const stop = new AbortController();
    const done = store.watch('', 1000, (events) => void seen.push(...events), stop.signal);
    await expect.poll(() => seen).toEqual([{ type: 'resync', version: 1 }]);
    await put(store, 'volume/b', {});
    await expect.poll(() => seen.at(1)).toMatchObject({ type: 'put', version: 2 });
    stop.abort();
    await done;
  });

  it('ends a watch by signal, by its listener and by close', async () => {
    const aborted = new AbortController();
    aborted.abort();
    await store.watch('', 0, () => {}, aborted.signal);
    const failing = expect(
      store.watch('', 0, () => Promise.reject(new Error('listener')), new AbortController().signal),
    ).rejects.toThrow('listener');
    await put(store, 'volume/a', {});
    await failing;
    const open = store.watch('', 1, () => {}, new AbortController().signal);
    await store.close();
    await store.close();
    await open;
    await expect(store.get('volume/a')).rejects.toMatchObject({ code: 'UNAVAILABLE', reason: 'Closed' });
    await expect(store.compareAndSwap('volume/a', 1, {})).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      reason: 'Closed',
    });
  });

  it.skipIf(name === 'memory')('keeps entries and versions over a restart', async () => {
    await put(store, 'volume/a', { n: 1 }, 0);
    await put(store, 'volume/b', { n: 2 });
    await store.compareAndSwap('volume/b', 2, undefined);
    const swapped = await store.compareAndSwap('volume/c', 0, { n: 3 }, 'op-c');
    expect(swapped).toEqual({ ok: true, version: 4 });
    store = await harness.restart!();
    expect(await store.version()).toBe(4);
    expect(await contents(store, '')).toEqual([
      ['volume/a', { n: 1 }],
      ['volume/c', { n: 3 }],
    ]);
    // Known from the entry itself, now that the recent past is gone.
    expect(await store.compareAndSwap('volume/c', 0, { n: 3 }, 'op-c')).toEqual({ ok: true, version: 4 });
    // A version is never given twice, not even that of a deletion.
    expect(await put(store, 'volume/d', {})).toBe(5);
  });

  it.skipIf(name === 'memory')('tells a watcher from before the restart to resync', async () => {
    await put(store, 'volume/a', {});
    await put(store, 'volume/a', {}, 1);
    store = await harness.restart!();
    const seen: WatchEvent[] = [];
    const stop = new AbortController();
    const done = store.watch('', 1, (events) => void seen.push(...events), stop.signal);
    await expect.poll(() => seen, { timeout: 5000 }).toEqual([{ type: 'resync', version: 2 }]);
    stop.abort();
    await done;
  });
});

describe('remote store', () => {
  it('loses no change over cut connections and restarts of the controller', async () => {
    let local = await openFile();
    let server = await serve(local);
    const store = connect(20_000);
    const stop = new AbortController();
    cleanups.push(async () => {
      stop.abort();
      await store.close();
      await server.close(0);
      await local.close();
    });
    const { state, events, done } = await mirror(store, 'volume/', stop.signal);
    let acknowledged = 0;
    let unknown = 0;
    const writer = (async () => {
      for (let i = 0; i < 120; i++) {
        const key = `volume/${i % 7}`;
        const current = await store.get(key);
        const value = i % 5 === 4 && current !== undefined ? undefined : { i };
        try {
          await store.compareAndSwap(key, current?.version ?? 0, value);
          acknowledged++;
        } catch (error) {
          // Allowed by the port while the controller goes and comes; it must stay the exception.
          expect(error).toMatchObject({ code: 'ABORTED', reason: 'Conflict' });
          unknown++;
        }
        await realClock.sleep(8);
      }
    })();
    for (let round = 0; round < 4; round++) {
      await realClock.sleep(150);
      await server.close(0);
      if (round % 2 === 1) {
        await local.close();
        local = await openFile();
        // Changes that nobody can watch, and that the store has forgotten the history of.
        await update(local, 'volume/unseen', () => ({ round }), { clock: realClock });
        await local.close();
        local = await openFile();
      }
      server = await serve(local);
    }
    await writer;
    expect(acknowledged).toBeGreaterThan(100);
    expect(unknown).toBeLessThan(10);
    await expect.poll(() => [...state].sort(), { timeout: 8000 }).toEqual(await contents(local, 'volume/'));
    expect(state.get('volume/unseen')).toEqual({ round: 3 });
    const versions = events.filter((event) => event.type !== 'resync').map((event) => event.version);
    expect(versions).toEqual([...new Set(versions)].sort((a, b) => a - b));
    expect(events.some((event) => event.type === 'resync')).toBe(true);
    stop.abort();
    await done;
  }, 30_000);

  it('lists page by page with a version from which a watch misses nothing', async () => {
    const local = openMemoryStore();
    for (let i = 0; i < 300; i++) await put(local, `volume/${1000 + i}`, { i });
    let pages = 0;
    const changing = altered(local, {
      list: async (prefix, options) => {
        const page = await local.list(prefix, options);
        // Behind what was just read, where the next page does not look.
        if (++pages === 1) await put(local, 'volume/0', { late: true });
        return page as never;
      },
    });
    const server = await serve(changing);
    cleanups.push(() => server.close(0));
    const store = connect();
    cleanups.push(() => store.close());
    const { entries, version } = await store.list('volume/');
    expect(pages).toBe(2);
    expect(entries.length).toBe(300);
    const seen: WatchEvent[] = [];
    const stop = new AbortController();
    const done = store.watch('volume/', version, (events) => void seen.push(...events), stop.signal);
    await expect.poll(() => seen).toMatchObject([{ type: 'put', entry: { key: 'volume/0' } }]);
    stop.abort();
    await done;
  });

  it('waits for a controller that is away, and gives up at its deadline with a sentence', async () => {
    const store = connect(400);
    cleanups.push(() => store.close());
    const startedMs = realClock.monotonicMs();
    const error = await store.get('volume/a').catch((thrown: unknown) => thrown);
    expect(realClock.monotonicMs() - startedMs).toBeLessThan(2000);
    expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED', reason: 'Deadline' });
    expect((error as HoldfastError).message).toContain(
      `reading volume/a: the controller at ${address()} did not answer`,
    );
    const patient = connect(10_000);
    cleanups.push(() => patient.close());
    const waiting = put(patient, 'volume/a', { n: 1 });
    await realClock.sleep(200);
    const local = openMemoryStore();
    const server = await serve(local);
    cleanups.push(() => server.close(0));
    expect(await waiting).toBe(1);
  });

  it('sends a change again whose answer was lost, and it takes effect once', async () => {
    const local = openMemoryStore();
    let lose = true;
    let sent = 0;
    const forgetful = altered(local, {
      compareAndSwap: async (...args) => {
        sent++;
        const result = await local.compareAndSwap(...args);
        if (!lose) return result;
        lose = false;
        throw unavailable('the answer was lost');
      },
    });
    const server = await serve(forgetful);
    cleanups.push(() => server.close(0));
    const store = connect();
    cleanups.push(() => store.close());
    expect(await store.compareAndSwap('volume/a', 0, { n: 1 })).toEqual({ ok: true, version: 1 });
    expect(sent).toBe(2);
    lose = true;
    const entry = (await store.get('volume/a'))!;
    expect(await store.compareAndSwap('volume/a', entry.version, undefined)).toEqual({ ok: true, version: 2 });
    expect(await local.version()).toBe(2);
  });

  it('says so when it cannot know: the answer was lost and someone else is in place', async () => {
    const local = openMemoryStore();
    await put(local, 'volume/a', { by: 'nobody' });
    const other = altered(local, {
      compareAndSwap: async () => {
        const current = await local.get('volume/a');
        if (current?.version !== 1) return { ok: false, current: undefined };
        await local.compareAndSwap('volume/a', 1, { by: 'other' });
        throw unavailable('the answer was lost');
      },
    });
    const server = await serve(other);
    cleanups.push(() => server.close(0));
    const store = connect();
    cleanups.push(() => store.close());
    await expect(store.compareAndSwap('volume/a', 1, { by: 'me' })).rejects.toMatchObject({
      code: 'ABORTED',
      reason: 'Conflict',
    });
  });

  it('passes on a failure of the disk at once', async () => {
    const broken = altered(openMemoryStore(), {
      get: () => Promise.reject(new HoldfastError('UNAVAILABLE', 'the disk is gone', { reason: 'DiskFailed' })),
    });
    const server = await serve(broken);
    cleanups.push(() => server.close(0));
    const store = connect(20_000);
    cleanups.push(() => store.close());
    await expect(store.get('volume/a')).rejects.toMatchObject({ reason: 'DiskFailed', message: 'the disk is gone' });
  });
});

describe('sqlite store', () => {
  it('keeps every acknowledged change when its process is killed in the middle', async () => {
    const root = fileURLToPath(new URL('../..', import.meta.url));
    const built = join(folder, 'built');
    const tsc = [
      'node_modules/typescript/bin/tsc',
      '--ignoreConfig',
      '--noCheck',
      '--target',
      'es2023',
      '--module',
      'nodenext',
    ];
    const args = [...tsc, '--types', 'node', '--rootDir', '.', '--outDir', built, 'test/conformance/meta-writer.ts'];
    const compiled = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8' });
    expect(compiled.stdout + compiled.stderr).toBe('');
    symlinkSync(join(root, 'node_modules'), join(built, 'node_modules'));
    writeFileSync(join(built, 'package.json'), '{"type":"module"}');
    const file = join(folder, 'meta.db');
    const last = new Map<string, { version: number; n: number }>();
    let highest = 0;
    for (let round = 0; round < 3; round++) {
      const child = spawn(process.execPath, [join(built, 'test/conformance/meta-writer.js'), file], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      let lines = 0;
      for await (const line of createInterface({ input: child.stdout })) {
        const [key, version, n] = line.split(' ');
        last.set(key!, { version: Number(version), n: Number(n) });
        highest = Math.max(highest, Number(version));
        if (++lines === 150 + 61 * round) child.kill('SIGKILL');
      }
      expect(lines).toBeGreaterThanOrEqual(150);
      const store = await openSqliteStore({ file, random: realRandom });
      const version = await store.version();
      // At most the changes that were under way are there beside the acknowledged ones.
      expect(version).toBeGreaterThanOrEqual(highest);
      for (const [key, acknowledged] of last) {
        const entry = (await store.get<{ n: number; padding: string }>(key))!;
        expect(entry.version).toBeGreaterThanOrEqual(acknowledged.version);
        expect(entry.value.n).toBeGreaterThanOrEqual(acknowledged.n);
        expect(entry.value.padding.length).toBe((entry.value.n * 37) % 3000);
      }
      highest = version;
      await store.close();
      last.clear();
    }
  }, 30_000);
});
