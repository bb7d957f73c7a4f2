// A metadata store to which a newer release has written, too: each record, and each item of a record's lists, has a field that this one
// does not know. Whoever writes a record must keep them.

import type { JsonObject, MetadataStore, MetaEntry, SwapResult } from '../../src/meta/index.js';

const FIELD = 'ofTheNextRelease';
const lists = ['replicas', 'publications', 'members', 'pools'] as const;

type Item = Record<string, unknown>;

function items(value: Item, list: string): Item[] {
  const found = value[list];
  return Array.isArray(found) ? (found as Item[]).filter((item) => typeof item === 'object' && item !== null) : [];
}

const idOf = (item: Item) => JSON.stringify(item.id ?? item.snapshotId ?? item.nodeId ?? null);

/** As the newer release would have it. */
function withFields(value: Item): Item {
  const changed: Item = { ...value, [FIELD]: value[FIELD] ?? { why: 'not known here' } };
  for (const list of lists)
    if (Array.isArray(value[list]))
      changed[list] = items(value, list).map((item) => ({ ...item, [FIELD]: item[FIELD] ?? 7 }));
  return changed;
}

/** What was dropped, or null. */
function lostFields(before: Item, after: Item): string | null {
  if (before[FIELD] !== undefined && after[FIELD] === undefined) return 'its own';
  for (const list of lists) {
    const known = new Map(items(after, list).map((item) => [idOf(item), item]));
    for (const item of items(before, list)) {
      const now = known.get(idOf(item));
      if (item[FIELD] !== undefined && now !== undefined && now[FIELD] === undefined)
        return `that of ${list} ${idOf(item)}`;
    }
  }
  return null;
}

export function newerRecords(store: MetadataStore, dropped: (what: string) => void): MetadataStore {
  return {
    get: (key) => store.get(key),
    list: (prefix, options) => store.list(prefix, options),
    watch: (...rest) => store.watch(...rest),
    version: () => store.version(),
    close: () => store.close(),
    async compareAndSwap<T extends object = JsonObject>(
      key: string,
      expected: number,
      value: T | undefined,
      operation?: string,
    ): Promise<SwapResult<T>> {
      if (value === undefined) return await store.compareAndSwap<T>(key, expected, value, operation);
      const before: MetaEntry | undefined = expected === 0 ? undefined : await store.get(key);
      if (before?.version === expected) {
        const lost = lostFields(before.value as Item, value as Item);
        if (lost !== null) dropped(`${key} was written without a field it had: ${lost}`);
      }
      return await store.compareAndSwap<T>(key, expected, withFields(value as Item) as T, operation);
    },
  };
}
