// Typed access to the records of the metadata store. No state of its own. Every change is a compare-and-swap; a step passed
// to change() is repeated while others are faster.

import type { Clock, GroupId, NodeId, SnapshotId, VolumeId } from '../base/index.js';
import {
  type GroupRecord,
  keyOf,
  type MetadataStore,
  type NameRecord,
  type NodeRecord,
  type Selection,
  type SnapshotRecord,
  update,
  type VolumeRecord,
} from '../meta/index.js';
import { PAGE_ENTRIES } from './limits.js';

/**
 * What a snapshot knows beside the common record. Members of a group have no name; nor has the snapshot a clone of a volume
 * starts from, which stays `creating` until the clone is made and is then deleted.
 */
export type SnapshotEntry = SnapshotRecord & {
  /** Whether the volume had a filesystem when it was frozen: a clone of a blank snapshot must be formatted, others never. */
  readonly formatted?: VolumeRecord['formatted'];
};

export interface NameEntry {
  readonly key: string;
  readonly version: number;
  readonly name: string;
  readonly id: string;
}

export class Records {
  readonly store: MetadataStore;
  readonly #clock: Clock;

  constructor(store: MetadataStore, clock: Clock) {
    this.store = store;
    this.#clock = clock;
  }

  async volume(id: VolumeId): Promise<VolumeRecord | undefined> {
    return (await this.store.get<VolumeRecord>(keyOf.volume(id)))?.value;
  }

  async snapshot(id: SnapshotId): Promise<SnapshotEntry | undefined> {
    return (await this.store.get<SnapshotEntry>(keyOf.snapshot(id)))?.value;
  }

  async group(id: GroupId): Promise<GroupRecord | undefined> {
    return (await this.store.get<GroupRecord>(keyOf.group(id)))?.value;
  }

  async node(id: NodeId): Promise<NodeRecord | undefined> {
    return (await this.store.get<NodeRecord>(keyOf.node(id)))?.value;
  }

  async name(key: string): Promise<NameEntry | undefined> {
    const entry = await this.store.get<NameRecord>(key);
    return entry && { key, version: entry.version, name: entry.value.name, id: entry.value.id };
  }

  volumes(): Promise<VolumeRecord[]> {
    return this.#all<VolumeRecord>('volume/');
  }

  /** Not ready, whatever the reason. */
  unfinishedVolumes(): Promise<VolumeRecord[]> {
    return this.#all<VolumeRecord>('volume/', { unfinished: true });
  }

  unfinishedSnapshots(): Promise<SnapshotEntry[]> {
    return this.#all<SnapshotEntry>('snapshot/', { unfinished: true });
  }

  unfinishedGroups(): Promise<GroupRecord[]> {
    return this.#all<GroupRecord>('group/', { unfinished: true });
  }

  nodes(): Promise<NodeRecord[]> {
    return this.#all<NodeRecord>('node/');
  }

  async names(prefix: 'volume-name/' | 'snapshot-name/' | 'group-name/'): Promise<NameEntry[]> {
    const found: NameEntry[] = [];
    for await (const { key, version, value } of this.#entries<NameRecord>(prefix)) {
      found.push({ key, version, name: value.name, id: value.id });
    }
    return found;
  }

  /** Whether any snapshot of the volume is left, in whatever state. */
  async hasSnapshots(volumeId: VolumeId): Promise<boolean> {
    const { entries } = await this.store.list('snapshot/', { limit: 1, only: { volumeId } });
    return entries.length > 0;
  }

  /** Writes a record that must not exist yet; false when it does. */
  async create<T extends object>(key: string, value: T): Promise<boolean> {
    return (await this.store.compareAndSwap<T>(key, 0, value)).ok;
  }

  /**
   * Replaces a record by what `step` makes of it: undefined deletes it, 'unchanged' leaves it. Resolves to the record as it
   * then is; undefined when there is none.
   */
  async change<T extends object>(key: string, step: (value: T) => T | undefined | 'unchanged'): Promise<T | undefined> {
    const options = { clock: this.#clock };
    const result = await update<T>(
      this.store,
      key,
      (value) => (value === undefined ? 'unchanged' : step(value)),
      options,
    );
    return result.value;
  }

  /** Frees a name, if it still belongs to `id`. */
  async freeName(key: string, id: string): Promise<void> {
    await this.change<NameRecord>(key, (entry) => (entry.id === id ? undefined : 'unchanged'));
  }

  async #all<T extends object>(prefix: string, only?: Selection): Promise<T[]> {
    const found: T[] = [];
    for await (const entry of this.#entries<T>(prefix, only)) found.push(entry.value);
    return found;
  }

  async *#entries<T extends object>(prefix: string, only?: Selection) {
    let startAfter: string | undefined;
    for (;;) {
      const { entries } = await this.store.list<T>(prefix, { limit: PAGE_ENTRIES, startAfter, only });
      yield* entries;
      const last = entries.at(-1);
      if (last === undefined || entries.length < PAGE_ENTRIES) return;
      startAfter = last.key;
    }
  }
}
